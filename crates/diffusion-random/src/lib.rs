//! Seeded randomness as a pure function of (seed, domain, draw, index).
//!
//! A [`NoiseSource`] has no state: the noise of image 7 is the same alone, in a batch, on any number of threads and after a
//! restart. [`Domain`] keeps the numbers of different purposes apart.
//!
//! This crate does not use a device's random generator, and it does not read the clock.
//!
//! ```
//! use candle_core::Device;
//! use diffusion_random::{Domain, NoiseSource};
//!
//! let source = NoiseSource::new(7);
//! let pair = source.normal(Domain::Initial, 0, [3, 9], &[1, 8, 8], &Device::Cpu)?;
//! let alone = source.normal(Domain::Initial, 0, [9], &[1, 8, 8], &Device::Cpu)?;
//! assert_eq!(pair.get(1)?.flatten_all()?.to_vec1::<f32>()?, alone.flatten_all()?.to_vec1::<f32>()?);
//! # Ok::<(), candle_core::Error>(())
//! ```

use candle_core::{Device, Result, Tensor};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution, StandardNormal};

/// What random numbers are for. Numbers of different domains are independent of each other under one seed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u64)]
pub enum Domain {
    /// x_T of a sampler.
    Initial = 1,
    /// The noise that a stochastic sampler adds; the draw is the index of the step.
    Sampler = 2,
    /// ε of the training loss; the draw is the step of the optimizer.
    Training = 3,
    /// The timesteps of the training loss; the draw is the step of the optimizer.
    Timestep = 4,
    /// Initial weights; the index is a hash of the parameter's name.
    Weights = 5,
    /// The order of a data set; the draw is the epoch.
    Shuffle = 6,
    /// Which activations dropout removes; the draw is the step of the optimizer.
    Dropout = 7,
    /// The shift of a whole channel in offset noise; the draw is the step of the optimizer.
    Offset = 8,
    /// How a picture is mirrored and cut; the draw is the epoch.
    Augmentation = 9,
    /// ε of the loss on pictures kept out of training; the draw is 0.
    Validation = 10,
    /// Which labels a training hides from the network; the draw is the step of the optimizer.
    HiddenLabel = 11,
    /// The class of a generated image whose class nobody named; the draw is 0.
    Class = 12,
    /// The noise on pictures that are known, in whole or in part; the draw is made of the step and of how often it was taken.
    Known = 13,
    /// The noise that leads back to a noisier level, so that a step is taken again; the draw is as there.
    Resampling = 14,
}

/// A seed. Every random number of the project is a pure function of it and of what the number is for, so there is
/// no state to save and no order in which numbers must be drawn.
///
/// Each (domain, draw, index) keys a ChaCha8 generator of its own (rand_chacha), so the numbers are the same on every
/// machine, whatever is drawn beside them and on however many threads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoiseSource {
    seed: u64,
}

impl NoiseSource {
    /// The source with the given seed.
    pub fn new(seed: u64) -> Self {
        Self { seed }
    }

    /// The generator for one purpose.
    pub fn rng(&self, domain: Domain, draw: u64, index: u64) -> ChaCha8Rng {
        let mut key = [0; 32];
        for (chunk, word) in key.chunks_exact_mut(8).zip([self.seed, domain as u64, draw, index]) {
            chunk.copy_from_slice(&word.to_le_bytes());
        }
        ChaCha8Rng::from_seed(key)
    }

    /// Standard normal noise for the images with the given indices: (N, C, H, W) in f32, `image_shape` being
    /// [C, H, W]. Image i is the same in every batch that it is part of.
    ///
    /// # Errors
    /// Those of the device.
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
