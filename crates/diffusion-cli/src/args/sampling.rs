//! The sampler and the variance of DDPM.

use diffusion_model::LoadedModel;
use diffusion_sample::{SamplerKind, VarianceType};

use crate::session::usage::bail_usage;

/// The sampler `kind`, or by default that of the model. If `with_variance`, the default of a
/// diffusion model is DDPM, the only sampler with a variance.
pub(crate) fn sampler_kind(
    kind: Option<SamplerKind>,
    with_variance: bool,
    model: &LoadedModel,
) -> anyhow::Result<SamplerKind> {
    let Some(kind) = kind else {
        return Ok(model
            .objective
            .default_sampler(model.description.learned_variance() || with_variance));
    };
    match model.objective.check_sampler(kind) {
        Ok(()) => Ok(kind),
        Err(e) => bail_usage!("{e}"),
    }
}

/// The variance of DDPM's steps: `requested`, or by default that of the model.
pub(crate) fn variance(
    requested: Option<VarianceType>,
    model: &LoadedModel,
) -> anyhow::Result<VarianceType> {
    match requested {
        Some(VarianceType::LearnedRange) if !model.description.learned_variance() => {
            bail_usage!("--variance learned-range: the model has not learned a variance")
        }
        Some(variance) => Ok(variance),
        None => Ok(model.description.variance()),
    }
}
