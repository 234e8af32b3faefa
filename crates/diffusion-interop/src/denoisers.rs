//! The meaning of a network's output under a scheduler.

use candle_core::{Result, Tensor};
use diffusion_process::{Denoiser, EdmDenoiser, Network, NetworkDenoiser, NoiseLevel, Prediction};

/// A network whose output has the other sign.
pub(crate) struct Negated<N>(pub(crate) N);

impl<N: Network> Network for Negated<N> {
    fn forward(&self, x_t: &Tensor, timesteps: &Tensor) -> Result<Tensor> {
        self.0.forward(x_t, timesteps)?.neg()
    }
}

/// A network as the schedulers of the library understand it.
pub(crate) enum Understood<N> {
    Plain(NetworkDenoiser<N>),
    Edm(EdmDenoiser<N>),
    /// The library's EDM schedulers turn the sign round when the network is said to predict v.
    NegatedEdm(EdmDenoiser<Negated<N>>),
}

impl<N: Network> Denoiser for Understood<N> {
    fn denoise(&self, x_t: &Tensor, level: NoiseLevel) -> Result<Prediction> {
        match self {
            Self::Plain(denoiser) => denoiser.denoise(x_t, level),
            Self::Edm(denoiser) => denoiser.denoise(x_t, level),
            Self::NegatedEdm(denoiser) => denoiser.denoise(x_t, level),
        }
    }
}
