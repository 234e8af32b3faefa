//! The exponential moving average (EMA) of the weights, which sampling uses.

use std::collections::BTreeMap;

use candle_core::{Result, Tensor, Var};
use diffusion_nn::Parameters;
use serde::{Deserialize, Serialize};

/// The decay of the moving average. The defaults are those of training with `diffusers`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct EmaConfig {
    /// The largest share of the old average that an update keeps, in [0, 1). Default: 0.9999.
    pub decay: f64,
    /// The smallest share of the old average that an update keeps, once averaging has started;
    /// at most `decay`. Default: 0.
    pub min_decay: f64,
    /// The number of updates that only copy the weights. Default: 0.
    pub update_after_step: u64,
    /// Raises the decay as 1 − (1 + k/inv_gamma)^−power with the number k of updates, otherwise as
    /// (1 + k)/(10 + k). Default: true.
    pub use_ema_warmup: bool,
    /// The `inv_gamma` of `use_ema_warmup`, above 0. Default: 1.
    pub inv_gamma: f64,
    /// The exponent of `use_ema_warmup`, above 0: 2/3 for long trainings, 3/4 for short ones.
    /// Default: 0.75.
    pub power: f64,
}

impl Default for EmaConfig {
    fn default() -> Self {
        Self {
            decay: 0.9999,
            min_decay: 0.0,
            update_after_step: 0,
            use_ema_warmup: true,
            inv_gamma: 1.0,
            power: 0.75,
        }
    }
}

impl EmaConfig {
    /// The share of the old average that update number `step`, counted from 1, keeps. The first
    /// update only copies.
    pub fn decay_at(&self, step: u64) -> f64 {
        let k = step.saturating_sub(self.update_after_step + 1) as f64;
        if k == 0.0 {
            return 0.0;
        }
        let rising = if self.use_ema_warmup {
            1.0 - (1.0 + k / self.inv_gamma).powf(-self.power)
        } else {
            (1.0 + k) / (10.0 + k)
        };
        rising.min(self.decay).max(self.min_decay)
    }
}

/// The moving averages. [`AdamW::update`](crate::AdamW::update) updates them in its pass over the
/// weights.
#[derive(Clone, Debug)]
pub struct Ema {
    config: EmaConfig,
    shadow: BTreeMap<String, Var>,
}

impl Ema {
    /// Averages that start from the current weights.
    ///
    /// # Errors
    /// An error of the device.
    pub fn new(config: EmaConfig, parameters: &Parameters) -> Result<Self> {
        let shadow = parameters
            .iter()
            .map(|(name, var)| Ok((name.to_owned(), Var::from_tensor(&var.copy()?)?)))
            .collect::<Result<_>>()?;
        Ok(Self { config, shadow })
    }

    /// The average of a parameter, and the share of the new weights in update number `step`.
    pub(crate) fn share(&self, name: &str, step: u64) -> Option<(&Var, f64)> {
        Some((self.shadow.get(name)?, 1.0 - self.config.decay_at(step)))
    }

    /// The averages by name. The tensors share memory with the averages: write or copy them before
    /// the next update.
    pub fn tensors(&self) -> BTreeMap<String, Tensor> {
        self.shadow.iter().map(|(name, var)| (name.clone(), var.as_detached_tensor())).collect()
    }

    /// Restores saved averages, which must belong to the same network.
    ///
    /// # Errors
    /// An error of the device.
    pub(crate) fn restore(&mut self, shadow: BTreeMap<String, Tensor>) -> Result<()> {
        self.shadow = shadow
            .into_iter()
            .map(|(name, tensor)| Ok((name, Var::from_tensor(&tensor)?)))
            .collect::<Result<_>>()?;
        Ok(())
    }
}
