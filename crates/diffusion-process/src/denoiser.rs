//! What samplers and trainers see of a model.

use candle_core::{Result, Tensor};
use diffusion_schedule::NoiseLevel;

use crate::{Levels, Prediction, PredictionType};

/// A network: noisy images and timesteps in, an output of the images' shape out.
pub trait Network {
    /// `x_t` is (N, C, H, W), `timesteps` (N) holds training timesteps in f32 (whole or fractional).
    ///
    /// # Errors
    /// Shapes that the network cannot take.
    fn forward(&self, x_t: &Tensor, timesteps: &Tensor) -> Result<Tensor>;
}

/// Estimates the clean image and the noise in a noisy one. A sampler sees a model as this and nothing else; guidance
/// wraps one denoiser in another.
pub trait Denoiser {
    /// `x_t` is (N, C, H, W), all of it at `level`.
    ///
    /// # Errors
    /// Those of the network; an estimate that does not exist at this level.
    fn denoise(&self, x_t: &Tensor, level: NoiseLevel) -> Result<Prediction>;
}

/// Any function of the right form is a denoiser.
impl<F: Fn(&Tensor, NoiseLevel) -> Result<Prediction>> Denoiser for F {
    fn denoise(&self, x_t: &Tensor, level: NoiseLevel) -> Result<Prediction> {
        self(x_t, level)
    }
}

/// A network and the meaning of its output: the plain, unguided denoiser. Images at another scale than the network's are
/// brought to it. If the output has twice the image's channels, the second half is a learned variance.
#[derive(Clone, Debug)]
pub struct NetworkDenoiser<N> {
    network: N,
    prediction_type: PredictionType,
}

impl<N: Network> NetworkDenoiser<N> {
    /// `network`, whose output is of type `prediction_type`.
    pub fn new(network: N, prediction_type: PredictionType) -> Self {
        Self { network, prediction_type }
    }
}

impl<N: Network> Denoiser for NetworkDenoiser<N> {
    fn denoise(&self, x_t: &Tensor, level: NoiseLevel) -> Result<Prediction> {
        let n = x_t.dim(0)?;
        let scale = self.prediction_type.input_scale(&level);
        let x_t = if (scale - 1.0).abs() > 1e-12 { x_t.affine(scale, 0.0)? } else { x_t.clone() };
        let timesteps = Tensor::full(level.timestep as f32, n, x_t.device())?;
        let output = self.network.forward(&x_t, &timesteps)?;
        let levels = Levels::new(&vec![level.scaled(scale); n], &x_t)?;
        let channels = x_t.dim(1)?;
        if output.dim(1)? != 2 * channels {
            return self.prediction_type.to_prediction(&output, &x_t, &levels);
        }
        // The second half of the channels is a variance (Nichol & Dhariwal 2021).
        let half = |first| output.narrow(1, first, channels);
        let prediction = self.prediction_type.to_prediction(&half(0)?, &x_t, &levels)?;
        Ok(Prediction { variance: Some(half(channels)?), ..prediction })
    }
}

impl<N: Network + ?Sized> Network for &N {
    fn forward(&self, x_t: &Tensor, timesteps: &Tensor) -> Result<Tensor> {
        (**self).forward(x_t, timesteps)
    }
}

impl<N: Network + ?Sized> Network for Box<N> {
    fn forward(&self, x_t: &Tensor, timesteps: &Tensor) -> Result<Tensor> {
        (**self).forward(x_t, timesteps)
    }
}
