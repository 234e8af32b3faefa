//! What samplers and trainers see of a model.

use candle_core::{Error, Result, Tensor};
use diffusion_schedule::NoiseLevel;

use crate::{Levels, Parametrisation, Preconditioning, Prediction};

/// A network: noisy images and timesteps in, an output of the images' shape out.
pub trait Network {
    /// `x_t` is (N, C, H, W), `timesteps` (N) holds training timesteps in f32 (whole or fractional).
    ///
    /// # Errors
    /// Shapes that the network cannot take.
    fn forward(&self, x_t: &Tensor, timesteps: &Tensor) -> Result<Tensor>;

    /// As [`forward`](Self::forward), each image taken for one of its class, `classes` (N), or of none in particular.
    ///
    /// # Errors
    /// As there; a class that the network does not know, or none where it must be told one.
    fn forward_classes(
        &self,
        x_t: &Tensor,
        timesteps: &Tensor,
        classes: &[Option<u32>],
    ) -> Result<Tensor> {
        refuse_classes(classes)?;
        self.forward(x_t, timesteps)
    }
}

/// For networks without classes.
///
/// # Errors
/// Any class.
pub fn refuse_classes(classes: &[Option<u32>]) -> Result<()> {
    if classes.iter().all(Option::is_none) {
        return Ok(());
    }
    Err(Error::Msg("the network knows no classes; it cannot be told any".to_owned()))
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

/// A denoiser that can be told what each image is to be.
pub trait ConditionalDenoiser {
    /// As [`Denoiser::denoise`], each image taken for one of its class, `classes` (N), or of none in particular.
    ///
    /// # Errors
    /// As there; a class that the network does not know, or none where it must be told one.
    fn denoise_classes(
        &self,
        x_t: &Tensor,
        level: NoiseLevel,
        classes: &[Option<u32>],
    ) -> Result<Prediction>;
}

/// A denoiser that is told the same classes at every step.
#[derive(Clone)]
pub struct Conditioned<'a> {
    denoiser: &'a dyn ConditionalDenoiser,
    classes: Vec<Option<u32>>,
}

impl<'a> Conditioned<'a> {
    /// `denoiser` for as many images as `classes` has.
    pub fn new(denoiser: &'a dyn ConditionalDenoiser, classes: Vec<Option<u32>>) -> Self {
        Self { denoiser, classes }
    }
}

impl Denoiser for Conditioned<'_> {
    fn denoise(&self, x_t: &Tensor, level: NoiseLevel) -> Result<Prediction> {
        self.denoiser.denoise_classes(x_t, level, &self.classes)
    }
}

/// Any function of the right form is a denoiser.
impl<F: Fn(&Tensor, NoiseLevel) -> Result<Prediction>> Denoiser for F {
    fn denoise(&self, x_t: &Tensor, level: NoiseLevel) -> Result<Prediction> {
        self(x_t, level)
    }
}

/// A network and the meaning of its output: the plain, unguided denoiser, for images at any scale. If the output has twice
/// the image's channels, the second half is a learned variance.
#[derive(Clone, Debug)]
pub struct NetworkDenoiser<N> {
    network: N,
    parametrisation: Parametrisation,
}

impl<N: Network> NetworkDenoiser<N> {
    /// `network`, whose output is to be read as `parametrisation`.
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
        // The second half of the channels is a variance (Nichol & Dhariwal 2021).
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
