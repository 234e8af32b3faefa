//! Noisy images for evaluation: the noise of an image depends only on the seed, the image and the
//! level, not on batches.

use candle_core::{Result, Tensor, bail};
use diffusion_process::{Domain, Levels, NoiseLevel, NoiseSource};

/// Images (N, C, H, W) and the source of their noise.
#[derive(Clone, Copy, Debug)]
pub(crate) struct NoisyImages<'a> {
    images: &'a Tensor,
    source: NoiseSource,
}

/// Some of the images at one noise level. All tensors are (n, C, H, W).
pub(crate) struct Noisy {
    pub(crate) x0: Tensor,
    pub(crate) noise: Tensor,
    pub(crate) x_t: Tensor,
}

impl<'a> NoisyImages<'a> {
    /// # Errors
    /// If `images` is empty or its rank is not 4.
    pub(crate) fn new(images: &'a Tensor, seed: u64) -> Result<Self> {
        if images.rank() != 4 || images.elem_count() == 0 {
            bail!("evaluation needs images (N, C, H, W), got {:?}", images.shape());
        }
        Ok(Self { images, source: NoiseSource::new(seed) })
    }

    /// The number of images.
    pub(crate) fn count(&self) -> usize {
        self.images.dims()[0]
    }

    pub(crate) fn images(&self) -> &Tensor {
        self.images
    }

    pub(crate) fn source(&self) -> NoiseSource {
        self.source
    }

    /// The images at the positions `chosen` with noise of `level`, the level at `index`.
    pub(crate) fn at(&self, index: usize, level: NoiseLevel, chosen: &[usize]) -> Result<Noisy> {
        let places = Tensor::from_iter(chosen.iter().map(|&i| i as u32), self.images.device())?;
        let x0 = self.images.index_select(&places, 0)?;
        let noise = self.normal(Domain::Validation, index, chosen)?;
        let x_t = Levels::new(&vec![level; chosen.len()], &x0)?.add_noise(&x0, &noise)?;
        Ok(Noisy { x0, noise, x_t })
    }

    /// Noise (n, C, H, W) for the images at the positions `chosen` and the level at `index`.
    pub(crate) fn normal(&self, domain: Domain, index: usize, chosen: &[usize]) -> Result<Tensor> {
        let (shape, device) = (&self.images.dims()[1..], self.images.device());
        let of_image =
            |&i: &usize| self.source.normal(domain, index as u64, [i as u64], shape, device);
        Tensor::cat(&chosen.iter().map(of_image).collect::<Result<Vec<_>>>()?, 0)
    }
}
