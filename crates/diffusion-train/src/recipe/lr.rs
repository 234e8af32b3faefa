//! The learning rate over the course of training.

use serde::{Deserialize, Serialize};

/// The decay of the learning rate after the warm-up. `progress` runs from 0 at the end of the
/// warm-up to 1 at the end of training.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum LrDecay {
    /// No decay.
    #[default]
    Constant,
    /// Linear decay to 0.
    Linear,
    /// Decay to 0 along half a cosine (Loshchilov & Hutter 2017).
    Cosine,
    /// `num_cycles` decays to 0 along half a cosine, each from the base learning rate.
    CosineWithRestarts {
        /// The number of cycles, at least 1.
        num_cycles: u32,
    },
    /// Decay to `lr_end` along a power of the remaining progress.
    Polynomial {
        /// The exponent, above 0: 1 is a line, 2 a parabola.
        power: f64,
        /// The final learning rate, between 0 and the base learning rate.
        lr_end: f64,
    },
    /// The base learning rate until the last part of the training, and then a linear decay to 0
    /// (Hägele et al. 2024). The length of such a training can be chosen late.
    ConstantThenLinear {
        /// The part of the training in which the rate decays, above 0 and at most 1.
        share: f64,
    },
}

/// A linear warm-up from 0, then a decay.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LrSchedule {
    /// Steps in which the learning rate rises from 0 to its base value. Default: 0.
    pub warmup_steps: u64,
    /// The decay after the warm-up. Default: constant.
    pub decay: LrDecay,
}

impl LrSchedule {
    /// The progress of the decay at `step` of `total` steps, in [0, 1].
    pub fn progress(&self, step: u64, total: u64) -> f64 {
        let decaying = total.saturating_sub(self.warmup_steps).max(1) as f64;
        (step.saturating_sub(self.warmup_steps) as f64 / decaying).min(1.0)
    }

    /// The learning rate of update number `step`, counted from 0, at the given progress of the
    /// decay.
    pub fn lr(&self, base_lr: f64, step: u64, progress: f64) -> f64 {
        if step < self.warmup_steps {
            return base_lr * (step as f64 / self.warmup_steps as f64);
        }
        match self.decay {
            LrDecay::Constant => base_lr,
            LrDecay::Linear => base_lr * (1.0 - progress),
            LrDecay::Cosine => base_lr * half_cosine(progress),
            LrDecay::CosineWithRestarts { .. } if progress >= 1.0 => 0.0,
            LrDecay::CosineWithRestarts { num_cycles } => {
                base_lr * half_cosine((f64::from(num_cycles) * progress) % 1.0)
            }
            LrDecay::Polynomial { power, lr_end } => {
                (base_lr - lr_end) * (1.0 - progress).powf(power) + lr_end
            }
            LrDecay::ConstantThenLinear { share } => {
                base_lr * ((1.0 - progress) / share).clamp(0.0, 1.0)
            }
        }
    }
}

/// 1 at 0, 0 at 1.
fn half_cosine(progress: f64) -> f64 {
    (0.5 * (1.0 + (std::f64::consts::PI * progress).cos())).max(0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_constant_rate_decays_in_the_last_part_only() {
        let decay = LrDecay::ConstantThenLinear { share: 0.2 };
        let schedule = LrSchedule { warmup_steps: 10, decay };
        let lr = |step| schedule.lr(2.0, step, schedule.progress(step, 110));
        for (step, expected) in
            [(0, 0.0), (5, 1.0), (10, 2.0), (90, 2.0), (100, 1.0), (105, 0.5), (110, 0.0)]
        {
            assert!((lr(step) - expected).abs() < 1e-9, "{step}: {}", lr(step));
        }
    }
}
