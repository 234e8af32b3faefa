//! The residual block and the time embedding of the small networks, with the parameter names of
//! the tutorial's PyTorch code (Learn AI Series #84, Generative Images – Diffusion Models, Part 1).

use candle_core::Result;
use candle_nn::VarBuilder;
use diffusion_kernels::TimeConditioning;
use diffusion_nn::{
    ResidualBlock, ResidualBlockConfig, ResidualBlockNames, TimeEmbedding, TimeFeatures,
    TimestepEmbedding,
};

/// Groups of every normalisation.
pub(crate) const GROUPS: usize = 8;
/// The ε of every normalisation: PyTorch's default.
pub(crate) const EPS: f64 = 1e-5;

/// A residual block that adds the time embedding. Logs a warning if the normalisation cancels the
/// embedding.
///
/// # Errors
/// - If 8 groups do not divide the channels.
/// - If `vb` does not have a parameter, or has it in another shape.
pub(crate) fn residual_block(
    in_channels: usize,
    out_channels: usize,
    time_dim: usize,
    vb: VarBuilder<'_>,
) -> Result<ResidualBlock> {
    if out_channels == GROUPS {
        tracing::warn!(
            block = vb.prefix(),
            "{out_channels} channels in {GROUPS} groups: the normalisation cancels \
             the time embedding, and this block cannot see the timestep; \
             use at least {} channels",
            2 * GROUPS
        );
    }
    let config = ResidualBlockConfig {
        groups: GROUPS,
        eps: EPS,
        time_dim,
        conditioning: TimeConditioning::Add,
        resample: None,
        names: ResidualBlockNames::SEQUENTIAL,
    };
    ResidualBlock::new(in_channels, out_channels, &config, vb)
}

/// A time embedding of width `dim`, with 4·`dim` units between its layers. Parameters `mlp.0` and
/// `mlp.2`.
///
/// # Errors
/// - If `dim` is below 4.
/// - If `vb` does not have a parameter, or has it in another shape.
pub(crate) fn time_embedding(dim: usize, vb: VarBuilder<'_>) -> Result<TimeEmbedding> {
    let features = TimeFeatures::Positional(TimestepEmbedding::new(dim, false, 1.0)?);
    TimeEmbedding::new(features, 4 * dim, dim, [vb.pp("mlp.0"), vb.pp("mlp.2")])
}
