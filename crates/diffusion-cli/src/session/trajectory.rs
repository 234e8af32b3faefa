//! Pictures of a sampling trajectory: an animation, a strip, and one picture per step.

use std::path::{Path, PathBuf};

use anyhow::Context;
use diffusion_picture::Picture;
use diffusion_report::{Cell, animation, sheet};
use diffusion_sample::Progress;

use crate::session::usage::check_picture_beside;

/// Number of images that are recorded.
const IMAGES: usize = 16;
/// Number of images in the strip, and of steps of each.
const ROWS: usize = 4;
const COLUMNS: usize = 10;
/// The smallest side of a picture in the strip, in pixels.
const SIDE: usize = 84;
/// Duration of a frame, in hundredths of a second.
const DELAY: u16 = 12;

/// The first images after each step: x_t and the predicted x₀.
#[derive(Default)]
pub(crate) struct Trajectory {
    folder: Option<PathBuf>,
    gif: Option<PathBuf>,
    strip: Option<PathBuf>,
    steps: Vec<[Vec<Picture>; 2]>,
}

impl Trajectory {
    /// A trajectory that is written as an animation to `gif`, as a strip to `strip`, and as all of
    /// these and one picture per step to `folder`, which is created now. The command makes the
    /// folder `out`.
    pub(crate) fn new(
        out: &Path,
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
                check_picture_beside(out, flag, file, &[ending])?;
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

    /// Records a step.
    pub(crate) fn add(&mut self, progress: &Progress<'_>) -> anyhow::Result<()> {
        if self.gif.is_none() && self.strip.is_none() {
            return Ok(());
        }
        let count = progress.x.dim(0)?.min(IMAGES);
        let pictures = |images: &candle_core::Tensor| {
            diffusion_picture::from_tensor(&images.narrow(0, 0, count)?)
        };
        // The variance-preserving scale shows noise well, whatever the scale of the plan.
        let x = progress.x.affine(progress.level.to_variance_preserving(), 0.0)?;
        let [x, x0] = [pictures(&x)?, pictures(progress.x0)?];
        if let Some(folder) = &self.folder {
            let name = format!("step-{:04}.png", progress.done);
            diffusion_picture::grid(&x)?.enlarged_for_viewing().write_sheet(&folder.join(name))?;
        }
        self.steps.push([x, x0]);
        Ok(())
    }

    /// Writes the strip and the animation.
    pub(crate) fn finish(&self) -> anyhow::Result<()> {
        if let Some(path) = &self.strip {
            self.write_strip(path)?;
        }
        if let Some(path) = &self.gif {
            self.write_gif(path)?;
        }
        Ok(())
    }

    /// Each image has one row of x_t and one of x̂₀.
    fn write_strip(&self, path: &Path) -> anyhow::Result<()> {
        let Some([first, _]) = self.steps.first() else { return Ok(()) };
        let images = first.len().min(ROWS);
        let columns = self.steps.len().min(COLUMNS);
        // Evenly spaced steps, the first and the last included.
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
        Ok(sheet(&cells, &rows, &names)?.write_sheet(path)?)
    }

    /// Each frame has all images: x_t on the left, x̂₀ on the right.
    fn write_gif(&self, path: &Path) -> anyhow::Result<()> {
        let frames = self.steps.iter().enumerate().map(|(i, [x, x0])| {
            let side_by_side = [diffusion_picture::grid(x)?, diffusion_picture::grid(x0)?];
            let name = format!("step {} of {}: x_t, and predicted x0", i + 1, self.steps.len());
            Ok((
                name,
                diffusion_picture::grid_with_columns(&side_by_side, 2)?.enlarged_for_viewing(),
            ))
        });
        Ok(animation(&frames.collect::<anyhow::Result<Vec<_>>>()?, DELAY, path)?)
    }
}
