//! Images of the averaged weights on the way: grids, and what a judge says of them.

use std::collections::BTreeMap;
use std::error::Error;
use std::ops::ControlFlow;

use candle_core::Tensor;
use diffusion_model::{Generation, LoadedModel, Weights};
use diffusion_sample::{SamplerOptions, VarianceType};
use diffusion_schedule::NoiseSchedule;

use super::{RunDir, TrainEvent};
use crate::{TrainError, Trainer};

/// Looks at images (N, C, H, W) in \[−1, 1\] and gives metrics by name.
pub type Judge =
    dyn Fn(&Tensor) -> Result<BTreeMap<String, f64>, Box<dyn Error + Send + Sync>> + Send + Sync;

/// A judge of the images that a training generates on its way.
pub struct SampleJudge {
    /// Steps between two looks, at least 1; the last step is always looked at.
    pub every: u64,
    /// Images to generate for each look.
    pub num: u64,
    /// The judge.
    pub judge: Box<Judge>,
}

impl SampleJudge {
    /// Whether this step is one to look at.
    pub(super) fn is_due(&self, trainer: &Trainer) -> bool {
        trainer.is_finished() || trainer.steps_done().is_multiple_of(self.every)
    }
}

/// The model with the averaged weights as they are now.
///
/// # Errors
/// Those of the device.
pub fn averaged_model(trainer: &Trainer) -> Result<LoadedModel, TrainError> {
    Ok(LoadedModel::new(
        trainer.description().clone(),
        trainer.steps_done(),
        trainer.ema().tensors(),
        Weights::Ema.file().as_ref(),
        trainer.device(),
    )?)
}

/// The judge's metrics of images generated now, unless the observer breaks.
pub(super) fn judge_samples(
    trainer: &Trainer,
    judge: &SampleJudge,
    observer: &mut dyn FnMut(TrainEvent<'_>) -> ControlFlow<()>,
) -> Result<ControlFlow<(), BTreeMap<String, f64>>, TrainError> {
    let generation = Generation { num: judge.num, ..grid_generation(trainer) };
    let Some(images) = generate(trainer, &generation, observer)? else {
        return Ok(ControlFlow::Break(()));
    };
    let step = trainer.steps_done();
    (judge.judge)(&images)
        .map(ControlFlow::Continue)
        .map_err(|source| TrainError::Judge { step, source })
}

/// Writes the grid of samples from the noise of the run's seed, if the configuration wants one.
pub(super) fn draw_grid(
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
        .write_png(&path)?;
    Ok(observer(TrainEvent::Grid(path)))
}

/// Images of the averaged weights; `None` when the observer breaks.
fn generate(
    trainer: &Trainer,
    generation: &Generation,
    observer: &mut dyn FnMut(TrainEvent<'_>) -> ControlFlow<()>,
) -> Result<Option<Tensor>, TrainError> {
    let model = averaged_model(trainer)?;
    match model.generate(generation, &mut |progress| observer(TrainEvent::Sampling(progress))) {
        Err(error) if error.is_cancelled() => Ok(None),
        images => Ok(Some(images?)),
    }
}

/// How the images of a training's grids are generated.
fn grid_generation(trainer: &Trainer) -> Generation {
    let config = &trainer.config().sample_grid;
    let objective = trainer.objective();
    let learned = trainer.description().learned_variance();
    let sampler = config.sampler.unwrap_or(objective.sampler(learned));
    let most = objective.schedule().map_or(usize::MAX, NoiseSchedule::len);
    let variance = if learned { VarianceType::LearnedRange } else { config.variance };
    Generation {
        sampler: Some(sampler),
        steps: Some(config.steps.unwrap_or(objective.default_steps(sampler)).min(most)),
        options: Some(SamplerOptions { variance, ..SamplerOptions::default() }),
        seed: trainer.config().seed,
        clip: config.clip_denoised,
        ..Generation::new(config.num)
    }
}
