//! The sign of a network's output.

use candle_core::{Result, Tensor};
use diffusion_process::Network;

/// A network whose output is negated on request. The EDM schedulers of diffusers negate the output
/// of a network that predicts v.
pub(crate) struct SignedNetwork<N> {
    pub(crate) network: N,
    pub(crate) negated: bool,
}

impl<N: Network> Network for SignedNetwork<N> {
    fn forward(&self, x_t: &Tensor, timesteps: &Tensor) -> Result<Tensor> {
        let output = self.network.forward(x_t, timesteps)?;
        if self.negated { output.neg() } else { Ok(output) }
    }
}
