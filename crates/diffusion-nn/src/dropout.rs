//! Dropout whose choices are a pure function of a seed.

use candle_core::{Result, Tensor};
use diffusion_kernels::FeatureMap;
use diffusion_random::{Domain, NoiseSource};
use rand::RngExt;
use rand_chacha::ChaCha8Rng;

/// Where the randomness of one training pass comes from: that of image i of the batch is a function of
/// (`source`, `draw`, `first_index` + i), whatever the batch and the number of threads.
#[derive(Clone, Copy, Debug)]
pub struct DropoutNoise {
    /// The seed.
    pub source: NoiseSource,
    /// The step of the optimizer.
    pub draw: u64,
    /// The place of the batch's first image among those of the step.
    pub first_index: u64,
}

/// The dropout of one training pass (Srivastava et al. 2014), scaled so that expectations stay. Each
/// image has one generator, which goes on from layer to layer in the order of the calls.
#[derive(Debug)]
pub struct Dropout {
    rate: f32,
    generators: Vec<ChaCha8Rng>,
}

impl Dropout {
    /// The dropout of `images` images, each activation removed with the probability `rate` in [0, 1).
    pub fn new(rate: f64, noise: DropoutNoise, images: usize) -> Self {
        let DropoutNoise { source, draw, first_index } = noise;
        let generator = |i| source.rng(Domain::Dropout, draw, first_index.wrapping_add(i));
        Self { rate: rate as f32, generators: (0..images as u64).map(generator).collect() }
    }

    /// `x` (N, C, H, W) with some activations at 0 and the others divided by 1 − rate.
    ///
    /// # Errors
    /// Another number of images.
    pub fn forward(&mut self, x: &FeatureMap) -> Result<FeatureMap> {
        let dims @ [_, channels, height, width] = x.dims();
        let (per_image, kept, rate) =
            (channels * height * width, 1.0 / (1.0 - self.rate), self.rate);
        let mut mask = Vec::with_capacity(dims.iter().product());
        for generator in &mut self.generators {
            mask.extend((0..per_image).map(|_| {
                let removed = generator.random_range(0f32..1.0) < rate;
                if removed { 0.0 } else { kept }
            }));
        }
        let images = x.to_images()?;
        let mask =
            Tensor::from_vec(mask, images.shape(), images.device())?.to_dtype(images.dtype())?;
        FeatureMap::from_images(&(images * mask)?)
    }
}
