//! What a network predicts, and how one prediction becomes another. All conversions of the project are here.

use candle_core::{Result, Tensor, bail};
use diffusion_schedule::NoiseLevel;
use serde::{Deserialize, Serialize};

use crate::Levels;

/// What the output of a network means.
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

/// A clean image and the noise on it, two views of one estimate: x_t = √ᾱ·x₀ + √(1 − ᾱ)·ε.
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

impl PredictionType {
    /// What a network of this type should have said: the target of its loss.
    ///
    /// # Errors
    /// Shapes that differ.
    pub fn target(self, x0: &Tensor, noise: &Tensor, levels: &Levels) -> Result<Tensor> {
        match self {
            Self::Epsilon => Ok(noise.clone()),
            Self::Sample => Ok(x0.clone()),
            Self::VPrediction => noise.broadcast_mul(levels.signal())? - x0.broadcast_mul(levels.noise())?,
            Self::Flow => noise - x0,
        }
    }

    /// The factor that brings an image at `level` to the scale at which networks of this type are trained.
    pub fn input_scale(self, level: &NoiseLevel) -> f64 {
        match self {
            Self::Flow => 1.0 / (level.signal + level.noise),
            _ => level.to_variance_preserving(),
        }
    }

    /// x̂₀ and ε̂ from a network's output at x_t, which has the [`input_scale`](Self::input_scale) of this type.
    ///
    /// # Errors
    /// Shapes that differ; ε asked for x₀ where ᾱ = 0, which it cannot know.
    pub fn to_prediction(self, model_output: &Tensor, x_t: &Tensor, levels: &Levels) -> Result<Prediction> {
        let (signal, sigma) = (levels.signal(), levels.noise());
        match self {
            Self::Epsilon => {
                if levels.any_without_signal() {
                    bail!(
                        "an epsilon prediction cannot recover x0 where alpha_cumprod is 0; \
                         a zero-terminal-SNR schedule wants a model of prediction type \"v_prediction\" or \"sample\""
                    );
                }
                let noise = model_output.clone();
                let x0 = (x_t - noise.broadcast_mul(sigma)?)?.broadcast_div(signal)?;
                Ok(Prediction { x0, noise, variance: None })
            }
            Self::Sample => Prediction::from_x0(model_output, x_t, levels),
            Self::VPrediction => Ok(Prediction {
                x0: (x_t.broadcast_mul(signal)? - model_output.broadcast_mul(sigma)?)?,
                noise: (model_output.broadcast_mul(signal)? + x_t.broadcast_mul(sigma)?)?,
                variance: None,
            }),
            Self::Flow => {
                let x0 = (x_t - model_output.broadcast_mul(sigma)?)?;
                Ok(Prediction { noise: (&x0 + model_output)?, x0, variance: None })
            }
        }
    }

    /// The inverse of [`to_prediction`](Self::to_prediction): what a network of this type says when it means `p`.
    ///
    /// # Errors
    /// Shapes that differ.
    pub fn from_prediction(self, p: &Prediction, levels: &Levels) -> Result<Tensor> {
        self.target(&p.x0, &p.noise, levels)
    }
}

impl Prediction {
    /// The estimate with the given x̂₀; the noise is what is left of x_t: ε̂ = (x_t − signal·x̂₀)/noise.
    ///
    /// # Errors
    /// Shapes that differ.
    pub fn from_x0(x0: &Tensor, x_t: &Tensor, levels: &Levels) -> Result<Self> {
        let noise = (x_t - x0.broadcast_mul(levels.signal())?)?.broadcast_div(levels.noise())?;
        Ok(Self { x0: x0.clone(), noise, variance: None })
    }

    /// The same estimate of `x_t` (N, C, H, W), all of it at `level`, with another x̂₀; the noise is what is left of x_t, or as it was
    /// where there is none.
    ///
    /// # Errors
    /// Shapes that differ.
    pub fn with_x0(self, x0: Tensor, x_t: &Tensor, level: NoiseLevel) -> Result<Self> {
        if level.is_clean() {
            return Ok(Self { x0, ..self });
        }
        let levels = Levels::new(&vec![level; x_t.dim(0)?], x_t)?;
        Ok(Self { variance: self.variance, ..Self::from_x0(&x0, x_t, &levels)? })
    }
}
