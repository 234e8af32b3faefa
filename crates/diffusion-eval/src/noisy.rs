//! The same images with the same noise on them, whoever looks, in whatever batches.

use candle_core::{Result, Tensor, bail};
use diffusion_process::{Domain, Levels, NoiseLevel, NoiseSource};

/// Images (N, C, H, W) and a seed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct NoisyImages<'a> {
    images: &'a Tensor,
    source: NoiseSource,
}

/// Some of the images at one level: all of (n, C, H, W).
pub(crate) struct Noisy {
    pub(crate) x0: Tensor,
    pub(crate) noise: Tensor,
    pub(crate) x_t: Tensor,
}

impl<'a> NoisyImages<'a> {
    /// # Errors
    /// No images; a tensor of another rank.
    pub(crate) fn new(images: &'a Tensor, seed: u64) -> Result<Self> {
        if images.rank() != 4 || images.elem_count() == 0 {
            bail!("a model is evaluated on images (N, C, H, W), not on {:?}", images.shape());
        }
        Ok(Self { images, source: NoiseSource::new(seed) })
    }

    /// How many images there are.
    pub(crate) fn count(&self) -> usize {
        self.images.dims()[0]
    }

    pub(crate) fn images(&self) -> &Tensor {
        self.images
    }

    pub(crate) fn source(&self) -> NoiseSource {
        self.source
    }

    /// The images `chosen` with their noise of the level at `index`, which is `level`.
    pub(crate) fn at(&self, index: usize, level: NoiseLevel, chosen: &[usize]) -> Result<Noisy> {
        let places = Tensor::from_iter(chosen.iter().map(|&i| i as u32), self.images.device())?;
        let x0 = self.images.index_select(&places, 0)?;
        let noise = self.normal(Domain::Validation, index, chosen)?;
        let x_t = Levels::new(&vec![level; chosen.len()], &x0)?.add_noise(&x0, &noise)?;
        Ok(Noisy { x0, noise, x_t })
    }

    /// The noise of each of the images `chosen` at the level at `index`.
    pub(crate) fn normal(&self, domain: Domain, index: usize, chosen: &[usize]) -> Result<Tensor> {
        let (shape, device) = (&self.images.dims()[1..], self.images.device());
        let of_image =
            |&i: &usize| self.source.normal(domain, index as u64, [i as u64], shape, device);
        Tensor::cat(&chosen.iter().map(of_image).collect::<Result<Vec<_>>>()?, 0)
    }
}
