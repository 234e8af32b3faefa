//! Dropout masks, one bit for each activation.

use std::sync::Arc;

use rayon::prelude::*;

use crate::arith::isa::{Isa, available, vectorised};
use crate::arith::vector::LANES;

/// Which activations of a map (N, C, H, W) a dropout keeps (Srivastava et al. 2014). The kept ones
/// are divided by 1 − rate, so that expected values stay the same.
///
/// A clone shares the memory, N·C·H·W bits.
#[derive(Clone, Debug)]
pub struct DropoutMask {
    dims: [usize; 4],
    /// The factor of the kept activations.
    scale: f32,
    /// `[image][pixel][16 channels]`: bit l belongs to channel l of the 16.
    bits: Arc<[u16]>,
}

impl DropoutMask {
    /// A mask for maps of shape `dims`, [N, C, H, W], that removes activations with the probability
    /// `rate`, in [0, 1).
    ///
    /// `draws` has one function for each image. It fills a slice with random numbers, one for each
    /// activation in the order (C, H, W). An activation is kept if the upper 23 bits of its number,
    /// as a fraction of 2²³, are at least `rate`. Images are drawn in parallel.
    ///
    /// # Panics
    /// If there are not N functions.
    pub fn draw<F: FnMut(&mut [u32]) + Send>(dims: [usize; 4], rate: f32, draws: Vec<F>) -> Self {
        let [images, channels, height, width] = dims;
        assert_eq!(draws.len(), images, "one function for each image");
        let (pixels, words) = (height * width, channels.div_ceil(LANES));
        let isa = available()[0];
        let least = (rate * (1u32 << 23) as f32).ceil() as u32;
        let mut bits = vec![0; images * pixels * words];
        bits.par_chunks_mut((pixels * words).max(1)).zip(draws).for_each(|(bits, mut draw)| {
            let mut numbers = vec![0; pixels];
            // The bits of 16 channels, for all pixels.
            let mut block = vec![0; pixels];
            for c in 0..channels {
                draw(&mut numbers);
                keep(isa, &numbers, least, c % LANES, &mut block);
                if c % LANES == LANES - 1 || c == channels - 1 {
                    let to = bits[c / LANES..].iter_mut().step_by(words);
                    to.zip(&mut block).for_each(|(to, from)| *to = std::mem::take(from));
                }
            }
        });
        Self { dims, scale: 1.0 / (1.0 - rate), bits: bits.into() }
    }

    /// The shape [N, C, H, W] of the maps.
    pub fn dims(&self) -> [usize; 4] {
        self.dims
    }

    /// The factors 0 or 1/(1 − rate) of all activations, in the order (N, C, H, W).
    pub(crate) fn factors(&self) -> Vec<f32> {
        let [images, channels, height, width] = self.dims;
        let (pixels, words) = (height * width, channels.div_ceil(LANES));
        let mut factors = Vec::with_capacity(images * channels * pixels);
        for image in self.bits.chunks_exact((pixels * words).max(1)) {
            for c in 0..channels {
                factors.extend(image.chunks_exact(words).map(|pixel| {
                    if pixel[c / LANES] >> (c % LANES) & 1 == 1 { self.scale } else { 0.0 }
                }));
            }
        }
        factors
    }

    /// The mask of an image.
    pub(crate) fn image(&self, image: usize) -> ImageMask<'_> {
        let [_, channels, height, width] = self.dims;
        let words = channels.div_ceil(LANES);
        let len = height * width * words;
        ImageMask { bits: &self.bits[image * len..][..len], words, scale: self.scale }
    }
}

/// The mask of an image, or of its first pixels.
#[derive(Clone, Copy)]
pub(crate) struct ImageMask<'a> {
    bits: &'a [u16],
    /// The number of words of a pixel.
    words: usize,
    scale: f32,
}

impl ImageMask<'_> {
    /// Takes the mask of the first pixels away, as many as `x` holds, and applies it to them. They
    /// have padded channels.
    pub(crate) fn apply_next(&mut self, isa: Isa, x: &mut [f32]) {
        let (bits, rest) = self.bits.split_at(x.len() / LANES);
        self.bits = rest;
        apply(isa, bits, self.scale, x);
    }

    /// As [`Self::apply_next`], for pixels with `channels` channels that are not padded.
    pub(crate) fn apply_dense(&self, isa: Isa, channels: usize, x: &mut [f32]) {
        if channels.is_multiple_of(LANES) {
            return apply(isa, self.bits, self.scale, x);
        }
        for (x, bits) in x.chunks_exact_mut(channels).zip(self.bits.chunks_exact(self.words)) {
            for (c, x) in x.iter_mut().enumerate() {
                *x *= if bits[c / LANES] >> (c % LANES) & 1 == 1 { self.scale } else { 0.0 };
            }
        }
    }
}

vectorised! {
    /// Sets bit `l` of the numbers whose upper 23 bits are at least `least`.
    fn keep(numbers: &[u32], least: u32, l: usize, bits: &mut [u16]) {
        for (bits, number) in bits.iter_mut().zip(numbers) {
            *bits |= u16::from(number >> 9 >= least) << l;
        }
    }
}

vectorised! {
    /// Multiplies each number by `scale` or by 0.
    fn apply(bits: &[u16], scale: f32, x: &mut [f32]) {
        for (bits, x) in bits.iter().zip(x.chunks_exact_mut(LANES)) {
            L::load(x).times(scale).select(*bits).store(x);
        }
    }
}
