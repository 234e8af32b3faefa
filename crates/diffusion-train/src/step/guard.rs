//! Checks of the loss and the gradients of a step.

use candle_core::{DType, Result};
use diffusion_nn::Parameters;
use diffusion_unet::NetworkConfig;

use crate::{Gradients, PixelError, TrainError};

/// The step, counted from 0, at which every parameter must have a gradient.
///
/// A network whose output starts as zeros passes gradients on after two updates, since the first
/// update of a warm-up has the learning rate 0.
pub(super) fn first_step_with_gradients(network: &NetworkConfig) -> u64 {
    if network.has_zero_init_output() { 2 } else { 0 }
}

/// Fails if the gradient of a parameter is missing, all zero or not finite: an operation of the
/// network then blocks it.
pub(super) fn check_every_parameter_learns(
    gradients: &Gradients,
    parameters: &Parameters,
    error: PixelError,
) -> std::result::Result<(), TrainError> {
    let mut names = gradients.dead(parameters)?;
    if error == PixelError::L1 {
        // The gradient of L1 is a sum of signs, which may be exactly 0.
        names.retain(|name| gradients.get(name).is_none());
    }
    if names.is_empty() { Ok(()) } else { Err(TrainError::DeadParameters { names }) }
}

/// The error of a step whose loss or gradient is not finite.
pub(super) enum NotFinite {
    /// The first quantity that is not finite.
    Quantity(String),
    /// The search for the quantity failed.
    Unknown(candle_core::Error),
}

impl NotFinite {
    /// The error for `step`, counted from 0, with the learning rate `lr`.
    pub(super) fn at(self, step: u64, lr: f64) -> TrainError {
        match self {
            Self::Quantity(quantity) => {
                TrainError::NotFinite { quantity, step, lr, last_checkpoint: None }
            }
            Self::Unknown(error) => error.into(),
        }
    }
}

/// Fails if the loss or a gradient is not finite.
pub(super) fn check_finite(
    loss: f64,
    grad_norm: f64,
    gradients: &Gradients,
    parameters: &Parameters,
) -> std::result::Result<(), NotFinite> {
    if loss.is_finite() && grad_norm.is_finite() {
        return Ok(());
    }
    let quantity = first_not_finite(loss, gradients, parameters).map_err(NotFinite::Unknown)?;
    Err(NotFinite::Quantity(quantity))
}

/// The first quantity that is not finite: the loss, with the weights at fault, or a gradient.
fn first_not_finite(loss: f64, gradients: &Gradients, parameters: &Parameters) -> Result<String> {
    if loss.is_finite() {
        let name = gradients.first_not_finite()?;
        return Ok(
            name.map_or_else(|| "the loss".to_owned(), |name| format!("the gradient of `{name}`"))
        );
    }
    for (name, var) in parameters.iter() {
        if !var.sqr()?.sum_all()?.to_dtype(DType::F64)?.to_scalar::<f64>()?.is_finite() {
            return Ok(format!("the loss (because of the weights `{name}`)"));
        }
    }
    Ok("the loss".to_owned())
}
