//! Pixels with channels last, (…, C), padded to whole vectors of channels as the kernels need them.

use std::ops::Deref;

use rayon::prelude::*;

use crate::arith::vector::LANES;
use crate::memory::scratch::Scratch;
use crate::memory::uninit::UninitSlice;

/// The number of pixels that one task copies.
const BLOCK: usize = 256;

/// `channels`, rounded up to whole vectors.
pub(crate) fn padded_len(channels: usize) -> usize {
    channels.next_multiple_of(LANES)
}

/// Pixels whose channels fill whole vectors: borrowed if they already do, otherwise a copy padded
/// with zeros.
pub(crate) enum Pixels<'a> {
    Borrowed(&'a [f32]),
    Copied(Scratch),
}

impl<'a> Pixels<'a> {
    /// The pixels `x` with `channels` channels.
    pub(crate) fn new(x: &'a [f32], channels: usize) -> Self {
        Self::stacked(&[(x, channels)])
    }

    /// Concatenates the channels of all `parts`, each a slice with its number of channels.
    pub(crate) fn stacked(parts: &[(&'a [f32], usize)]) -> Self {
        let &[(x, channels), ..] = parts else { unreachable!("at least one part") };
        if parts.len() == 1 && channels.is_multiple_of(LANES) {
            return Self::Borrowed(x);
        }
        let all: usize = parts.iter().map(|(_, channels)| channels).sum();
        let pitch = padded_len(all);
        let mut copy = Scratch::new(x.len() / channels * pitch);
        copy.par_chunks_mut(BLOCK * pitch).enumerate().for_each(|(i, copy)| {
            let mut first = 0;
            for &(x, channels) in parts {
                let x = &x[i * BLOCK * channels..];
                for (to, from) in copy.chunks_exact_mut(pitch).zip(x.chunks_exact(channels)) {
                    to[first..first + channels].copy_from_slice(from);
                }
                first += channels;
            }
            if first < pitch {
                copy.chunks_exact_mut(pitch).for_each(|pixel| pixel[first..].fill(0.0));
            }
        });
        Self::Copied(copy)
    }
}

impl Deref for Pixels<'_> {
    type Target = [f32];
    fn deref(&self) -> &[f32] {
        match self {
            Self::Borrowed(x) => x,
            Self::Copied(x) => x,
        }
    }
}

/// Writes padded pixels by `write` and divides their channels among `parts`, each with its number
/// of channels. Before `write`, the pixels hold arbitrary numbers.
pub(crate) fn write_stacked(
    mut parts: Vec<(UninitSlice<'_>, usize)>,
    write: impl FnOnce(&mut [f32]),
) {
    let pitch = padded_len(parts.iter().map(|(_, channels)| channels).sum());
    if parts.len() == 1 && parts[0].1 == pitch {
        return write(parts.swap_remove(0).0.arbitrary());
    }
    let Some((first, channels)) = parts.first() else { return };
    let mut pixels = Scratch::new(first.len() / channels * pitch);
    write(&mut pixels);
    let mut first = 0;
    for (part, channels) in parts {
        let blocks: Vec<UninitSlice<'_>> = part.chunks(BLOCK * channels).collect();
        blocks.into_par_iter().zip(pixels.par_chunks(BLOCK * pitch)).for_each(|(part, pixels)| {
            let pixels = pixels.chunks_exact(pitch);
            for (to, from) in part.arbitrary().chunks_exact_mut(channels).zip(pixels) {
                to.copy_from_slice(&from[first..first + channels]);
            }
        });
        first += channels;
    }
}

/// Like [`write_stacked`], for a single part.
pub(crate) fn write_pixels(y: UninitSlice<'_>, channels: usize, write: impl FnOnce(&mut [f32])) {
    write_stacked(vec![(y, channels)], write);
}
