//! AdamW and Muon, with moments that a checkpoint can save.

use std::collections::BTreeMap;

use candle_core::{Result, Tensor, Var};
use diffusion_kernels::{self as kernels, Muon, ParameterState};
use diffusion_nn::{ParameterError, Parameters};
use serde::{Deserialize, Serialize};

use super::ema::Ema;
use super::gradients::Gradients;

/// The configuration of AdamW. With a `weight_decay` of 0 it is Adam.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AdamWConfig {
    /// The base learning rate, above 0. Default: 0.001.
    pub lr: f64,
    /// The decay of the first moment, in [0, 1). Default: 0.9.
    pub beta1: f64,
    /// The decay of the second moment, in [0, 1). Default: 0.999.
    pub beta2: f64,
    /// A number added to the root of the second moment, above 0. Default: 1e-8.
    pub eps: f64,
    /// The decoupled weight decay (Loshchilov & Hutter 2019), at least 0. Default: 0.
    pub weight_decay: f64,
    /// Updates the [hidden matrices](Parameters::is_hidden_matrix) by Muon, momentum with
    /// orthogonalised directions (Jordan et al. 2024). AdamW updates the other parameters. Default:
    /// false.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub muon: bool,
}

impl Default for AdamWConfig {
    fn default() -> Self {
        Self { lr: 1e-3, beta1: 0.9, beta2: 0.999, eps: 1e-8, weight_decay: 0.0, muon: false }
    }
}

/// Muon's constants. `update` replaces the learning rate, weight decay and gradient scale.
const MUON: Muon =
    Muon { lr: 0.0, momentum: 0.95, weight_decay: 0.0, update_rms: 0.2, gradient_scale: 1.0 };

/// AdamW (Loshchilov & Hutter 2019, algorithm 2) in PyTorch's order of operations.
#[derive(Clone, Debug)]
pub struct AdamW {
    config: AdamWConfig,
    step: u64,
    /// The first and second moments by parameter name.
    moments: BTreeMap<String, (Var, Var)>,
}

impl AdamW {
    /// An optimiser with moments of zero.
    ///
    /// # Errors
    /// An error of the device.
    pub fn new(config: AdamWConfig, parameters: &Parameters) -> Result<Self> {
        let zeros = |var: &Var| Var::zeros(var.shape(), var.dtype(), var.device());
        let moments = parameters
            .iter()
            .map(|(name, var)| Ok((name.to_owned(), (zeros(var)?, zeros(var)?))))
            .collect::<Result<_>>()?;
        Ok(Self { config, step: 0, moments })
    }

    /// Makes one update with the learning rate `lr`, then updates the moving average `average`.
    ///
    /// A parameter without a gradient does not change.
    ///
    /// # Errors
    /// An error of the device.
    pub fn update(
        &mut self,
        parameters: &Parameters,
        gradients: &Gradients,
        lr: f64,
        average: Option<&Ema>,
    ) -> Result<()> {
        let AdamWConfig { beta1, beta2, eps, weight_decay, .. } = self.config;
        self.step += 1;
        let gradient_scale = gradients.scale();
        let constants =
            kernels::AdamW { lr, beta1, beta2, eps, weight_decay, step: self.step, gradient_scale };
        let mut matrices = Vec::new();
        for (name, weight) in parameters.iter() {
            let average = average.and_then(|ema| ema.share(name, self.step));
            match (gradients.get(name), self.moments.get(name), average) {
                (Some(gradient), Some((first, second)), average) => {
                    let trained = ParameterState { weight, first, second, average };
                    if self.config.muon && parameters.is_hidden_matrix(name) {
                        matrices.push((gradient, trained));
                        continue;
                    }
                    kernels::adamw(gradient, &trained, &constants)?;
                }
                (_, _, Some((average, share))) => kernels::slow::mix(average, weight, share)?,
                _ => {}
            }
        }
        kernels::muon(&matrices, &Muon { lr, weight_decay, gradient_scale, ..MUON })
    }

    /// The moments as named tensors, `first/NAME` and `second/NAME`.
    pub fn tensors(&self) -> BTreeMap<String, Tensor> {
        self.moments
            .iter()
            .flat_map(|(name, (m, v))| {
                [
                    (format!("first/{name}"), m.as_detached_tensor()),
                    (format!("second/{name}"), v.as_detached_tensor()),
                ]
            })
            .collect()
    }

    /// Restores the moments saved after `step` updates. On an error, the optimiser is unchanged.
    ///
    /// # Errors
    /// If a tensor is missing, unknown or has a wrong shape. The error names the tensor.
    pub fn restore(
        &mut self,
        step: u64,
        mut tensors: BTreeMap<String, Tensor>,
    ) -> std::result::Result<(), ParameterError> {
        let mut take = |key: String, like: &Tensor| match tensors.remove(&key) {
            Some(t) if t.dims() == like.dims() => Ok(Var::from_tensor(&t)?),
            Some(t) => {
                let (expected, found) = (like.dims().to_vec(), t.dims().to_vec());
                Err(ParameterError::Shape { name: key, expected, found })
            }
            None => Err(ParameterError::Missing(key)),
        };
        let moments = self
            .moments
            .iter()
            .map(|(name, (m, v))| {
                Ok((
                    name.clone(),
                    (take(format!("first/{name}"), m)?, take(format!("second/{name}"), v)?),
                ))
            })
            .collect::<std::result::Result<_, ParameterError>>()?;
        if let Some(name) = tensors.keys().next() {
            return Err(ParameterError::Unexpected(name.clone()));
        }
        self.moments = moments;
        self.step = step;
        Ok(())
    }
}
