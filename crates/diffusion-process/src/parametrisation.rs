//! What the output of a network means. Every conversion between ε, x₀, v, flows and EDM is in this file.

use candle_core::{Result, Tensor, bail};
use diffusion_schedule::{NoiseLevel, edm_noise_conditioning};
use serde::{Deserialize, Serialize};

use crate::Levels;

/// What a network was trained to predict, as configurations and model folders name it.
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

/// The way from a network F to a denoiser D (Karras et al. 2022, eq. 7):
///
/// ```text
/// D(x) = (c_skip·x + c_out·F(c_in·x; c_noise)) / c_div
/// ```
///
/// Each variant is a choice of these factors, see [`preconditioning`](Self::preconditioning).
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Parametrisation {
    /// F is the noise ε.
    Epsilon,
    /// F is the clean image x₀.
    Sample,
    /// F is the velocity v.
    VPrediction,
    /// F is the velocity u of the straight path.
    Flow,
    /// F is what is left after preconditioning by the data's standard deviation (Karras et al. 2022, table 1, last
    /// column).
    Edm {
        /// σ_data, above 0.
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
    /// Of x in D.
    pub c_skip: f64,
    /// Of the network's output in D.
    pub c_out: f64,
    /// Of x as the network sees it.
    pub c_in: f64,
    /// What the network sees of the noise level: the timestep, or ln(σ)/4 for EDM.
    pub c_noise: f64,
    /// What the sum in D is divided by: 1, but for ε, where one division rounds less than two products.
    pub c_div: f64,
}

/// A clean image and the noise on it, two views of one estimate: x = signal·x̂₀ + noise·ε̂.
#[derive(Clone, Debug)]
pub struct Prediction {
    /// x̂₀, (N, C, H, W), in the range of the data.
    pub x0: Tensor,
    /// ε̂, (N, C, H, W).
    pub noise: Tensor,
    /// Where a network has learned it: the reverse step's log-variance, from −1 for that of the posterior to 1 for β,
    /// (N, C, H, W) (Nichol & Dhariwal 2021, eq. 15).
    pub variance: Option<Tensor>,
}

impl Parametrisation {
    /// The factors for an image x = signal·x₀ + noise·ε, at any scale. ε, x₀ and v were trained on images of variance 1,
    /// flows on images whose two factors add up to 1.
    pub fn preconditioning(self, level: &NoiseLevel) -> Preconditioning {
        let NoiseLevel { timestep: c_noise, signal, noise } = *level;
        let c_in = match self {
            Self::Epsilon | Self::Sample | Self::VPrediction => unit_variance(level),
            Self::Flow => without_rounding(1.0 / (signal + noise)),
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

    /// The target of the loss: the F at which D is x₀. `x0` and `noise` are (N, C, H, W).
    ///
    /// # Errors
    /// Shapes that differ.
    pub fn target(self, x0: &Tensor, noise: &Tensor, levels: &Levels) -> Result<Tensor> {
        match self {
            Self::Epsilon => Ok(noise.clone()),
            Self::Sample => Ok(x0.clone()),
            Self::VPrediction => {
                let of_variance_1 = |factor: fn(&NoiseLevel) -> f64| {
                    levels.column(|level| unit_variance(level) * factor(level))
                };
                let (signal, sigma) = (of_variance_1(|l| l.signal)?, of_variance_1(|l| l.noise)?);
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

    /// x̂₀ = D(x) and the ε̂ that belongs to it. `output` is what the network said of x, both (N, C, H, W).
    ///
    /// # Errors
    /// Shapes that differ; x₀ asked of an ε prediction at a level without signal, where it cannot be known.
    pub fn to_prediction(self, output: &Tensor, x: &Tensor, levels: &Levels) -> Result<Prediction> {
        if self == Self::Epsilon && levels.any_without_signal() {
            bail!(
                "an epsilon prediction cannot recover x0 where alpha_cumprod is 0; a zero-terminal-SNR schedule needs a \
                 model of prediction type \"v_prediction\" or \"sample\""
            );
        }
        let x0 = self.denoised(output, x, levels)?;
        let noise = match self {
            // Directly from the output: at low noise, dividing what is left of x by it would enlarge rounding errors.
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

    /// The inverse of [`to_prediction`](Self::to_prediction): the network's output that means `p`.
    ///
    /// # Errors
    /// Shapes that differ.
    pub fn from_prediction(self, p: &Prediction, levels: &Levels) -> Result<Tensor> {
        self.target(&p.x0, &p.noise, levels)
    }

    /// D(x), without the products by 1 and 0.
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

    /// One of the factors for each image: (N, 1, 1, 1).
    fn column(self, factor: fn(&Preconditioning) -> f64, levels: &Levels) -> Result<Tensor> {
        levels.column(|level| factor(&self.preconditioning(level)))
    }
}

/// The factor that gives images at `level` a variance of 1.
fn unit_variance(level: &NoiseLevel) -> f64 {
    without_rounding(level.to_variance_preserving())
}

/// `factor`, or 1 where it differs from 1 by rounding only.
fn without_rounding(factor: f64) -> f64 {
    if (factor - 1.0).abs() < 1e-12 { 1.0 } else { factor }
}

impl Prediction {
    /// The estimate with the given x̂₀; the noise is what is left of x: ε̂ = (x − signal·x̂₀)/noise.
    ///
    /// # Errors
    /// Shapes that differ.
    pub fn from_x0(x0: &Tensor, x: &Tensor, levels: &Levels) -> Result<Self> {
        let noise = (x - x0.broadcast_mul(levels.signal())?)?.broadcast_div(levels.noise())?;
        Ok(Self { x0: x0.clone(), noise, variance: None })
    }

    /// The same estimate of `x` (N, C, H, W), all of it at `level`, with another x̂₀; the noise is what is left of x, or as
    /// it was where there is none.
    ///
    /// # Errors
    /// Shapes that differ.
    pub fn with_x0(self, x0: Tensor, x: &Tensor, level: NoiseLevel) -> Result<Self> {
        if level.is_clean() {
            return Ok(Self { x0, ..self });
        }
        let levels = Levels::new(&vec![level; x.dim(0)?], x)?;
        Ok(Self { variance: self.variance, ..Self::from_x0(&x0, x, &levels)? })
    }
}
