//! What a training will take.

use std::fmt;

use diffusion_train::{Pace, Trainer};

use crate::commands::bytes;
use crate::session::progress::clock;

/// Sets of numbers in a checkpoint for each weight: itself, AdamW's two moments and its moving average.
const SAVED_COPIES: usize = 4;

/// What is known of a training, with its pace or without.
#[derive(Clone)]
pub(super) struct Outlook {
    parameters: usize,
    steps_left: Option<u64>,
    seconds_left: Option<f64>,
    checkpoints: usize,
    /// The pace, and the memory that the process has had by then: after some steps, it holds all that a step needs.
    known: Option<(Pace, Option<usize>)>,
}

impl Outlook {
    /// What is left of `trainer`'s training.
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
            known: None,
        }
    }

    /// The same at a known pace.
    pub(super) fn at(&self, pace: Pace) -> Self {
        let memory = memory_stats::memory_stats().map(|stats| stats.physical_mem);
        Self { known: Some((pace, memory)), ..self.clone() }
    }
}

impl fmt::Display for Outlook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let weights = self.parameters * size_of::<f32>();
        write!(f, "{} parameters", self.parameters)?;
        if let Some((pace, memory)) = self.known {
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
                    ", about {steps} steps in {} beside the pictures",
                    clock(steps as f64 * seconds)
                )?;
            }
        }
        // While one is written, there is one more.
        let disk = (self.checkpoints + 1) * SAVED_COPIES * weights;
        write!(f, ", up to {} of checkpoints", bytes(disk))
    }
}
