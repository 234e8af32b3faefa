//! AdamW with its moments in the open, so that a checkpoint can hold them.

use std::collections::BTreeMap;

use candle_core::{Result, Tensor};
use diffusion_unet::Parameters;
use serde::{Deserialize, Serialize};

use crate::gradients::Gradients;

/// The constants of AdamW. With `weight_decay` 0 it is Adam.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AdamWConfig {
    /// The base learning rate, above 0.
    pub lr: f64,
    /// Decay of the first moment, in [0, 1).
    pub beta1: f64,
    /// Decay of the second moment, in [0, 1).
    pub beta2: f64,
    /// Added to the root of the second moment, above 0.
    pub eps: f64,
    /// Decoupled weight decay (Loshchilov & Hutter 2019), at least 0.
    pub weight_decay: f64,
}

impl Default for AdamWConfig {
    fn default() -> Self {
        Self { lr: 1e-3, beta1: 0.9, beta2: 0.999, eps: 1e-8, weight_decay: 0.0 }
    }
}

/// AdamW (Loshchilov & Hutter 2019, algorithm 2) in PyTorch's order of operations.
#[derive(Clone, Debug)]
pub struct AdamW {
    config: AdamWConfig,
    step: u64,
    /// First and second moment by the name of the parameter.
    moments: BTreeMap<String, (Tensor, Tensor)>,
}

impl AdamW {
    /// Moments at zero.
    ///
    /// # Errors
    /// Those of the device.
    pub fn new(config: AdamWConfig, parameters: &Parameters) -> Result<Self> {
        let moments = parameters
            .iter()
            .map(|(name, var)| Ok((name.to_owned(), (var.zeros_like()?, var.zeros_like()?))))
            .collect::<Result<_>>()?;
        Ok(Self { config, step: 0, moments })
    }

    /// One update with the learning rate `lr`. A parameter without a gradient stays as it is.
    ///
    /// # Errors
    /// Those of the device.
    pub fn update(&mut self, parameters: &Parameters, gradients: &Gradients, lr: f64) -> Result<()> {
        let AdamWConfig { beta1, beta2, eps, weight_decay, .. } = self.config;
        self.step += 1;
        let correction1 = 1.0 - beta1.powf(self.step as f64);
        let correction2 = 1.0 - beta2.powf(self.step as f64);
        for (name, var) in parameters.iter() {
            let (Some(g), Some((m, v))) = (gradients.get(name), self.moments.get_mut(name)) else { continue };
            *m = (m.affine(beta1, 0.0)? + g.affine(1.0 - beta1, 0.0)?)?;
            *v = (v.affine(beta2, 0.0)? + g.sqr()?.affine(1.0 - beta2, 0.0)?)?;
            let denominator = v.sqrt()?.affine(1.0 / correction2.sqrt(), eps)?;
            let update = (&*m / denominator)?.affine(lr / correction1, 0.0)?;
            let decayed = var.as_detached_tensor().affine(1.0 - lr * weight_decay, 0.0)?;
            var.set(&(decayed - update)?)?;
        }
        Ok(())
    }

    /// The moments as named tensors, `first/NAME` and `second/NAME`.
    pub fn tensors(&self) -> BTreeMap<String, Tensor> {
        self.moments
            .iter()
            .flat_map(|(name, (m, v))| {
                [(format!("first/{name}"), m.clone()), (format!("second/{name}"), v.clone())]
            })
            .collect()
    }

    /// Goes on after `step` updates from saved moments. `Err` names the tensor that is missing or does not fit; then
    /// nothing has changed.
    ///
    /// # Errors
    /// A tensor that is missing, unknown or of another shape.
    pub fn restore(
        &mut self,
        step: u64,
        mut tensors: BTreeMap<String, Tensor>,
    ) -> std::result::Result<(), String> {
        let mut take = |key: String, like: &Tensor| match tensors.remove(&key) {
            Some(t) if t.dims() == like.dims() => Ok(t),
            Some(t) => {
                Err(format!("tensor `{key}` has shape {:?}, the network needs {:?}", t.dims(), like.dims()))
            }
            None => Err(format!("tensor `{key}` is missing")),
        };
        let moments = self
            .moments
            .iter()
            .map(|(name, (m, v))| {
                Ok((name.clone(), (take(format!("first/{name}"), m)?, take(format!("second/{name}"), v)?)))
            })
            .collect::<std::result::Result<_, String>>()?;
        if let Some(name) = tensors.keys().next() {
            return Err(format!("tensor `{name}` belongs to no parameter"));
        }
        self.moments = moments;
        self.step = step;
        Ok(())
    }
}
