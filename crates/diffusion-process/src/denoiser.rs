//! The interfaces of networks (for training) and of denoisers (for sampling).

use candle_core::{Error, Result, Tensor};
use diffusion_schedule::NoiseLevel;

use crate::{Levels, Parametrisation, Preconditioning, Prediction};

/// A network: from noisy images and timesteps to an output of the images' height and width.
pub trait Network {
    /// The output for the noisy images `x_t` (N, C, H, W), without classes. `timesteps` (N) are
    /// training timesteps in f32, whole or fractional.
    ///
    /// # Errors
    /// If the network does not support the shapes, or needs classes.
    fn forward(&self, x_t: &Tensor, timesteps: &Tensor) -> Result<Tensor>;

    /// The output of [`forward`](Self::forward), conditioned on `classes` (N). `None` is
    /// unconditional.
    ///
    /// # Errors
    /// - If the network does not support the shapes.
    /// - If a class is unknown to the network, or missing although the network needs one.
    fn forward_classes(
        &self,
        x_t: &Tensor,
        timesteps: &Tensor,
        classes: &[Option<u32>],
    ) -> Result<Tensor> {
        reject_classes(classes)?;
        self.forward(x_t, timesteps)
    }
}

/// Checks that all of `classes` are `None`, for networks that are unconditional.
///
/// # Errors
/// If any of `classes` is not `None`.
pub fn reject_classes(classes: &[Option<u32>]) -> Result<()> {
    if classes.iter().all(Option::is_none) {
        return Ok(());
    }
    Err(Error::Msg("the network is unconditional; pass no classes".to_owned()))
}

/// An estimator of the clean image and of the noise in a noisy image.
///
/// It is all that a sampler uses of a model. Guidance wraps one denoiser in another.
pub trait Denoiser {
    /// Estimates x̂₀ and ε̂ of `x_t` (N, C, H, W). All images are at `level`.
    ///
    /// # Errors
    /// - If the network fails.
    /// - If the estimate does not exist at this level.
    fn denoise(&self, x_t: &Tensor, level: NoiseLevel) -> Result<Prediction>;
}

/// A denoiser that can be conditioned on classes.
pub trait ConditionalDenoiser {
    /// Estimates x̂₀ and ε̂ of `x_t` (N, C, H, W), conditioned on `classes` (N). `None` is
    /// unconditional. All images are at `level`.
    ///
    /// # Errors
    /// - If the network fails.
    /// - If the estimate does not exist at this level.
    /// - If a class is unknown to the network, or missing although the network needs one.
    fn denoise_classes(
        &self,
        x_t: &Tensor,
        level: NoiseLevel,
        classes: &[Option<u32>],
    ) -> Result<Prediction>;
}

/// A conditional denoiser with fixed classes, so that samplers need no classes.
#[derive(Clone)]
pub struct Conditioned<'a> {
    denoiser: &'a dyn ConditionalDenoiser,
    classes: Vec<Option<u32>>,
}

impl<'a> Conditioned<'a> {
    /// `denoiser`, conditioned on `classes`, one per image.
    pub fn new(denoiser: &'a dyn ConditionalDenoiser, classes: Vec<Option<u32>>) -> Self {
        Self { denoiser, classes }
    }
}

impl Denoiser for Conditioned<'_> {
    fn denoise(&self, x_t: &Tensor, level: NoiseLevel) -> Result<Prediction> {
        self.denoiser.denoise_classes(x_t, level, &self.classes)
    }
}

/// A closure with the signature of [`Denoiser::denoise`] is a denoiser.
impl<F: Fn(&Tensor, NoiseLevel) -> Result<Prediction>> Denoiser for F {
    fn denoise(&self, x_t: &Tensor, level: NoiseLevel) -> Result<Prediction> {
        self(x_t, level)
    }
}

/// A network with its parametrisation: the denoiser without guidance, for images at any scale.
///
/// If the output has twice as many channels as the images, the second half is a learned variance.
#[derive(Clone, Debug)]
pub struct NetworkDenoiser<N> {
    network: N,
    parametrisation: Parametrisation,
}

impl<N: Network> NetworkDenoiser<N> {
    /// A denoiser of `network`, whose output has the meaning `parametrisation`.
    pub fn new(network: N, parametrisation: impl Into<Parametrisation>) -> Self {
        Self { network, parametrisation: parametrisation.into() }
    }
}

impl<N: Network> Denoiser for NetworkDenoiser<N> {
    fn denoise(&self, x_t: &Tensor, level: NoiseLevel) -> Result<Prediction> {
        self.denoise_classes(x_t, level, &vec![None; x_t.dim(0)?])
    }
}

impl<N: Network> ConditionalDenoiser for NetworkDenoiser<N> {
    fn denoise_classes(
        &self,
        x_t: &Tensor,
        level: NoiseLevel,
        classes: &[Option<u32>],
    ) -> Result<Prediction> {
        let (n, channels) = (x_t.dim(0)?, x_t.dim(1)?);
        let Preconditioning { c_in, c_noise, .. } = self.parametrisation.preconditioning(&level);
        let input = if c_in == 1.0 { x_t.clone() } else { x_t.affine(c_in, 0.0)? };
        let timesteps = Tensor::full(c_noise as f32, n, x_t.device())?;
        let output = self.network.forward_classes(&input, &timesteps, classes)?;
        let levels = Levels::new(&vec![level; n], x_t)?;
        if output.dim(1)? != 2 * channels {
            return self.parametrisation.to_prediction(&output, x_t, &levels);
        }
        // The second half of the channels is the learned variance (Nichol & Dhariwal 2021).
        let half = |first| output.narrow(1, first, channels);
        let prediction = self.parametrisation.to_prediction(&half(0)?, x_t, &levels)?;
        Ok(Prediction { variance: Some(half(channels)?), ..prediction })
    }
}

impl<N: Network + ?Sized> Network for &N {
    fn forward(&self, x_t: &Tensor, timesteps: &Tensor) -> Result<Tensor> {
        (**self).forward(x_t, timesteps)
    }

    fn forward_classes(
        &self,
        x_t: &Tensor,
        timesteps: &Tensor,
        classes: &[Option<u32>],
    ) -> Result<Tensor> {
        (**self).forward_classes(x_t, timesteps, classes)
    }
}

impl<N: Network + ?Sized> Network for Box<N> {
    fn forward(&self, x_t: &Tensor, timesteps: &Tensor) -> Result<Tensor> {
        (**self).forward(x_t, timesteps)
    }

    fn forward_classes(
        &self,
        x_t: &Tensor,
        timesteps: &Tensor,
        classes: &[Option<u32>],
    ) -> Result<Tensor> {
        (**self).forward_classes(x_t, timesteps, classes)
    }
}
