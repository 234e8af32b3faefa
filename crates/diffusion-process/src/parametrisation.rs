//! The meaning of a network's output. All conversions between ε, x₀, v, flows and EDM are in this
//! file.

use candle_core::{Result, Tensor, bail};
use diffusion_schedule::{NoiseLevel, edm_noise_conditioning};
use serde::{Deserialize, Serialize};

use crate::Levels;

/// What a network was trained to predict, as named in configurations and model folders.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum PredictionType {
    /// The noise ε (Ho et al. 2020).
    #[default]
    #[serde(rename = "epsilon")]
    Epsilon,
    /// The clean image x₀.
    #[serde(rename = "sample")]
    Sample,
    /// The velocity v = √ᾱ·ε − √(1 − ᾱ)·x₀ (Salimans & Ho 2022).
    #[serde(rename = "v_prediction")]
    VPrediction,
    /// The velocity u = ε − x₀ of the straight path x = (1 − s)·x₀ + s·ε (Lipman et al. 2023).
    #[serde(rename = "flow_prediction")]
    Flow,
}

/// How a network F becomes a denoiser D (Karras et al. 2022, eq. 7):
///
/// ```text
/// D(x) = (c_skip·x + c_out·F(c_in·x; c_noise)) / c_div
/// ```
///
/// Each variant is a choice of these factors; [`preconditioning`](Self::preconditioning) computes
/// them.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Parametrisation {
    /// F predicts the noise ε.
    Epsilon,
    /// F predicts the clean image x₀.
    Sample,
    /// F predicts the velocity v.
    VPrediction,
    /// F predicts the velocity u of the straight path.
    Flow,
    /// F predicts the remainder after preconditioning with the standard deviation of the data
    /// (Karras et al. 2022, table 1, last column).
    Edm {
        /// σ_data, the standard deviation of the data, above 0.
        sigma_data: f64,
    },
}

impl From<PredictionType> for Parametrisation {
    fn from(prediction_type: PredictionType) -> Self {
        match prediction_type {
            PredictionType::Epsilon => Self::Epsilon,
            PredictionType::Sample => Self::Sample,
            PredictionType::VPrediction => Self::VPrediction,
            PredictionType::Flow => Self::Flow,
        }
    }
}

/// The factors of a [`Parametrisation`] at one noise level.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Preconditioning {
    /// The factor of x in D.
    pub c_skip: f64,
    /// The factor of the network's output in D.
    pub c_out: f64,
    /// The factor of x in the network's input.
    pub c_in: f64,
    /// The noise level in the network's input: the timestep, or ln(σ)/4 for EDM.
    pub c_noise: f64,
    /// The divisor in D. 1, except for ε, where one division has a smaller rounding error than two
    /// products.
    pub c_div: f64,
}

/// An estimate of the clean image and of the noise, with x = signal·x̂₀ + noise·ε̂.
#[derive(Clone, Debug)]
pub struct Prediction {
    /// x̂₀, the estimated clean image (N, C, H, W).
    pub x0: Tensor,
    /// ε̂, the estimated noise (N, C, H, W).
    pub noise: Tensor,
    /// The learned log-variance of the reverse step (N, C, H, W), if the network predicts one. −1
    /// is the log-variance of the posterior, 1 is ln β (Nichol & Dhariwal 2021, eq. 15).
    pub variance: Option<Tensor>,
}

impl Parametrisation {
    /// The factors for an image x = signal·x₀ + noise·ε at any scale.
    ///
    /// Networks for ε, x₀ and v are trained on images of variance 1, networks for flows on images
    /// whose two factors add up to 1. `c_in` brings x to this scale.
    pub fn preconditioning(self, level: &NoiseLevel) -> Preconditioning {
        let NoiseLevel { timestep: c_noise, signal, noise } = *level;
        let c_in = match self {
            Self::Epsilon | Self::Sample | Self::VPrediction => unit_variance(level),
            Self::Flow => snap_to_one(1.0 / (signal + noise)),
            Self::Edm { sigma_data } => 1.0 / level.sigma().hypot(sigma_data) / signal,
        };
        match self {
            Self::Epsilon => {
                Preconditioning { c_skip: 1.0, c_out: -noise, c_in, c_noise, c_div: signal }
            }
            Self::Sample => Preconditioning { c_skip: 0.0, c_out: 1.0, c_in, c_noise, c_div: 1.0 },
            Self::VPrediction => {
                let c_skip = c_in * c_in * signal;
                Preconditioning { c_skip, c_out: -c_in * noise, c_in, c_noise, c_div: 1.0 }
            }
            Self::Flow => {
                Preconditioning { c_skip: c_in, c_out: -c_in * noise, c_in, c_noise, c_div: 1.0 }
            }
            Self::Edm { sigma_data } => {
                let sigma = level.sigma();
                let total = sigma.hypot(sigma_data);
                Preconditioning {
                    c_skip: sigma_data * sigma_data / (total * total) / signal,
                    c_out: sigma * sigma_data / total,
                    c_in,
                    c_noise: edm_noise_conditioning(sigma.ln()),
                    c_div: 1.0,
                }
            }
        }
    }

    /// The target of the loss: the output F for which D(x) = x₀. `x0` and `noise` are (N, C, H, W).
    ///
    /// # Errors
    /// If the shapes differ.
    pub fn target(self, x0: &Tensor, noise: &Tensor, levels: &Levels) -> Result<Tensor> {
        match self {
            Self::Epsilon => Ok(noise.clone()),
            Self::Sample => Ok(x0.clone()),
            Self::VPrediction => {
                let at_variance_1 = |factor: fn(&NoiseLevel) -> f64| {
                    levels.column(|level| unit_variance(level) * factor(level))
                };
                let (signal, sigma) = (at_variance_1(|l| l.signal)?, at_variance_1(|l| l.noise)?);
                noise.broadcast_mul(&signal)? - x0.broadcast_mul(&sigma)?
            }
            Self::Flow => noise - x0,
            Self::Edm { .. } => {
                let c = |factor: fn(&Preconditioning) -> f64| self.column(factor, levels);
                let skipped = levels.add_noise(x0, noise)?.broadcast_mul(&c(|c| c.c_skip)?)?;
                (x0 - skipped)?.broadcast_div(&c(|c| c.c_out)?)
            }
        }
    }

    /// Converts the network's `output` for `x` to x̂₀ = D(x) and the matching ε̂. All are (N, C, H,
    /// W).
    ///
    /// # Errors
    /// - If the shapes differ.
    /// - If ε is predicted at a level without signal, where it does not determine x₀.
    pub fn to_prediction(self, output: &Tensor, x: &Tensor, levels: &Levels) -> Result<Prediction> {
        if self == Self::Epsilon && levels.any_without_signal() {
            bail!(
                "an epsilon prediction cannot recover x0 where alpha_cumprod is 0; \
                 a zero-terminal-SNR schedule needs a model of prediction type \
                 \"v_prediction\" or \"sample\""
            );
        }
        let x0 = self.denoised(output, x, levels)?;
        let noise = match self {
            // These three use the output directly. Dividing x − signal·x̂₀ by a low noise factor
            // would amplify rounding errors.
            Self::Epsilon => output.clone(),
            Self::VPrediction => {
                let of_output = levels.column(|level| unit_variance(level) * level.signal)?;
                let of_x = levels.column(|level| unit_variance(level).powi(2) * level.noise)?;
                (output.broadcast_mul(&of_output)? + x.broadcast_mul(&of_x)?)?
            }
            Self::Flow => (&x0 + output)?,
            Self::Sample | Self::Edm { .. } => return Prediction::from_x0(&x0, x, levels),
        };
        Ok(Prediction { x0, noise, variance: None })
    }

    /// Converts a prediction back to the network's output: the inverse of
    /// [`to_prediction`](Self::to_prediction).
    ///
    /// # Errors
    /// If the shapes differ.
    pub fn from_prediction(self, p: &Prediction, levels: &Levels) -> Result<Tensor> {
        self.target(&p.x0, &p.noise, levels)
    }

    /// D(x). Skips multiplications by 1 and 0.
    fn denoised(self, output: &Tensor, x: &Tensor, levels: &Levels) -> Result<Tensor> {
        let all = |factor: fn(&Preconditioning) -> f64, value: f64| {
            levels.iter().all(|level| factor(&self.preconditioning(level)) == value)
        };
        let times = |tensor: &Tensor, factor: fn(&Preconditioning) -> f64| {
            if all(factor, 1.0) {
                return Ok(tensor.clone());
            }
            tensor.broadcast_mul(&self.column(factor, levels)?)
        };
        let scaled_output = times(output, |c| c.c_out)?;
        let sum = if all(|c| c.c_skip, 0.0) {
            scaled_output
        } else {
            (times(x, |c| c.c_skip)? + scaled_output)?
        };
        if all(|c| c.c_div, 1.0) {
            Ok(sum)
        } else {
            sum.broadcast_div(&self.column(|c| c.c_div, levels)?)
        }
    }

    /// One of the factors of each image: (N, 1, 1, 1).
    fn column(self, factor: fn(&Preconditioning) -> f64, levels: &Levels) -> Result<Tensor> {
        levels.column(|level| factor(&self.preconditioning(level)))
    }
}

/// The factor that brings images at `level` to variance 1.
fn unit_variance(level: &NoiseLevel) -> f64 {
    snap_to_one(level.to_variance_preserving())
}

/// `factor`, or exactly 1 if it differs from 1 by a rounding error only.
fn snap_to_one(factor: f64) -> f64 {
    if (factor - 1.0).abs() < 1e-12 { 1.0 } else { factor }
}

impl Prediction {
    /// The prediction with the given x̂₀ and ε̂ = (x − signal·x̂₀)/noise.
    ///
    /// # Errors
    /// If the shapes differ.
    pub fn from_x0(x0: &Tensor, x: &Tensor, levels: &Levels) -> Result<Self> {
        let noise = (x - x0.broadcast_mul(levels.signal())?)?.broadcast_div(levels.noise())?;
        Ok(Self { x0: x0.clone(), noise, variance: None })
    }

    /// Replaces x̂₀ of this prediction for `x` (N, C, H, W), where all images are at `level`.
    ///
    /// ε̂ is computed from x and the new x̂₀. At a level without noise it stays the same.
    ///
    /// # Errors
    /// If the shapes differ.
    pub fn with_x0(self, x0: Tensor, x: &Tensor, level: NoiseLevel) -> Result<Self> {
        if level.is_clean() {
            return Ok(Self { x0, ..self });
        }
        let levels = Levels::new(&vec![level; x.dim(0)?], x)?;
        Ok(Self { variance: self.variance, ..Self::from_x0(&x0, x, &levels)? })
    }
}
