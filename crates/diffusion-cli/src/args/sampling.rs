//! Which sampler and which variance.

use diffusion_model::LoadedModel;
use diffusion_sample::{SamplerKind, VarianceType};

use crate::session::usage::bail_usage;

/// The sampler `kind`, or without one that of the model, which may be asked for one that heeds the variance.
pub(crate) fn sampler_kind(
    kind: Option<SamplerKind>,
    with_variance: bool,
    model: &LoadedModel,
) -> anyhow::Result<SamplerKind> {
    let Some(kind) = kind else {
        return Ok(model.objective.sampler(model.description.learned_variance() || with_variance));
    };
    match model.objective.check_sampler(kind) {
        Ok(()) => Ok(kind),
        Err(e) => bail_usage!("{e}"),
    }
}

/// The variance of DDPM's steps that is asked for, or else that of the model.
pub(crate) fn variance(
    requested: Option<VarianceType>,
    model: &LoadedModel,
) -> anyhow::Result<VarianceType> {
    match requested {
        Some(VarianceType::LearnedRange) if !model.description.learned_variance() => {
            bail_usage!("--variance learned-range: this model has not learned a variance")
        }
        Some(variance) => Ok(variance),
        None => Ok(model.description.variance()),
    }
}
