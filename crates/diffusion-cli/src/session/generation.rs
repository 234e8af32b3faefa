//! A generation as the user sees it: a progress bar, the first images step by step, and Ctrl-C.

use std::ops::ControlFlow;

use diffusion_model::{Batches, GeneratedBatch, GenerationProgress};

use super::interrupt;
use super::progress::Progress;
use super::trajectory::Trajectory;

/// Shows generations that follow each other.
pub(crate) struct GenerationDisplay {
    bar: Progress,
    trajectory: Option<Trajectory>,
    failed: Option<anyhow::Error>,
    /// Steps of earlier generations.
    before: usize,
}

impl GenerationDisplay {
    /// `what` takes `steps` steps in all.
    pub(crate) fn new(what: &'static str, steps: usize, quiet: bool) -> Self {
        let bar = Progress::new(what, steps as u64, quiet);
        Self { bar, trajectory: None, failed: None, before: 0 }
    }

    /// Has `trajectory` follow the first batch of the next generation.
    pub(crate) fn follow(&mut self, trajectory: Trajectory) {
        self.trajectory = Some(trajectory);
    }

    /// Takes note of a step.
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

    /// Ends the display.
    ///
    /// # Errors
    /// What kept it from showing something.
    pub(crate) fn close(self) -> anyhow::Result<()> {
        self.bar.finish();
        self.failed.map_or(Ok(()), Err)
    }
}

/// Hands each of `batches` to `take`; breaks where the user asked to stop.
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
