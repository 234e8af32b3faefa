//! The gradients of all parameters: sums, norms and what is wrong with them.

use std::collections::BTreeMap;

use candle_core::backprop::GradStore;
use candle_core::{DType, Result, Tensor};
use diffusion_unet::Parameters;

/// Gradients by the name of their parameter.
#[derive(Clone, Debug, Default)]
pub struct Gradients {
    by_name: BTreeMap<String, Tensor>,
}

impl Gradients {
    /// Adds those of one backward pass.
    ///
    /// # Errors
    /// Those of the device.
    pub fn accumulate(&mut self, parameters: &Parameters, mut store: GradStore) -> Result<()> {
        for (name, var) in parameters.iter() {
            if let Some(fresh) = store.remove(var) {
                let sum = match self.by_name.get(name) {
                    Some(sum) => (sum + fresh)?,
                    None => fresh,
                };
                self.by_name.insert(name.to_owned(), sum);
            }
        }
        Ok(())
    }

    /// The gradient of one parameter.
    pub fn get(&self, name: &str) -> Option<&Tensor> {
        self.by_name.get(name)
    }

    /// The norm of each gradient, by name.
    fn norms(&self) -> Result<Vec<(&str, f64)>> {
        self.by_name
            .iter()
            .map(|(name, gradient)| {
                let squares = gradient.sqr()?.sum_all()?.to_dtype(DType::F64)?.to_scalar::<f64>()?;
                Ok((name.as_str(), squares.sqrt()))
            })
            .collect()
    }

    /// The Euclidean norm over all gradients together.
    ///
    /// # Errors
    /// Those of the device.
    pub fn global_norm(&self) -> Result<f64> {
        Ok(self.norms()?.iter().map(|(_, norm)| norm * norm).sum::<f64>().sqrt())
    }

    /// Scales all gradients by min(1, max_norm/(norm + 1e-6)), as PyTorch does; `norm` is their
    /// [`global_norm`](Self::global_norm).
    ///
    /// # Errors
    /// Those of the device.
    pub fn clip(&mut self, norm: f64, max_norm: f64) -> Result<()> {
        let scale = max_norm / (norm + 1e-6);
        if scale < 1.0 {
            for gradient in self.by_name.values_mut() {
                *gradient = gradient.affine(scale, 0.0)?;
            }
        }
        Ok(())
    }

    /// The first parameter, by name, whose gradient holds a number that is not finite.
    ///
    /// # Errors
    /// Those of the device.
    pub fn first_not_finite(&self) -> Result<Option<String>> {
        Ok(self.norms()?.into_iter().find(|(_, norm)| !norm.is_finite()).map(|(name, _)| name.to_owned()))
    }

    /// Parameters that learn nothing: no gradient, all zero, or not finite.
    ///
    /// # Errors
    /// Those of the device.
    pub fn dead(&self, parameters: &Parameters) -> Result<Vec<String>> {
        let norms: BTreeMap<&str, f64> = self.norms()?.into_iter().collect();
        let alive = |name: &str| norms.get(name).is_some_and(|norm| norm.is_finite() && *norm > 0.0);
        Ok(parameters.iter().map(|(name, _)| name).filter(|name| !alive(name)).map(str::to_owned).collect())
    }
}
