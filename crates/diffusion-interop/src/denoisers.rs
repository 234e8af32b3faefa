//! The sign of a network's output under a scheduler.

use candle_core::{Result, Tensor};
use diffusion_process::Network;

/// A network, or one whose output has the other sign: the library's EDM schedulers turn it round when the network is said to
/// predict v.
pub(crate) struct Signed<N> {
    pub(crate) network: N,
    pub(crate) negated: bool,
}

impl<N: Network> Network for Signed<N> {
    fn forward(&self, x_t: &Tensor, timesteps: &Tensor) -> Result<Tensor> {
        let output = self.network.forward(x_t, timesteps)?;
        if self.negated { output.neg() } else { Ok(output) }
    }
}
