//! The gradients of all parameters: sums, norms, clipping and checks.

use std::collections::BTreeMap;

use candle_core::backprop::GradStore;
use candle_core::{Result, Tensor, Var};
use diffusion_kernels::{add_gradients, square_sum};
use diffusion_nn::Parameters;

/// Gradients by the name of their parameter.
#[derive(Debug)]
pub struct Gradients {
    by_name: BTreeMap<String, Tensor>,
    scale: f64,
}

impl Default for Gradients {
    fn default() -> Self {
        Self { by_name: BTreeMap::new(), scale: 1.0 }
    }
}

impl Gradients {
    /// The gradients of `parameters` that one backward pass computed.
    pub fn new(parameters: &Parameters, mut store: GradStore) -> Self {
        let of = |(name, var): (&str, &Var)| Some((name.to_owned(), store.remove(var)?));
        Self { by_name: parameters.iter().filter_map(of).collect(), scale: 1.0 }
    }

    /// Adds other gradients.
    ///
    /// # Errors
    /// An error of the device.
    pub(crate) fn add(&mut self, others: Self) -> Result<()> {
        for (name, gradient) in others.by_name {
            let sum = match self.by_name.remove(&name) {
                Some(sum) => add_gradients(sum, &gradient)?,
                None => gradient,
            };
            self.by_name.insert(name, sum);
        }
        Ok(())
    }

    /// The sum of several gradients. Neighbours are added first, then the sums of neighbours, and
    /// so on.
    ///
    /// # Errors
    /// An error of the device.
    pub(crate) fn total(mut parts: Vec<Self>) -> Result<Self> {
        while parts.len() > 1 {
            let mut rest = parts.into_iter();
            parts = Vec::new();
            while let Some(mut sum) = rest.next() {
                if let Some(neighbour) = rest.next() {
                    sum.add(neighbour)?;
                }
                parts.push(sum);
            }
        }
        Ok(parts.pop().unwrap_or_default())
    }

    /// The gradient of one parameter, before [clipping](Self::clip).
    pub fn get(&self, name: &str) -> Option<&Tensor> {
        self.by_name.get(name)
    }

    /// The norm of each gradient, by name.
    fn norms(&self) -> Result<Vec<(&str, f64)>> {
        self.by_name
            .iter()
            .map(|(name, gradient)| Ok((name.as_str(), square_sum(gradient)?.sqrt())))
            .collect()
    }

    /// The Euclidean norm over all gradients together.
    ///
    /// # Errors
    /// An error of the device.
    pub fn global_norm(&self) -> Result<f64> {
        Ok(self.norms()?.iter().map(|(_, norm)| norm * norm).sum::<f64>().sqrt())
    }

    /// Sets the scale of all gradients to min(1, max_norm/(norm + 1e-6)), as PyTorch does.
    ///
    /// `norm` is their [`global_norm`](Self::global_norm). The optimiser applies the scale when it
    /// reads the gradients.
    pub fn clip(&mut self, norm: f64, max_norm: f64) {
        self.scale = (max_norm / (norm + 1e-6)).min(1.0);
    }

    /// The factor by which the optimiser multiplies the gradients.
    pub fn scale(&self) -> f64 {
        self.scale
    }

    /// The first parameter, in the order of names, whose gradient is not finite.
    ///
    /// # Errors
    /// An error of the device.
    pub(crate) fn first_not_finite(&self) -> Result<Option<String>> {
        Ok(self
            .norms()?
            .into_iter()
            .find(|(_, norm)| !norm.is_finite())
            .map(|(name, _)| name.to_owned()))
    }

    /// The parameters whose gradient is missing, all zero or not finite.
    ///
    /// # Errors
    /// An error of the device.
    pub(crate) fn dead(&self, parameters: &Parameters) -> Result<Vec<String>> {
        let norms: BTreeMap<&str, f64> = self.norms()?.into_iter().collect();
        let alive =
            |name: &str| norms.get(name).is_some_and(|norm| norm.is_finite() && *norm > 0.0);
        Ok(parameters
            .iter()
            .map(|(name, _)| name)
            .filter(|name| !alive(name))
            .map(str::to_owned)
            .collect())
    }
}
