//! Averages of the weights by power functions, from which averages of other lengths are computed
//! after the training (Karras et al. 2024, section 3).

// After step t, an average contains the weights of step τ with the share
// p(τ) = (γ + 1)·τ^γ / t^(γ+1), for τ from 0 to t. So it is updated by
//
//     average ← average + (1 − (1 − 1/t)^(γ+1)) · (weights − average)
//
// Its length is the standard deviation of p, divided by t. It follows from γ alone.
//
// An average of another length, after any step, is approximated by a sum of saved averages, whose
// coefficients minimise ‖Σ x_i·p_i − p‖². The scalar products of these functions are known:
//
//     ⟨p_a, p_b⟩ = (γ_a + 1)(γ_b + 1)/(γ_a + γ_b + 1)
//                  · min(t_a, t_b)^(γ_a+γ_b+1) / (t_a^(γ_a+1)·t_b^(γ_b+1))

use std::collections::BTreeMap;

use candle_core::{Result, Tensor, Var};
use diffusion_kernels as kernels;
use diffusion_nn::{ParameterError, Parameters};
use nalgebra::{DMatrix, DVector};
use serde::{Deserialize, Serialize};

/// The weights of the steps in an average, as a power function.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PowerProfile {
    /// The exponent γ, at least 0.
    pub exponent: f64,
    /// The number of steps t, at least 1.
    pub step: u64,
}

impl PowerProfile {
    /// The lengths of the two averages that a training saves.
    pub const LENGTHS: [f64; 2] = [0.05, 0.10];
    /// The largest length, that of the mean of all steps.
    pub const MAX_LENGTH: f64 = 0.288;

    /// The profile of a length, the standard deviation of the steps divided by t, above 0 and at
    /// most [`MAX_LENGTH`](Self::MAX_LENGTH).
    pub fn of_length(length: f64, step: u64) -> Self {
        // The length falls with the exponent.
        let (mut low, mut high) = (0.0f64, 1e9f64);
        for _ in 0..200 {
            let middle = f64::midpoint(low, high);
            if length_of(middle) > length { low = middle } else { high = middle }
        }
        Self { exponent: high, step }
    }

    /// The standard deviation of the steps, divided by t.
    pub fn length(&self) -> f64 {
        length_of(self.exponent)
    }

    /// The scalar product of two profiles.
    fn dot(&self, other: &Self) -> f64 {
        let (a, b) = (self.exponent + 1.0, other.exponent + 1.0);
        let [ta, tb] = [self.step as f64, other.step as f64].map(f64::ln);
        a * b / (a + b - 1.0) * ((a + b - 1.0) * ta.min(tb) - a * ta - b * tb).exp()
    }

    /// The coefficients of the sum of averages with the profiles `saved` that is nearest to an
    /// average with this profile, and the distance that remains, relative to the length of this
    /// profile. The sum of the coefficients is 1.
    pub fn coefficients(&self, saved: &[Self]) -> (Vec<f64>, f64) {
        let norms: Vec<f64> = saved.iter().map(|profile| profile.dot(profile).sqrt()).collect();
        let n = saved.len();
        let products =
            DMatrix::from_fn(n, n, |i, j| saved[i].dot(&saved[j]) / (norms[i] * norms[j]));
        let target = DVector::from_fn(n, |i, _| saved[i].dot(self) / norms[i]);
        // Profiles of neighbouring steps are nearly equal, so the system is nearly singular.
        let solution = products.clone().svd(true, true).solve(&target, 1e-10);
        let solution = solution.unwrap_or_else(|_| DVector::zeros(n));
        let sum: f64 = solution.iter().zip(&norms).map(|(x, norm)| x / norm).sum();
        let solution = solution / sum;
        let square =
            self.dot(self) - 2.0 * solution.dot(&target) + solution.dot(&(&products * &solution));
        let distance = (square.max(0.0) / self.dot(self)).sqrt();
        (solution.iter().zip(norms).map(|(x, norm)| x / norm).collect(), distance)
    }
}

fn length_of(exponent: f64) -> f64 {
    (exponent + 1.0).sqrt() / ((exponent + 2.0) * (exponent + 3.0).sqrt())
}

/// Steps between two updates of the averages. The weights change so little in between that it does
/// not show in the averages.
const STRIDE: u64 = 4;

/// Two averages of different lengths.
#[derive(Clone, Debug)]
pub(crate) struct PowerEma {
    exponents: [f64; 2],
    averages: [BTreeMap<String, Var>; 2],
    /// The step of the last update.
    step: u64,
}

impl PowerEma {
    pub(crate) fn new(parameters: &Parameters) -> Result<Self> {
        let copies = || {
            let copy =
                |(name, var): (&str, &Var)| Ok((name.to_owned(), Var::from_tensor(&var.copy()?)?));
            parameters.iter().map(copy).collect::<Result<BTreeMap<_, _>>>()
        };
        let exponents =
            PowerProfile::LENGTHS.map(|length| PowerProfile::of_length(length, 1).exponent);
        Ok(Self { exponents, averages: [copies()?, copies()?], step: 0 })
    }

    /// Adds the weights after `step` updates.
    pub(crate) fn update(&mut self, parameters: &Parameters, step: u64) -> Result<()> {
        if !step.is_multiple_of(STRIDE) {
            return Ok(());
        }
        for (exponent, averages) in self.exponents.iter().zip(&self.averages) {
            let kept = (self.step as f64 / step as f64).powf(exponent + 1.0);
            for (name, weight) in parameters.iter() {
                if let Some(average) = averages.get(name) {
                    kernels::mix(average, weight, 1.0 - kept)?;
                }
            }
        }
        self.step = step;
        Ok(())
    }

    /// The profiles of both averages; `None` before the first update.
    pub(crate) fn profiles(&self) -> Option<[PowerProfile; 2]> {
        let step = self.step;
        (step > 0).then(|| self.exponents.map(|exponent| PowerProfile { exponent, step }))
    }

    /// Both averages as named tensors, `0/NAME` and `1/NAME`.
    pub(crate) fn tensors(&self) -> BTreeMap<String, Tensor> {
        let named = |(i, averages): (usize, &BTreeMap<String, Var>)| {
            averages
                .iter()
                .map(move |(name, var)| (format!("{i}/{name}"), var.as_detached_tensor()))
                .collect::<Vec<_>>()
        };
        self.averages.iter().enumerate().flat_map(named).collect()
    }

    /// Restores the averages saved after `step` updates of the weights.
    pub(crate) fn restore(
        &mut self,
        step: u64,
        mut tensors: BTreeMap<String, Tensor>,
    ) -> std::result::Result<(), ParameterError> {
        for (i, averages) in self.averages.iter_mut().enumerate() {
            for (name, var) in averages {
                let key = format!("{i}/{name}");
                let Some(tensor) = tensors.remove(&key) else {
                    return Err(ParameterError::Missing(key));
                };
                if tensor.dims() != var.dims() {
                    let (expected, found) = (var.dims().to_vec(), tensor.dims().to_vec());
                    return Err(ParameterError::Shape { name: key, expected, found });
                }
                *var = Var::from_tensor(&tensor)?;
            }
        }
        if let Some(name) = tensors.keys().next() {
            return Err(ParameterError::Unexpected(name.clone()));
        }
        self.step = step / STRIDE * STRIDE;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;

    /// Values from the paper's section 3.1.
    #[test]
    fn lengths_of_the_paper_have_its_exponents() {
        for (length, exponent) in [(0.05, 16.97), (0.10, 6.94), (0.15, 3.56)] {
            let found = PowerProfile::of_length(length, 1).exponent;
            assert!((found - exponent).abs() < 0.01, "{length}: {found}");
            assert!((length_of(found) - length).abs() < 1e-9);
        }
        assert!(length_of(0.0) > PowerProfile::MAX_LENGTH);
    }

    /// The average of the numbers f(τ) by a profile, as a sum over steps.
    fn average(profile: &PowerProfile, f: impl Fn(f64) -> f64) -> f64 {
        let (exponent, t) = (profile.exponent, profile.step as f64);
        let share = |step: f64| (step / t).powf(exponent + 1.0);
        let steps = (1..=profile.step).map(|step| step as f64);
        steps.map(|step| f(step) * (share(step) - share(step - 1.0))).sum()
    }

    #[test]
    fn averages_of_other_lengths_are_sums_of_saved_ones() {
        let saved: Vec<PowerProfile> = (1..=16)
            .flat_map(|i| PowerProfile::LENGTHS.map(|l| PowerProfile::of_length(l, 250 * i)))
            .collect();
        // A course that no polynomial describes.
        let f = |step: f64| (step / 170.0).sin() + (step / 900.0).exp() + (step / 3000.0);
        for length in [0.01, 0.03, 0.07, 0.1, 0.15, 0.25] {
            let target = PowerProfile::of_length(length, 4000);
            let (coefficients, distance) = target.coefficients(&saved);
            // Shorter averages than the saved ones cannot be reached as well.
            let (farthest, most) = if length < 0.03 { (0.5, 0.3) } else { (0.1, 0.03) };
            assert!(distance < farthest, "{length}: {distance}");
            let sum: f64 =
                coefficients.iter().zip(&saved).map(|(x, profile)| x * average(profile, f)).sum();
            let expected = average(&target, f);
            assert!((sum - expected).abs() < most * expected.abs(), "{length}: {sum} {expected}");
        }
        let (one, distance) = saved[31].coefficients(&saved);
        assert!((one[31] - 1.0).abs() < 1e-6 && one[..31].iter().all(|x| x.abs() < 1e-6));
        assert!(distance < 1e-5);
        // A few averages keep the size of the weights, but cannot have every length.
        for count in [2, 4, 10] {
            let (few, distance) =
                PowerProfile::of_length(0.2, 4000).coefficients(&saved[32 - count..]);
            assert!((few.iter().sum::<f64>() - 1.0).abs() < 1e-9, "{count}");
            assert!(distance > 0.1, "{count}: {distance}");
        }
    }

    #[test]
    fn updates_follow_the_profile() {
        let weight =
            Var::from_tensor(&Tensor::zeros(3, candle_core::DType::F32, &Device::Cpu).unwrap())
                .unwrap();
        let parameters = Parameters::from_vars([("w".to_owned(), weight.clone())]);
        let mut ema = PowerEma::new(&parameters).unwrap();
        assert!(ema.profiles().is_none());
        let f = |step: f64| 1.0 + (step / 100.0).sin();
        for step in 1..=400u64 {
            let value = f(step as f64) as f32;
            weight.set(&Tensor::full(value, 3, &Device::Cpu).unwrap()).unwrap();
            ema.update(&parameters, step).unwrap();
        }
        for (i, profile) in ema.profiles().unwrap().iter().enumerate() {
            assert_eq!(profile.step, 400);
            let found = ema.tensors()[&format!("{i}/w")].to_vec1::<f32>().unwrap()[1];
            let expected = average(profile, f);
            // The stride delays the average by less than two steps, of 0.01 each.
            assert!((f64::from(found) - expected).abs() < 0.02, "{i}: {found} {expected}");
        }
        let mut other = PowerEma::new(&parameters).unwrap();
        other.restore(400, ema.tensors()).unwrap();
        assert_eq!(other.profiles(), ema.profiles());
        let missing = other.restore(400, BTreeMap::new()).unwrap_err().to_string();
        assert!(missing.contains("0/w"), "{missing}");
    }
}
