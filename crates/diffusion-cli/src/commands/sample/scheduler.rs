//! Sampling by a scheduler of diffusers: that of an imported run, or of `--scheduler`.

use std::sync::Arc;

use diffusion_interop::{
    InteropError, Scheduler, SchedulerClass, SchedulerConfig, SchedulerMethod, StepArguments,
};
use diffusion_model::{LoadedModel, ModelError, SamplingConfig, SamplingMethod};
use diffusion_sample::{Churn, VarianceType};
use diffusion_schedule::SigmaSpacing;

use super::SampleArgs;
use crate::args::runs::FoundModel;
use crate::session::usage::bail_usage;

/// The scheduler to sample by: that of `--scheduler`, or of an imported run unless `--sampler` is
/// given.
pub(super) fn find(args: &SampleArgs, found: &FoundModel) -> anyhow::Result<Option<Scheduler>> {
    let Some(path) = &args.scheduler else {
        return Ok(found.scheduler.clone().filter(|_| args.sampler.is_none()));
    };
    if !path.exists() {
        bail_usage!("--scheduler {}: there is no such file or folder", path.display());
    }
    let (scheduler, _) = match Scheduler::read(path) {
        Ok(read) => read,
        Err(e) => bail_usage!("--scheduler: {e}"),
    };
    check_model(&scheduler, &found.model)?;
    Ok(Some(scheduler))
}

/// Fails if a scheduler cannot sample from the model. Warns if it was made for another schedule.
fn check_model(scheduler: &Scheduler, model: &LoadedModel) -> anyhow::Result<()> {
    let name = scheduler.class().name();
    let Some(schedule) = model.objective.schedule() else {
        bail_usage!(
            "--scheduler: {name} needs a model with a noise schedule; this is {} model",
            if model.objective.name() == "edm" { "an EDM" } else { "a flow" }
        );
    };
    if matches!(scheduler.class(), SchedulerClass::EdmEuler | SchedulerClass::EdmDpmSolverMultistep)
    {
        bail_usage!("--scheduler: {name} has noise levels instead of timesteps");
    }
    let (own, other) = (model.description.prediction_type, scheduler.prediction_type());
    if own != other {
        bail_usage!(
            "--scheduler: {name} expects that the network predicts {}, but it predicts {}",
            serde_json::json!(other).as_str().unwrap_or_default(),
            serde_json::json!(own).as_str().unwrap_or_default()
        );
    }
    let theirs = scheduler.schedule()?;
    let differs = |a: &f64, b: &f64| (a - b).abs() > 1e-6;
    let (own, other) = (schedule.alphas_cumprod(), theirs.alphas_cumprod());
    if own.len() != other.len() || own.iter().zip(other).any(|(a, b)| differs(a, b)) {
        tracing::warn!(
            "{name} has another noise schedule than the training of the model; its own is used"
        );
    }
    Ok(())
}

/// The configuration of `scheduler`, with the flags that override its settings.
pub(super) fn config(
    args: &SampleArgs,
    scheduler: Scheduler,
    model: &LoadedModel,
) -> anyhow::Result<SamplingConfig> {
    let (class, mut settings) = (scheduler.class(), scheduler.config().clone());
    override_settings(args, class, &mut settings)?;
    let scheduler = match Scheduler::new(class, settings) {
        Ok(scheduler) => scheduler,
        Err(e) => bail_usage!("{e}"),
    };
    let churn = Churn { amount: args.churn.unwrap_or(0.0), ..Churn::default() };
    let arguments =
        StepArguments { eta: args.eta.unwrap_or(0.0), churn, ..StepArguments::default() };
    let steps = args.steps.map_or(scheduler.default_steps(), |steps| steps as usize);
    tracing::info!("sampling by the settings of {} ({steps} steps)", class.name());
    let method: Arc<dyn SamplingMethod> = Arc::new(SchedulerMethod { scheduler, arguments });
    let config = match SamplingConfig::with_method(model, method, steps) {
        Err(ModelError::Method(e)) => match e.downcast::<InteropError>() {
            Ok(e) => bail_usage!("--steps {steps}: {e}"),
            Err(e) => return Err(anyhow::Error::from_boxed(e)),
        },
        config => config?,
    };
    if config.plan.steps().iter().any(|step| step.from.timestep < 0.0) {
        tracing::warn!(
            "{} visits the timestep -1 with {steps} steps, as in diffusers; choose another number",
            class.name()
        );
    }
    Ok(config)
}

fn override_settings(
    args: &SampleArgs,
    class: SchedulerClass,
    settings: &mut SchedulerConfig,
) -> anyhow::Result<()> {
    use SchedulerClass::{Ddim, Ddpm, Euler, Pndm};
    let name = class.name();
    let flags = [
        ("--variance", args.variance.is_some(), class == Ddpm),
        ("--eta", args.eta.is_some(), class == Ddim),
        ("--churn", args.churn.is_some(), class == Euler),
        ("--sigmas", args.sigmas.is_some(), !matches!(class, Ddpm | Ddim | Pndm)),
    ];
    if let Some((flag, ..)) = flags.into_iter().find(|(_, given, fits)| *given && !fits) {
        bail_usage!(
            "{flag} has no effect on {name}, by which this model is sampled; choose a --sampler"
        );
    }
    settings.timestep_spacing = args.spacing.or(settings.timestep_spacing);
    if let Some(sigmas) = args.sigmas {
        settings.use_karras_sigmas = Some(sigmas == SigmaSpacing::Karras);
        settings.use_exponential_sigmas = Some(sigmas == SigmaSpacing::Exponential);
        settings.use_beta_sigmas = None;
    }
    if let Some(variance) = args.variance {
        let variance = match variance {
            VarianceType::FixedSmall => "fixed_small",
            VarianceType::FixedLarge => "fixed_large",
            VarianceType::LearnedRange => "learned_range",
        };
        settings.variance_type = Some(variance.to_owned());
    }
    Ok(())
}
