//! What a sampling looks like from step to step.

use std::path::{Path, PathBuf};

use anyhow::Context;
use diffusion_data::picture::{self, Picture};
use diffusion_sample::Progress;

/// Images that are followed.
const IMAGES: usize = 16;
/// Those of them that the strip shows, and the steps it shows of each.
const ROWS: usize = 4;
const COLUMNS: usize = 12;
/// Hundredths of a second for a frame.
const DELAY: u16 = 12;

/// The pictures of the first images after each step: x, and what it was taken for.
pub(crate) struct Trajectory {
    folder: PathBuf,
    steps: Vec<[Vec<Picture>; 2]>,
}

impl Trajectory {
    /// Pictures will go to `folder`, which is made now.
    pub(crate) fn new(folder: &Path) -> anyhow::Result<Self> {
        std::fs::create_dir_all(folder)
            .with_context(|| format!("cannot make the folder {}", folder.display()))?;
        Ok(Self { folder: folder.to_owned(), steps: Vec::new() })
    }

    /// Takes a step down.
    pub(crate) fn add(&mut self, progress: &Progress<'_>) -> anyhow::Result<()> {
        let count = progress.x.dim(0)?.min(IMAGES);
        let pictures = |images: &candle_core::Tensor| picture::from_tensor(&images.narrow(0, 0, count)?);
        // At a scale where noise is seen as noise, whatever that of the plan is.
        let x = progress.x.affine(progress.level.to_variance_preserving(), 0.0)?;
        let [x, x0] = [pictures(&x)?, pictures(progress.x0)?];
        let name = format!("step-{:04}.png", progress.done);
        picture::grid(&x)?.enlarged_for_viewing().write_png(&self.folder.join(name))?;
        self.steps.push([x, x0]);
        Ok(())
    }

    /// Writes the strip, where each image has a row for x and one for x̂₀, and the animation of both.
    pub(crate) fn finish(&self) -> anyhow::Result<()> {
        let Some([first, _]) = self.steps.first() else { return Ok(()) };
        let rows = first.len().min(ROWS);
        let columns = self.steps.len().min(COLUMNS);
        // Evenly over all steps, the last one included.
        let shown = |column: usize| (column + 1) * self.steps.len() / columns - 1;
        let strip: Vec<Picture> = (0..rows)
            .flat_map(|image| (0..2).map(move |kind| (image, kind)))
            .flat_map(|(image, kind)| {
                (0..columns).map(move |column| self.steps[shown(column)][kind][image].clone())
            })
            .collect();
        picture::grid_of(&strip, columns)?
            .enlarged_for_viewing()
            .write_png(&self.folder.join("strip.png"))?;
        let frames: Vec<Picture> = self
            .steps
            .iter()
            .map(|[x, x0]| {
                let side_by_side = [picture::grid(x)?, picture::grid(x0)?];
                Ok(picture::grid_of(&side_by_side, 2)?.enlarged_for_viewing())
            })
            .collect::<anyhow::Result<_>>()?;
        picture::write_gif(&frames, DELAY, &self.folder.join("trajectory.gif"))?;
        Ok(())
    }
}
