//! Factors of products as words of a format (`arith/format.rs`). In f32 they are not copied.

use rayon::prelude::*;

use crate::arith::format::Format;
use crate::arith::isa::{Isa, vectorised};
use crate::arith::vector::LANES;
use crate::image::pixels::Pixels;
use crate::memory::scratch::Scratch;

/// The number of pixels that one task converts.
const BLOCK: usize = 256;

/// The format for sums over unpadded channels. Pairs need whole vectors, and two of them.
pub(crate) fn format_for(isa: Isa, channels: usize) -> Format {
    let fits = channels.is_multiple_of(LANES) && channels > LANES;
    if fits { isa.format() } else { Format::F32 }
}

/// Pixels of `pitch` channels, whole vectors, for sums over channels.
pub(crate) fn by_channel(isa: Isa, format: Format, x: &[f32], pitch: usize) -> Pixels<'_> {
    if format == Format::F32 {
        return Pixels::Borrowed(x);
    }
    let words = format.channels(pitch);
    let mut to = Scratch::new(x.len() / pitch * words);
    let blocks = to.par_chunks_mut(BLOCK * words).zip(x.par_chunks(BLOCK * pitch));
    blocks.for_each(|(to, x)| pair_channels(isa, x, pitch, to));
    Pixels::Copied(to)
}

/// Rows of `len` numbers, whole vectors, for sums over rows.
pub(crate) fn by_row(isa: Isa, format: Format, x: &[f32], len: usize) -> Pixels<'_> {
    if format == Format::F32 {
        return Pixels::Borrowed(x);
    }
    let mut to = Scratch::new(format.rows(x.len() / len) * len);
    let blocks = to.par_chunks_mut(BLOCK * len).zip(x.par_chunks(2 * BLOCK * len));
    blocks.for_each(|(to, x)| {
        for (to, x) in to.chunks_exact_mut(len).zip(x.chunks(2 * len)) {
            let (low, high) = x.split_at(len);
            pair(isa, low, high, to);
        }
    });
    Pixels::Copied(to)
}

/// A right factor with a row of `columns` numbers, whole vectors, for each channel, for sums over
/// the channels of [`by_channel`].
pub(crate) fn by_term(isa: Isa, format: Format, b: Scratch, columns: usize) -> Scratch {
    if format == Format::F32 {
        return b;
    }
    let channels = b.len() / columns;
    let mut to = Scratch::zeroed(format.channels(channels) * columns);
    pair_terms(isa, &b, columns, &mut to);
    to
}

vectorised! {
    pairs:
    /// Pixels with `pitch` channels as pairs of channels.
    pub(crate) fn pair_channels(x: &[f32], pitch: usize, to: &mut [f32]) {
        let words = Format::Bf16.channels(pitch);
        for (x, to) in x.chunks_exact(pitch).zip(to.chunks_exact_mut(words)) {
            for (x, to) in x.chunks(2 * LANES).zip(to.chunks_exact_mut(LANES)) {
                let second = if x.len() > LANES { L::load(&x[LANES..]) } else { L::ZERO };
                L::load(x).pair(second).store(to);
            }
        }
    }
}

vectorised! {
    pairs:
    /// Pairs of the numbers at the same place of `low` and `high`. An empty `high` counts as zeros.
    pub(crate) fn pair(low: &[f32], high: &[f32], to: &mut [f32]) {
        for i in (0..low.len()).step_by(LANES) {
            let second = if high.is_empty() { L::ZERO } else { L::load(&high[i..]) };
            L::load(&low[i..]).pair(second).store(&mut to[i..]);
        }
    }
}

vectorised! {
    pairs:
    /// Rows of channels as rows of pairs of channels. `to` holds zeros.
    fn pair_terms(b: &[f32], columns: usize, to: &mut [f32]) {
        for (c, b) in b.chunks_exact(columns).enumerate() {
            let (row, part) = Format::Bf16.channel(c);
            for i in (0..columns).step_by(LANES) {
                L::load(&b[i..]).write(part, &mut to[row * columns + i..]);
            }
        }
    }
}
