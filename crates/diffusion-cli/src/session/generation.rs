//! The display of a running generation: a progress bar, the trajectory of the first images, and
//! Ctrl-C.

use std::ops::ControlFlow;

use diffusion_model::{Batches, GeneratedBatch, GenerationProgress};

use super::interrupt;
use super::progress::Progress;
use super::trajectory::Trajectory;

/// Displays one or more generations that run one after the other.
pub(crate) struct GenerationDisplay {
    bar: Progress,
    trajectory: Option<Trajectory>,
    failed: Option<anyhow::Error>,
    /// Number of steps of earlier generations.
    before: usize,
}

impl GenerationDisplay {
    /// A display named `label` for `steps` steps in total.
    pub(crate) fn new(label: &'static str, steps: usize, quiet: bool) -> Self {
        let bar = Progress::new(label, steps as u64, quiet);
        Self { bar, trajectory: None, failed: None, before: 0 }
    }

    /// Records the first batch of the next generation in `trajectory`.
    pub(crate) fn follow(&mut self, trajectory: Trajectory) {
        self.trajectory = Some(trajectory);
    }

    /// Displays a step. Returns `Break` if the user interrupted or the trajectory could not be
    /// written.
    pub(crate) fn observe(&mut self, progress: &GenerationProgress<'_>) -> ControlFlow<()> {
        let GenerationProgress { range, images, done, steps, .. } = *progress;
        let position = self.before + progress.steps_done();
        self.bar.advance(position as u64, || {
            format!("images {}-{} of {images}, step {done}/{steps}", range.start + 1, range.end)
        });
        if let Err(e) = self.add_to_trajectory(progress) {
            self.failed = Some(e);
            return ControlFlow::Break(());
        }
        if progress.batch + 1 == progress.batches && done == steps {
            self.before = position;
        }
        interrupt::flow()
    }

    fn add_to_trajectory(&mut self, progress: &GenerationProgress<'_>) -> anyhow::Result<()> {
        let (Some(trajectory), Some(step)) = (&mut self.trajectory, progress.step) else {
            return Ok(());
        };
        if progress.batch > 0 {
            return Ok(());
        }
        trajectory.add(step)?;
        if progress.done == progress.steps {
            trajectory.finish()?;
            self.trajectory = None;
        }
        Ok(())
    }

    /// Removes the bar.
    ///
    /// # Errors
    /// If the trajectory could not be recorded or written.
    pub(crate) fn close(self) -> anyhow::Result<()> {
        self.bar.finish();
        self.failed.map_or(Ok(()), Err)
    }
}

/// Calls `take` with each of `batches`. Returns `Break` if the user interrupted.
pub(crate) fn each_batch(
    batches: Batches<'_>,
    mut take: impl FnMut(GeneratedBatch) -> anyhow::Result<()>,
) -> anyhow::Result<ControlFlow<()>> {
    if interrupt::flow().is_break() {
        return Ok(ControlFlow::Break(()));
    }
    for batch in batches {
        match batch {
            Err(e) if e.is_cancelled() => return Ok(ControlFlow::Break(())),
            batch => take(batch?)?,
        }
    }
    Ok(ControlFlow::Continue(()))
}
