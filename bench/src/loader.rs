//! Jobs about pictures on their way to training: `diffusion-bench pictures FOLDER` does them with FOLDER/pictures and
//! FOLDER/cache.
//!
//! - `make COUNT`: COUNT made-up PNG files of 64 × 64 pixels, RGB; answers with 0
//! - `prepare`: pictures a second, decoded, scaled to 32 × 32 and written to an empty cache
//! - `open`: milliseconds until the set is ready, with a full cache
//! - `load BATCH`: pictures a second from the cache, in shuffled, mirrored batches, over one pass
//! - `memory`: as elsewhere

use std::fs;
use std::hint::black_box;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result, bail};
use candle_core::Device;
use diffusion_data::{Loader, LoaderConfig, PictureConfig, Prepared, Source, Split, prepare};
use diffusion_picture::Picture;

/// Side of the files' pictures, and of those that are trained on.
const SIDE: usize = 64;
const SIZE: usize = 32;

pub(crate) struct Pictures {
    folder: PathBuf,
}

impl Pictures {
    pub(crate) fn new(folder: &Path) -> Self {
        Self { folder: folder.to_owned() }
    }

    pub(crate) fn run(&self, job: &str) -> Result<f64> {
        let (word, number) = job.split_once(' ').unwrap_or((job, ""));
        let number = || number.parse().with_context(|| format!("`{job}` wants a number"));
        match word {
            "make" => self.make(number()?),
            "prepare" => self.prepare(),
            "open" => {
                let begin = Instant::now();
                black_box(self.prepared()?.dataset.fingerprint());
                Ok(super::milliseconds(begin))
            }
            "load" => self.load(number()?),
            "memory" => Ok(super::peak_kib()),
            _ => bail!("`{job}` is not a job: make, prepare, open, load, memory"),
        }
    }

    /// Files that are there already stay.
    fn make(&self, count: usize) -> Result<f64> {
        for i in 0..count {
            // Folders of a thousand, which are classes too.
            let path = self.folder.join(format!("pictures/{:03}/{i:06}.png", i / 1000));
            if path.exists() {
                continue;
            }
            fs::create_dir_all(path.parent().context("a folder")?)?;
            picture(i).write_png(&path)?;
        }
        Ok(0.0)
    }

    fn prepared(&self) -> Result<Prepared> {
        let source = Source::open(&self.folder.join("pictures"), Split::Train)?;
        let cache = self.folder.join("cache");
        let config = PictureConfig::default();
        Ok(prepare(&source, Some(SIZE), &config, Some(&cache), &mut |_| ControlFlow::Continue(()))?)
    }

    fn prepare(&self) -> Result<f64> {
        let cache = self.folder.join("cache");
        if cache.exists() {
            fs::remove_dir_all(&cache)?;
        }
        let begin = Instant::now();
        let prepared = self.prepared()?;
        Ok(prepared.dataset.len() as f64 / begin.elapsed().as_secs_f64())
    }

    fn load(&self, batch_size: usize) -> Result<f64> {
        let dataset = self.prepared()?.dataset;
        let mut loader =
            Loader::new(&dataset, LoaderConfig { flip: true, ..LoaderConfig::new(batch_size, 0) })?;
        let batches = loader.batches_per_epoch();
        let begin = Instant::now();
        for _ in 0..batches {
            black_box(loader.next_batch(&Device::Cpu)?);
        }
        Ok((batches as usize * batch_size) as f64 / begin.elapsed().as_secs_f64())
    }
}

/// Smooth colours with some grain, which PNG packs about as well as drawings.
fn picture(i: usize) -> Picture {
    let wave = |x: usize, y: usize, c: usize| {
        let phase = (i * (c + 1)) as f32 * 0.37;
        let value = (x as f32 * 0.11 + phase).sin() + (y as f32 * 0.07 - phase).cos();
        let grain = (x * 31 + y * 17 + i * 7 + c) % 8;
        (127.5 + 60.0 * value) as u8 / 8 * 8 + grain as u8 / 4
    };
    let at = |i: usize| (i / 3 % SIDE, i / 3 / SIDE, i % 3);
    let pixels = (0..SIDE * SIDE * 3).map(at).map(|(x, y, c)| wave(x, y, c)).collect();
    Picture { width: SIDE, height: SIDE, channels: 3, pixels }
}
