//! Dropout whose mask is a pure function of seed, step and image index.

use candle_core::{Result, Tensor};
use diffusion_kernels::FeatureMap;
use diffusion_random::{Domain, NoiseSource};
use rand::RngExt;
use rand_chacha::ChaCha8Rng;

/// The randomness of one training pass.
///
/// The mask of image i of the batch is a function of (`source`, `draw`, `first_index` + i). It does
/// not depend on the rest of the batch or on the number of threads.
#[derive(Clone, Copy, Debug)]
pub struct DropoutNoise {
    /// The seed.
    pub source: NoiseSource,
    /// The step of the optimiser.
    pub draw: u64,
    /// The index of the batch's first image within the step.
    pub first_index: u64,
}

/// The dropout of one training pass (Srivastava et al. 2014), scaled so that expected values stay
/// the same.
///
/// Each image has one random generator, which continues from layer to layer in the order of the
/// calls.
#[derive(Debug)]
pub struct Dropout {
    rate: f32,
    generators: Vec<ChaCha8Rng>,
}

impl Dropout {
    /// The dropout of `images` images. Each activation is removed with the probability `rate`, in
    /// [0, 1).
    pub fn new(rate: f64, noise: DropoutNoise, images: usize) -> Self {
        let DropoutNoise { source, draw, first_index } = noise;
        let generator = |i| source.rng(Domain::Dropout, draw, first_index.wrapping_add(i));
        Self { rate: rate as f32, generators: (0..images as u64).map(generator).collect() }
    }

    /// Sets some activations of `x` (N, C, H, W) to 0 and divides the others by 1 − rate.
    ///
    /// # Errors
    /// If N is not the number of images of this dropout.
    pub fn forward(&mut self, x: &FeatureMap) -> Result<FeatureMap> {
        let dims @ [_, channels, height, width] = x.dims();
        let (per_image, scale, rate) =
            (channels * height * width, 1.0 / (1.0 - self.rate), self.rate);
        let mut mask = Vec::with_capacity(dims.iter().product());
        for generator in &mut self.generators {
            mask.extend((0..per_image).map(|_| {
                let removed = generator.random_range(0f32..1.0) < rate;
                if removed { 0.0 } else { scale }
            }));
        }
        let images = x.to_images()?;
        let mask =
            Tensor::from_vec(mask, images.shape(), images.device())?.to_dtype(images.dtype())?;
        FeatureMap::from_images(&(images * mask)?)
    }
}
