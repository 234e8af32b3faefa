//! Images sampled with the EMA weights during training: grids, and the metrics of a judge.

use std::collections::BTreeMap;
use std::error::Error;
use std::ops::ControlFlow;

use candle_core::Tensor;
use diffusion_model::{Generation, LoadedModel, Weights};
use diffusion_sample::{SamplerOptions, VarianceType};
use diffusion_schedule::NoiseSchedule;

use super::{RunDir, TrainEvent};
use crate::{TrainError, Trainer};

/// Computes metrics, by name, of images (N, C, H, W) in \[−1, 1\], given the name of the class
/// that each was generated with.
pub type SampleMetricsFn = dyn Fn(&Tensor, &[Option<&str>]) -> Result<BTreeMap<String, f64>, Box<dyn Error + Send + Sync>>
    + Send
    + Sync;

/// An evaluation of images that are generated during training.
pub struct SampleJudge {
    /// Steps between evaluations, at least 1. The last step is always evaluated.
    pub every: u64,
    /// The number of images per evaluation.
    pub num: u64,
    /// The features that the metrics are computed with; `None` without features. Metrics with
    /// different features are not compared.
    pub name: Option<String>,
    /// Sample with the default sampler, not with that of the grids, which can take many steps.
    pub quick: bool,
    /// The function that computes the metrics.
    pub judge: Box<SampleMetricsFn>,
}

impl SampleJudge {
    /// Whether the images of this step are to be evaluated.
    pub(super) fn is_due(&self, trainer: &Trainer) -> bool {
        trainer.is_finished() || trainer.steps_done().is_multiple_of(self.every)
    }
}

/// The model with the current EMA weights.
///
/// # Errors
/// An error of the device.
pub fn ema_model(trainer: &Trainer) -> Result<LoadedModel, TrainError> {
    Ok(LoadedModel::new(
        trainer.description().clone(),
        trainer.steps_done(),
        trainer.ema().tensors(),
        Weights::Ema.file().as_ref(),
        trainer.device(),
    )?)
}

/// Generates images and computes their metrics, unless the observer breaks.
pub(super) fn judge_samples(
    trainer: &Trainer,
    judge: &SampleJudge,
    observer: &mut dyn FnMut(TrainEvent<'_>) -> ControlFlow<()>,
) -> Result<ControlFlow<(), BTreeMap<String, f64>>, TrainError> {
    let generation = if judge.quick {
        Generation { seed: trainer.config().seed, ..Generation::new(judge.num) }
    } else {
        Generation { num: judge.num, ..grid_generation(trainer) }
    };
    let Some(images) = generate(trainer, &generation, observer)? else {
        return Ok(ControlFlow::Break(()));
    };
    let classes = &trainer.description().classes;
    let indices: Vec<u64> = (0..generation.num).collect();
    let chosen = generation.classes.classes(generation.seed, &indices, classes);
    let names: Vec<Option<&str>> = chosen
        .into_iter()
        .map(|class| class.map(|class| classes[class as usize].name.as_str()))
        .collect();
    let step = trainer.steps_done();
    (judge.judge)(&images, &names)
        .map(ControlFlow::Continue)
        .map_err(|source| TrainError::Judge { step, source })
}

/// Samples a grid from the noise of the run's seed and writes it, if the configuration has grids.
pub(super) fn write_grid(
    trainer: &Trainer,
    run_dir: &RunDir,
    observer: &mut dyn FnMut(TrainEvent<'_>) -> ControlFlow<()>,
) -> Result<ControlFlow<()>, TrainError> {
    let generation = grid_generation(trainer);
    if generation.num == 0 {
        return Ok(ControlFlow::Continue(()));
    }
    let Some(images) = generate(trainer, &generation, observer)? else {
        return Ok(ControlFlow::Break(()));
    };
    let path = run_dir.layout().grid(trainer.steps_done());
    diffusion_picture::grid(&diffusion_picture::from_tensor(&images)?)?
        .enlarged_for_viewing()
        .write_sheet(&path)?;
    Ok(observer(TrainEvent::Grid(path)))
}

/// Images sampled with the EMA weights; `None` if the observer breaks.
fn generate(
    trainer: &Trainer,
    generation: &Generation,
    observer: &mut dyn FnMut(TrainEvent<'_>) -> ControlFlow<()>,
) -> Result<Option<Tensor>, TrainError> {
    let model = ema_model(trainer)?;
    match model.generate(generation, &mut |progress| observer(TrainEvent::Sampling(progress))) {
        Err(error) if error.is_cancelled() => Ok(None),
        images => Ok(Some(images?)),
    }
}

/// The sampling settings of the grids.
fn grid_generation(trainer: &Trainer) -> Generation {
    let config = &trainer.config().sample_grid;
    let objective = trainer.objective();
    let learned = trainer.description().learned_variance();
    let sampler = config.sampler.unwrap_or(objective.default_sampler(learned));
    let max_steps = objective.schedule().map_or(usize::MAX, NoiseSchedule::len);
    let variance = if learned { VarianceType::LearnedRange } else { config.variance };
    Generation {
        sampler: Some(sampler),
        steps: Some(config.steps.unwrap_or(objective.default_steps(sampler)).min(max_steps)),
        options: Some(SamplerOptions { variance, ..SamplerOptions::default() }),
        seed: trainer.config().seed,
        clip: config.clip_denoised,
        ..Generation::new(config.num)
    }
}
