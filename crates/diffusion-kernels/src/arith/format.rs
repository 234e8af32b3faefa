//! The number format of the factors of a product: f32, or pairs of bf16.

// A product in bf16 (the upper half of an f32) has half the bytes and, with AVX512-BF16, twice the
// speed. An instruction multiplies pairs of terms and adds both products to an f32:
//
//     acc[l] += a.low · b[l].low + a.high · b[l].high
//
// 1. A pair fills the 32 bits of one f32, here called a word. So factors stay slices of f32, and a
//    product of pairs is the loop of a product of floats over half as many terms.
// 2. Which two terms form a pair does not matter, if both factors agree. The pairs here never need
//    an exchange of lanes: channels c and c + 16 (`channel`), or the rows 2r and 2r + 1 (`row`).
// 3. A term without a partner is paired with zero.
// 4. Sums are f32. Only factors are rounded, to the nearest, ties to even.

use crate::arith::vector::LANES;

/// The format of the factors of a product.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Format {
    /// A word is one f32.
    F32,
    /// A word is a pair of bf16.
    Bf16,
}

/// The part of a word that a number fills.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    Whole,
    /// The first of a pair. Writing it sets the second to zero.
    Low,
    /// The second of a pair, which must be written after the first.
    High,
}

impl Format {
    /// The number of words for sums over `channels` channels, a multiple of 16 in pairs.
    pub(crate) fn channels(self, channels: usize) -> usize {
        match self {
            Self::F32 => channels,
            Self::Bf16 => channels.div_ceil(2 * LANES) * LANES,
        }
    }

    /// The word of channel `c`, and the part of it.
    #[inline(always)]
    pub(crate) fn channel(self, c: usize) -> (usize, Part) {
        match self {
            Self::F32 => (c, Part::Whole),
            Self::Bf16 => {
                let part = if (c / LANES).is_multiple_of(2) { Part::Low } else { Part::High };
                (c / (2 * LANES) * LANES + c % LANES, part)
            }
        }
    }

    /// The number of numbers in a word.
    pub(crate) fn numbers(self) -> usize {
        match self {
            Self::F32 => 1,
            Self::Bf16 => 2,
        }
    }

    /// The number of rows of words for sums over `rows` rows.
    pub(crate) fn rows(self, rows: usize) -> usize {
        rows.div_ceil(self.numbers())
    }

    /// The row of words of row `r`, and the part of its words.
    #[inline(always)]
    pub(crate) fn row(self, r: usize) -> (usize, Part) {
        match self {
            Self::F32 => (r, Part::Whole),
            Self::Bf16 => (r / 2, if r.is_multiple_of(2) { Part::Low } else { Part::High }),
        }
    }
}

impl Part {
    /// Writes 16 numbers to this part of 16 words.
    #[inline(always)]
    pub(crate) fn write(self, numbers: [f32; LANES], words: &mut [f32]) {
        let words: &mut [f32; LANES] = words.first_chunk_mut().expect("whole vectors");
        match self {
            Self::Whole => *words = numbers,
            Self::Low => {
                for l in 0..LANES {
                    words[l] = f32::from_bits(bf16(numbers[l]) >> 16);
                }
            }
            Self::High => {
                for l in 0..LANES {
                    words[l] = f32::from_bits(words[l].to_bits() | bf16(numbers[l]) & 0xFFFF_0000);
                }
            }
        }
    }
}

/// A number whose upper half is `x` in bf16.
#[inline(always)]
fn bf16(x: f32) -> u32 {
    let bits = x.to_bits();
    // Half of the last place, or just less if that place is even.
    bits.wrapping_add(0x7FFF + (bits >> 16 & 1))
}

/// The word of two numbers.
#[inline(always)]
pub(crate) fn word([low, high]: [f32; 2]) -> f32 {
    f32::from_bits(bf16(low) >> 16 | bf16(high) & 0xFFFF_0000)
}

/// The two numbers of a word.
#[inline(always)]
pub(crate) fn pair(word: f32) -> [f32; 2] {
    let bits = word.to_bits();
    [f32::from_bits(bits << 16), f32::from_bits(bits & 0xFFFF_0000)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_rounded_to_the_nearest_and_keep_their_place() {
        // 1 + 2⁻⁸ lies between 1 and 1 + 2⁻⁷; the even one is 1.
        let (x, y) = (1.0 + 2f32.powi(-8), 1.0 + 3.0 * 2f32.powi(-8));
        let mut words = [0.0; LANES];
        Part::Low.write([x; LANES], &mut words);
        assert_eq!(pair(words[3]), [1.0, 0.0]);
        Part::High.write([-y; LANES], &mut words);
        assert_eq!(pair(words[3]), [1.0, -(1.0 + 2f32.powi(-6))]);
        for (number, rounded) in [
            (f32::INFINITY, f32::INFINITY),
            (f32::MAX, f32::INFINITY),
            (-0.0, -0.0),
            (3e-39, f32::from_bits(0x0021_0000)),
        ] {
            Part::Low.write([number; LANES], &mut words);
            assert_eq!(pair(words[0])[0].to_bits(), rounded.to_bits(), "{number}");
        }
        Part::Low.write([f32::NAN; LANES], &mut words);
        assert!(pair(words[0])[0].is_nan());
    }

    #[test]
    fn all_channels_and_rows_have_their_own_place() {
        for channels in [1, 16, 17, 32, 48, 80] {
            let mut places: Vec<_> = (0..channels)
                .map(|c| {
                    let (word, part) = Format::Bf16.channel(c);
                    assert!(word < Format::Bf16.channels(channels));
                    (word, part == Part::High)
                })
                .collect();
            places.sort_unstable();
            places.dedup();
            assert_eq!(places.len(), channels);
        }
        assert_eq!(Format::Bf16.row(5), (2, Part::High));
        assert_eq!(Format::Bf16.rows(5), 3);
    }
}
