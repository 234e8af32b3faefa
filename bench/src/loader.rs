//! The jobs of the loader benchmark: `diffusion-bench pictures FOLDER` runs them with
//! FOLDER/pictures and FOLDER/cache.
//!
//! - `make COUNT`: writes COUNT synthetic RGB pictures of 64 × 64 pixels as PNG files; prints 0
//! - `prepare`: pictures per second, decoded, scaled to 32 × 32 and written to an empty cache
//! - `open`: milliseconds to open the data set with a full cache
//! - `load BATCH`: pictures per second from the cache, in shuffled, mirrored batches, over one pass
//! - `memory`: the peak of the resident set in KiB, 0 if unknown

use std::fs;
use std::hint::black_box;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result, bail};
use candle_core::Device;
use diffusion_data::{
    Loader, LoaderConfig, PictureConfig, PreparedDataset, Source, Split, prepare,
};
use diffusion_picture::Picture;

/// The side of the pictures in the files, in pixels.
const SIDE: usize = 64;
/// The side of the prepared pictures, in pixels.
const SIZE: usize = 32;

/// The folder of the pictures and their cache.
pub(crate) struct Pictures {
    folder: PathBuf,
}

impl Pictures {
    pub(crate) fn new(folder: &Path) -> Self {
        Self { folder: folder.to_owned() }
    }

    /// Runs the job of a line and returns its number.
    pub(crate) fn run(&self, job: &str) -> Result<f64> {
        let (word, number) = job.split_once(' ').unwrap_or((job, ""));
        let number = || number.parse().with_context(|| format!("`{job}` needs a number"));
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
            _ => bail!("unknown job `{job}`; known: make, prepare, open, load, memory"),
        }
    }

    /// Writes the files that do not exist yet.
    fn make(&self, count: usize) -> Result<f64> {
        for i in 0..count {
            // Folders of a thousand files, which are also the classes.
            let path = self.folder.join(format!("pictures/{:03}/{i:06}.png", i / 1000));
            if path.exists() {
                continue;
            }
            fs::create_dir_all(path.parent().context("no parent folder")?)?;
            picture(i).write_png(&path)?;
        }
        Ok(0.0)
    }

    fn prepared(&self) -> Result<PreparedDataset> {
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

/// Smooth colours with some grain, which PNG compresses about as well as drawings.
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
