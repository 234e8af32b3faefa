//! Seeded random numbers without generator state: each is a function of (seed, domain, draw,
//! index).
//!
//! - [`NoiseSource`]: a seed. `normal` makes Gaussian noise for a batch of images; `rng` gives the
//!   generator of one (domain, draw, index).
//! - [`Domain`]: the purpose of a number. Different purposes get independent numbers from one seed.
//!
//! There is no state to save and no order in which numbers must be drawn. The noise of image 7 is
//! the same alone, in a batch, with any number of threads and after a restart.
//!
//! The crate does not use a device's random generator and does not read the clock.
//!
//! ```
//! use candle_core::Device;
//! use diffusion_random::{Domain, NoiseSource};
//!
//! // The noise of images 3 and 9, then of image 9 alone: shapes (2, 1, 8, 8) and (1, 1, 8, 8).
//! let source = NoiseSource::new(7);
//! let pair = source.normal(Domain::Initial, 0, [3, 9], &[1, 8, 8], &Device::Cpu)?;
//! let alone = source.normal(Domain::Initial, 0, [9], &[1, 8, 8], &Device::Cpu)?;
//!
//! // Image 9 is the same in both.
//! let second = pair.get(1)?.flatten_all()?.to_vec1::<f32>()?;
//! assert_eq!(second, alone.flatten_all()?.to_vec1::<f32>()?);
//! # Ok::<(), candle_core::Error>(())
//! ```

// How a number follows from its key:
//
//     key = seed ‖ domain ‖ draw ‖ index     four little-endian u64: the 32 bytes of a ChaCha8 key
//     rng = ChaCha8(key), block counter 0
//     image `index` = the first C·H·W normal numbers of rng, in row-major order
//
// 1. One generator per image, not one per batch. An image's numbers therefore cannot depend on the
//    batch, on its place in it, or on the thread that draws them.
// 2. The key is a concatenation, not a hash or a sum. Different (seed, domain, draw, index) always
//    give different keys, so no two purposes can share a stream by accident.
// 3. ChaCha8 treats all keys alike: keys that differ in one bit give unrelated streams. Counting
//    `draw` and `index` up from 0 is therefore safe; many faster generators need well-mixed seeds.
// 4. The normal distribution is sampled by rejection (ziggurat), which takes a varying number of
//    words. This shifts later numbers of the same image only, never those of another image.
// 5. The numbers are computed on the CPU and then copied to the device, so a GPU gets the same
//    noise. The generator's words are the same on every platform.
//
// The price is a new generator for each image. One image's numbers are still drawn in order.

use candle_core::{Device, Result, Tensor};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution, StandardNormal};

/// The purpose of random numbers. Under one seed, numbers of different domains are independent.
///
/// The discriminants are part of the key: changing one changes all numbers of its domain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u64)]
pub enum Domain {
    /// x_T, the noise that a sampler starts from; the draw is 0.
    Initial = 1,
    /// The noise that a stochastic sampler adds; the draw is the number of steps after this one.
    Sampler = 2,
    /// ε of the training loss; the draw is the optimiser step.
    Training = 3,
    /// The timesteps of the training loss; the draw is the optimiser step.
    Timestep = 4,
    /// Initial weights; the index is a hash of the parameter's name.
    Weights = 5,
    /// The order of a data set; the draw is the epoch.
    Shuffle = 6,
    /// The activations that dropout sets to zero; the draw is the optimiser step.
    Dropout = 7,
    /// The shift of a whole channel in offset noise; the draw is the optimiser step.
    Offset = 8,
    /// The mirroring and cropping of a picture; the draw is the epoch.
    Augmentation = 9,
    /// ε of losses outside of training; the draw is 0, or the index of the noise level.
    Validation = 10,
    /// The labels that class dropout removes in training; the draw is the optimiser step.
    HiddenLabel = 11,
    /// The class of a generated image for which no class was given; the draw is 0.
    Class = 12,
    /// The noise added to given pictures in editing, for example to the known region in inpainting;
    /// the draw combines the step and its repetition.
    Known = 13,
    /// The noise that returns x to a noisier level, so that inpainting can repeat a step; the draw
    /// combines the step and its repetition.
    Resampling = 14,
    /// The transformation of a picture by an augmentation with labels; the draw is the epoch.
    Transformation = 15,
}

/// A seed, from which every random number follows: a number is a pure function of the seed and of
/// (domain, draw, index).
///
/// Each (domain, draw, index) keys its own ChaCha8 generator (crate `rand_chacha`). Its numbers do
/// not depend on what else is drawn or on the number of threads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoiseSource {
    seed: u64,
}

impl NoiseSource {
    /// A source with the given seed.
    pub fn new(seed: u64) -> Self {
        Self { seed }
    }

    /// The generator of one (domain, draw, index), at its first number.
    pub fn rng(&self, domain: Domain, draw: u64, index: u64) -> ChaCha8Rng {
        let mut key = [0; 32];
        for (chunk, word) in key.chunks_exact_mut(8).zip([self.seed, domain as u64, draw, index]) {
            chunk.copy_from_slice(&word.to_le_bytes());
        }
        ChaCha8Rng::from_seed(key)
    }

    /// Standard normal noise (N, C, H, W) in `f32`, one image for each of `indices`; `image_shape`
    /// is `[C, H, W]`. The image of an index is the same in every batch.
    ///
    /// # Errors
    /// If the device cannot hold the tensor.
    pub fn normal(
        &self,
        domain: Domain,
        draw: u64,
        indices: impl IntoIterator<Item = u64>,
        image_shape: &[usize],
        device: &Device,
    ) -> Result<Tensor> {
        let per_image = image_shape.iter().product();
        let mut values: Vec<f32> = Vec::new();
        let mut count = 0;
        for index in indices {
            let rng = self.rng(domain, draw, index);
            values.extend(Distribution::<f32>::sample_iter(StandardNormal, rng).take(per_image));
            count += 1;
        }
        let shape: Vec<usize> = std::iter::once(count).chain(image_shape.iter().copied()).collect();
        Tensor::from_vec(values, shape, device)
    }
}
