//! What must hold of the gradients of a step.

use candle_core::{DType, Result};
use diffusion_nn::Parameters;
use diffusion_unet::NetworkConfig;

use crate::{Gradients, PixelError, TrainError};

/// The step, counted from 0, by which every parameter must get a gradient. An output of zeros has learned something after
/// two updates: the first one of a warm-up has the rate 0.
pub(super) fn first_step_with_gradients(network: &NetworkConfig) -> u64 {
    if network.begins_with_zeros() { 2 } else { 0 }
}

/// Refuses a network of which some parameter has no gradient, or one that is all zero or not finite: an operation in it cuts
/// the gradient off.
pub(super) fn every_parameter_learns(
    gradients: &Gradients,
    parameters: &Parameters,
    error: PixelError,
) -> std::result::Result<(), TrainError> {
    let mut names = gradients.dead(parameters)?;
    if error == PixelError::L1 {
        // The signs that its gradient consists of may add up to exactly 0.
        names.retain(|name| gradients.get(name).is_none());
    }
    if names.is_empty() { Ok(()) } else { Err(TrainError::DeadParameters { names }) }
}

/// A step with a number that is not finite.
pub(super) enum NotFinite {
    /// The first bad tensor.
    What(String),
    /// It could not be found.
    Unknown(candle_core::Error),
}

impl NotFinite {
    /// The error of the step with this number, counted from 0, and learning rate.
    pub(super) fn at(self, step: u64, lr: f64) -> TrainError {
        match self {
            Self::What(what) => TrainError::NotFinite { what, step, lr, last_checkpoint: None },
            Self::Unknown(error) => error.into(),
        }
    }
}

/// Refuses a loss or a gradient that is not finite.
pub(super) fn finite(
    loss: f64,
    grad_norm: f64,
    gradients: &Gradients,
    parameters: &Parameters,
) -> std::result::Result<(), NotFinite> {
    if loss.is_finite() && grad_norm.is_finite() {
        return Ok(());
    }
    let culprit = culprit(loss, gradients, parameters).map_err(NotFinite::Unknown)?;
    Err(NotFinite::What(culprit))
}

/// The first tensor that is not finite.
fn culprit(loss: f64, gradients: &Gradients, parameters: &Parameters) -> Result<String> {
    if loss.is_finite() {
        let name = gradients.first_not_finite()?;
        return Ok(
            name.map_or_else(|| "the loss".to_owned(), |name| format!("the gradient of `{name}`"))
        );
    }
    for (name, var) in parameters.iter() {
        if !var.sqr()?.sum_all()?.to_dtype(DType::F64)?.to_scalar::<f64>()?.is_finite() {
            return Ok(format!("the loss, because of the weights `{name}`,"));
        }
    }
    Ok("the loss".to_owned())
}
