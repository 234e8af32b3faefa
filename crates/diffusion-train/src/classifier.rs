//! Training of classifiers: of noisy images for guidance, and of judges, whose features compare
//! images.

mod judge;
mod noisy;

use std::ops::ControlFlow;
use std::time::Instant;

use candle_core::{Device, Tensor};
use diffusion_data::{Batch, ImageDataset, Loader, LoaderConfig};
use diffusion_kernels::in_pool;
use diffusion_nn::Parameters;

pub use judge::{JudgeTraining, judge_accuracy, train_judge};
pub use noisy::{ClassifierConfig, classifier_accuracy, train_classifier};

use crate::{
    AdamW, AdamWConfig, ConfigError, Ema, EmaConfig, Gradients, LrDecay, LrSchedule, TrainError,
};

/// Without it, classifiers overfit small sets of pictures.
const WEIGHT_DECAY: f64 = 0.05;
const LR_SCHEDULE: LrSchedule = LrSchedule { warmup_steps: 0, decay: LrDecay::Cosine };
/// The share of the training in which the learning rate rises to its base value.
const WARMUP: f64 = 0.05;
/// The smallest share of the base learning rate during the warm-up.
const MIN_WARMUP_FACTOR: f64 = 0.02;
const EMA_DECAY: f64 = 0.995;
/// The batch size of an evaluation.
const EVALUATION_BATCH: usize = 256;

/// The progress of a classifier's training.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ClassifierStep {
    /// Updates made.
    pub step: u64,
    /// The share of the training that is done, in \[0, 1\].
    pub progress: f64,
    /// The cross entropy of the last batch, in nats.
    pub loss: f64,
}

/// What a classifier is trained with.
struct Training<'a> {
    dataset: &'a ImageDataset,
    loader: LoaderConfig,
    steps: Option<u64>,
    max_minutes: Option<f64>,
    lr: f64,
    muon: bool,
    device: &'a Device,
}

impl Training<'_> {
    /// Checks that the training ends.
    fn check_length(&self) -> Result<(), TrainError> {
        if self.steps.is_none() && self.max_minutes.is_none() {
            return Err(field_error(
                "the length of the training",
                "not set".to_owned(),
                "it needs a number of steps or of minutes",
            ));
        }
        Ok(())
    }

    /// Minimises the `loss` of batches and step numbers. Returns the average of the weights and the
    /// number of updates. If `observer` breaks, the training ends early.
    fn run(
        &self,
        parameters: &Parameters,
        loss: impl Fn(&Batch, u64) -> candle_core::Result<Tensor> + Sync,
        observer: &mut dyn FnMut(&ClassifierStep) -> ControlFlow<()>,
    ) -> Result<(Ema, u64), TrainError> {
        let config = AdamWConfig {
            lr: self.lr,
            weight_decay: WEIGHT_DECAY,
            muon: self.muon,
            ..AdamWConfig::default()
        };
        let mut optimizer = AdamW::new(config, parameters)?;
        let ema = Ema::new(EmaConfig { decay: EMA_DECAY, ..EmaConfig::default() }, parameters)?;
        let mut loader = Loader::new(self.dataset, self.loader)?;
        let start = Instant::now();
        let (mut step, mut progress) = (0, 0.0);
        while progress < 1.0 {
            let lr = LR_SCHEDULE.lr(self.lr, step, progress)
                * (progress / WARMUP).clamp(MIN_WARMUP_FACTOR, 1.0);
            let batch = loader.next_batch(self.device)?;
            let loss = in_pool(|| loss(&batch, step))?;
            let value = f64::from(loss.to_scalar::<f32>()?);
            if !value.is_finite() {
                let expected = "the loss became NaN or infinite; try a smaller learning rate";
                return Err(field_error("the learning rate", self.lr.to_string(), expected));
            }
            let gradients = Gradients::new(parameters, in_pool(|| loss.backward())?);
            optimizer.update(parameters, &gradients, lr, Some(&ema))?;
            step += 1;
            let by_steps = self.steps.map_or(0.0, |steps| step as f64 / steps as f64);
            let minutes = start.elapsed().as_secs_f64() / 60.0;
            let by_clock = self.max_minutes.map_or(0.0, |limit| (minutes / limit).min(1.0));
            progress = by_steps.max(by_clock);
            if observer(&ClassifierStep { step, progress, loss: value }).is_break() {
                break;
            }
        }
        Ok((ema, step))
    }
}

fn field_error(field: &'static str, value: String, expected: &str) -> TrainError {
    ConfigError::Field { field, value, expected: expected.to_owned() }.into()
}
