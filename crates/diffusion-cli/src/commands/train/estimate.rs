//! Estimates what a training needs: memory, time and disk space.

use std::fmt;

use diffusion_train::{Pace, Trainer};

use crate::commands::bytes;
use crate::session::progress::clock;

/// Values that a checkpoint stores per weight: the weight, AdamW's two moments and the moving
/// average.
const SAVED_COPIES: usize = 4;

/// The cost of a training; its speed may be unknown.
#[derive(Clone)]
pub(super) struct TrainingEstimate {
    parameters: usize,
    steps_left: Option<u64>,
    seconds_left: Option<f64>,
    checkpoints: usize,
    /// How many times averages of the weights are saved.
    averages: usize,
    /// The speed and the memory of the process in bytes, both measured after a few steps, when the
    /// process holds all the memory that a step needs.
    measured: Option<(Pace, Option<usize>)>,
}

impl TrainingEstimate {
    /// Estimates the rest of `trainer`'s training.
    pub(super) fn of(trainer: &Trainer) -> Self {
        let config = trainer.config();
        Self {
            parameters: trainer.parameters().count(),
            steps_left: trainer
                .total_steps()
                .map(|total| total.saturating_sub(trainer.steps_done())),
            seconds_left: config
                .max_minutes
                .map(|minutes| 60.0 * minutes - trainer.elapsed().as_secs_f64()),
            checkpoints: config.checkpoint.keep,
            averages: config.checkpoint.averages,
            measured: None,
        }
    }

    /// The same estimate with the measured speed and the memory in use now.
    pub(super) fn at(&self, pace: Pace) -> Self {
        let memory = memory_stats::memory_stats().map(|stats| stats.physical_mem);
        Self { measured: Some((pace, memory)), ..self.clone() }
    }
}

impl fmt::Display for TrainingEstimate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let weights = self.parameters * size_of::<f32>();
        write!(f, "{} parameters", self.parameters)?;
        if let Some((pace, memory)) = self.measured {
            if let Some(memory) = memory {
                write!(f, ", about {} of memory", bytes(memory))?;
            }
            let seconds = pace.seconds_per_step;
            write!(f, ", {seconds:.3} s a step")?;
            let by_clock = self.seconds_left.map(|left| (left / seconds) as u64);
            let steps = [self.steps_left, by_clock].into_iter().flatten().min();
            if let Some(steps) = steps {
                write!(
                    f,
                    ", about {steps} steps in {} without sample images",
                    clock(steps as f64 * seconds)
                )?;
            }
        }
        // While a checkpoint is written, the oldest one is still there.
        let copies = SAVED_COPIES + if self.averages > 0 { 2 } else { 0 };
        let disk = (self.checkpoints + 1) * copies * weights;
        write!(f, ", up to {} of checkpoints", bytes(disk))?;
        // Two averages in half precision take the space of one copy.
        match self.averages {
            0 => Ok(()),
            averages => write!(f, " and {} of averages", bytes(averages * weights)),
        }
    }
}
