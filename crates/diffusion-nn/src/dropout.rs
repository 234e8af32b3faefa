//! Dropout whose mask is a pure function of seed, step and image index.

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
        let draws = self.generators.iter_mut().map(|generator| {
            let mut bytes = Vec::new();
            move |numbers: &mut [u32]| fill(generator, &mut bytes, numbers)
        });
        Ok(DropoutMask::draw(dims, self.rate, draws.collect()))
    }
}

/// Fills `numbers` with the generator's next words.
fn fill(generator: &mut ChaCha8Rng, bytes: &mut Vec<u8>, numbers: &mut [u32]) {
    bytes.resize(size_of_val(numbers), 0);
    generator.fill_bytes(bytes);
    let (words, _) = bytes.as_chunks();
    for (number, word) in numbers.iter_mut().zip(words) {
        *number = u32::from_le_bytes(*word);
    }
}

#[cfg(test)]
mod tests {
    use rand::{RngExt, SeedableRng};

    use super::*;

    /// The numbers decide the masks of all runs, so they must never change.
    #[test]
    fn words_are_those_of_single_draws() {
        let (mut one, mut many) = (ChaCha8Rng::seed_from_u64(7), ChaCha8Rng::seed_from_u64(7));
        for count in [1, 300, 256, 5] {
            let mut numbers = vec![0; count];
            fill(&mut many, &mut Vec::new(), &mut numbers);
            for (i, number) in numbers.iter().enumerate() {
                let fraction = (number >> 9) as f32 / (1 << 23) as f32;
                assert_eq!(fraction, one.random_range(0f32..1.0), "number {i} of {count}");
            }
        }
    }
}
