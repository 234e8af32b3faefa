//! What a sampling looks like from step to step.

use std::path::{Path, PathBuf};

use anyhow::Context;
use diffusion_picture::Picture;
use diffusion_report::{Cell, animation, sheet};
use diffusion_sample::Progress;

use crate::session::usage::check_picture;

/// Images that are followed.
const IMAGES: usize = 16;
/// Those of them that the strip shows, and the steps it shows of each.
const ROWS: usize = 4;
const COLUMNS: usize = 10;
/// Pixels that a picture's side has in the strip, at least.
const SIDE: usize = 84;
/// Hundredths of a second for a frame.
const DELAY: u16 = 12;

/// The first images after each step: x, and what it was taken for.
#[derive(Default)]
pub(crate) struct Trajectory {
    folder: Option<PathBuf>,
    gif: Option<PathBuf>,
    strip: Option<PathBuf>,
    steps: Vec<[Vec<Picture>; 2]>,
}

impl Trajectory {
    /// What is wanted: a `folder`, which is made now, for everything; an animation; a strip.
    pub(crate) fn new(
        folder: Option<&Path>,
        gif: Option<&Path>,
        strip: Option<&Path>,
    ) -> anyhow::Result<Self> {
        if let Some(folder) = folder {
            std::fs::create_dir_all(folder)
                .with_context(|| format!("cannot make the folder {}", folder.display()))?;
        }
        for (flag, file, ending) in [("--gif", gif, "gif"), ("--strip", strip, "png")] {
            if let Some(file) = file {
                check_picture(flag, file, &[ending])?;
            }
        }
        let in_folder = |name: &str| folder.map(|folder| folder.join(name));
        Ok(Self {
            gif: gif.map(Path::to_owned).or_else(|| in_folder("trajectory.gif")),
            strip: strip.map(Path::to_owned).or_else(|| in_folder("strip.png")),
            folder: folder.map(Path::to_owned),
            steps: Vec::new(),
        })
    }

    /// Takes a step down.
    pub(crate) fn add(&mut self, progress: &Progress<'_>) -> anyhow::Result<()> {
        if self.gif.is_none() && self.strip.is_none() {
            return Ok(());
        }
        let count = progress.x.dim(0)?.min(IMAGES);
        let pictures = |images: &candle_core::Tensor| {
            diffusion_picture::from_tensor(&images.narrow(0, 0, count)?)
        };
        // At a scale where noise is seen as noise, whatever that of the plan is.
        let x = progress.x.affine(progress.level.to_variance_preserving(), 0.0)?;
        let [x, x0] = [pictures(&x)?, pictures(progress.x0)?];
        if let Some(folder) = &self.folder {
            let name = format!("step-{:04}.png", progress.done);
            diffusion_picture::grid(&x)?.enlarged_for_viewing().write_png(&folder.join(name))?;
        }
        self.steps.push([x, x0]);
        Ok(())
    }

    /// Writes what was wanted.
    pub(crate) fn finish(&self) -> anyhow::Result<()> {
        if let Some(path) = &self.strip {
            self.write_strip(path)?;
        }
        if let Some(path) = &self.gif {
            self.write_gif(path)?;
        }
        Ok(())
    }

    /// Each image has a row for x and one for x̂₀.
    fn write_strip(&self, path: &Path) -> anyhow::Result<()> {
        let Some([first, _]) = self.steps.first() else { return Ok(()) };
        let images = first.len().min(ROWS);
        let columns = self.steps.len().min(COLUMNS);
        // Evenly over all steps, the first and the last included.
        let last = self.steps.len() - 1;
        let shown: Vec<usize> =
            (0..columns).map(|column| 1 + column * last / (columns - 1).max(1)).collect();
        let factor = SIDE.div_ceil(first[0].width.max(1)).max(1);
        let cell = |step: usize, kind: usize, image: usize| -> Cell {
            self.steps[step - 1][kind][image].enlarged(factor).into()
        };
        let row = |kind, image| shown.iter().map(|&step| cell(step, kind, image)).collect();
        let cells: Vec<Vec<Cell>> =
            (0..images).flat_map(|image| [row(0, image), row(1, image)]).collect();
        let rows: Vec<String> = (0..images)
            .flat_map(|image| [format!("{image}: x_t"), "predicted x0".to_owned()])
            .collect();
        let names: Vec<String> = shown.iter().map(|step| format!("step {step}")).collect();
        Ok(sheet(&cells, &rows, &names)?.write_png(path)?)
    }

    /// All images, x on the left and x̂₀ on the right.
    fn write_gif(&self, path: &Path) -> anyhow::Result<()> {
        let frames = self.steps.iter().enumerate().map(|(i, [x, x0])| {
            let side_by_side = [diffusion_picture::grid(x)?, diffusion_picture::grid(x0)?];
            let name = format!("step {} of {}: x_t, and predicted x0", i + 1, self.steps.len());
            Ok((name, diffusion_picture::grid_of(&side_by_side, 2)?.enlarged_for_viewing()))
        });
        Ok(animation(&frames.collect::<anyhow::Result<Vec<_>>>()?, DELAY, path)?)
    }
}
