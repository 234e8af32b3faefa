//! Dropout whose mask is a pure function of seed, step and image index.

use std::ops::Range;

use candle_core::{Result, bail};
use diffusion_kernels::DropoutMask;
use diffusion_random::{Domain, NoiseSource};
use rand::Rng;
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

    /// The mask of the next layer, for its activations (N, C, H, W).
    ///
    /// # Errors
    /// If N is not the number of images of this dropout.
    pub fn mask(&mut self, dims: [usize; 4]) -> Result<DropoutMask> {
        if dims[0] != self.generators.len() {
            bail!("dropout: expected {} images, got {}", self.generators.len(), dims[0]);
        }
        let rate = self.rate;
        let draws = self.generators.iter_mut().map(|generator| {
            let mut uniform = Uniform::new(generator, dims[1..].iter().product());
            move || uniform.next() >= rate
        });
        Ok(DropoutMask::draw(dims, rate, draws.collect()))
    }
}

/// A fixed number of uniform numbers in [0, 1), drawn many at a time. Each is the upper 23 bits of
/// one word of the generator.
struct Uniform<'a> {
    generator: &'a mut ChaCha8Rng,
    /// The count of numbers that are not drawn yet.
    remaining: usize,
    bytes: [u8; 1024],
    /// The part of `bytes` that is not used yet.
    unused: Range<usize>,
}

impl<'a> Uniform<'a> {
    fn new(generator: &'a mut ChaCha8Rng, count: usize) -> Self {
        Self { generator, remaining: count, bytes: [0; 1024], unused: 0..0 }
    }

    fn next(&mut self) -> f32 {
        const WORD: usize = size_of::<u32>();
        if self.unused.is_empty() {
            let count = self.remaining.min(self.bytes.len() / WORD);
            self.remaining -= count;
            self.unused = 0..count * WORD;
            self.generator.fill_bytes(&mut self.bytes[self.unused.clone()]);
        }
        let mut word = [0; WORD];
        word.copy_from_slice(&self.bytes[self.unused.start..][..WORD]);
        self.unused.start += WORD;
        (u32::from_le_bytes(word) >> 9) as f32 / (1 << 23) as f32
    }
}

#[cfg(test)]
mod tests {
    use rand::{RngExt, SeedableRng};

    use super::*;

    /// The numbers decide the masks of all runs, so they must never change.
    #[test]
    fn uniform_numbers_are_those_of_single_draws() {
        let (mut one, mut many) = (ChaCha8Rng::seed_from_u64(7), ChaCha8Rng::seed_from_u64(7));
        for count in [1, 300, 256, 5] {
            let mut uniform = Uniform::new(&mut many, count);
            for i in 0..count {
                assert_eq!(uniform.next(), one.random_range(0f32..1.0), "number {i} of {count}");
            }
        }
    }
}
