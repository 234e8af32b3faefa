//! 16 numbers in registers, for kernels whose intermediate results would not survive the compiler's
//! own vectorisation.

// `vectorised!` compiles a body once for each instruction set, with the type `L` of its vectors. A
// loop over [f32; 16] usually becomes the same instructions. But where many of them are alive at
// once, as in Winograd's transforms, the compiler packs numbers of different vectors together and
// spends most of its time on moving them.
//
// The methods are safe to call in bodies of `vectorised!` only, where a token has proved that the
// CPU has the instructions. Nothing else names the types.

#![allow(unsafe_code)]

#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::*;

use crate::arith::format::Part;
use crate::arith::vector::LANES;

/// 16 numbers.
pub(crate) trait Lanes: Copy {
    const ZERO: Self;

    /// The first 16 numbers of a slice.
    fn load(from: &[f32]) -> Self;

    /// Writes to the first 16 numbers of a slice.
    fn store(self, to: &mut [f32]);

    fn add(self, other: Self) -> Self;

    fn sub(self, other: Self) -> Self;

    fn mul(self, other: Self) -> Self;

    fn times(self, factor: f32) -> Self;

    /// `self + factor · other`.
    fn plus(self, factor: f32, other: Self) -> Self;

    /// Writes to a part of the first 16 words of a slice.
    fn write(self, part: Part, words: &mut [f32]);
}

/// The beginning of a slice.
///
/// # Panics
/// If the slice is shorter.
#[inline(always)]
fn start(from: &[f32]) -> *const f32 {
    from[..LANES].as_ptr()
}

/// Like [`start`], for writing.
#[inline(always)]
fn start_mut(to: &mut [f32]) -> *mut f32 {
    to[..LANES].as_mut_ptr()
}

/// Vectors of portable code.
#[derive(Clone, Copy)]
pub(crate) struct Portable([f32; LANES]);

impl Portable {
    #[inline(always)]
    fn zip(self, other: Self, f: impl Fn(f32, f32) -> f32) -> Self {
        let mut lanes = self;
        for l in 0..LANES {
            lanes.0[l] = f(self.0[l], other.0[l]);
        }
        lanes
    }
}

impl Lanes for Portable {
    const ZERO: Self = Self([0.0; LANES]);

    #[inline(always)]
    fn load(from: &[f32]) -> Self {
        Self(*from.first_chunk().expect("16 numbers"))
    }

    #[inline(always)]
    fn store(self, to: &mut [f32]) {
        to[..LANES].copy_from_slice(&self.0);
    }

    #[inline(always)]
    fn add(self, other: Self) -> Self {
        self.zip(other, |a, b| a + b)
    }

    #[inline(always)]
    fn sub(self, other: Self) -> Self {
        self.zip(other, |a, b| a - b)
    }

    #[inline(always)]
    fn mul(self, other: Self) -> Self {
        self.zip(other, |a, b| a * b)
    }

    #[inline(always)]
    fn times(self, factor: f32) -> Self {
        self.zip(self, |a, _| a * factor)
    }

    #[inline(always)]
    fn plus(self, factor: f32, other: Self) -> Self {
        // AArch64 has the fused instruction.
        self.zip(other, |a, b| {
            if cfg!(target_arch = "aarch64") { b.mul_add(factor, a) } else { a + b * factor }
        })
    }

    #[inline(always)]
    fn write(self, part: Part, words: &mut [f32]) {
        part.write(self.0, words);
    }
}

/// A register of AVX-512.
#[cfg(target_arch = "x86_64")]
#[derive(Clone, Copy)]
pub(crate) struct Avx512(__m512);

// SAFETY of all methods: they are called where the CPU has the instructions; `start` has checked
// the length.
#[cfg(target_arch = "x86_64")]
impl Lanes for Avx512 {
    const ZERO: Self = Self(unsafe { std::mem::zeroed() });

    #[inline(always)]
    fn load(from: &[f32]) -> Self {
        Self(unsafe { _mm512_loadu_ps(start(from)) })
    }

    #[inline(always)]
    fn store(self, to: &mut [f32]) {
        unsafe { _mm512_storeu_ps(start_mut(to), self.0) }
    }

    #[inline(always)]
    fn add(self, other: Self) -> Self {
        Self(unsafe { _mm512_add_ps(self.0, other.0) })
    }

    #[inline(always)]
    fn sub(self, other: Self) -> Self {
        Self(unsafe { _mm512_sub_ps(self.0, other.0) })
    }

    #[inline(always)]
    fn mul(self, other: Self) -> Self {
        Self(unsafe { _mm512_mul_ps(self.0, other.0) })
    }

    #[inline(always)]
    fn times(self, factor: f32) -> Self {
        Self(unsafe { _mm512_mul_ps(self.0, _mm512_set1_ps(factor)) })
    }

    #[inline(always)]
    fn plus(self, factor: f32, other: Self) -> Self {
        Self(unsafe { _mm512_fmadd_ps(other.0, _mm512_set1_ps(factor), self.0) })
    }

    /// As [`Part::write`]: adds half of the last place that remains, or just less if it is even.
    #[inline(always)]
    fn write(self, part: Part, words: &mut [f32]) {
        let to = start_mut(words);
        unsafe {
            if part == Part::Whole {
                return _mm512_storeu_ps(to, self.0);
            }
            let bits = _mm512_castps_si512(self.0);
            let odd = _mm512_and_si512(_mm512_srli_epi32::<16>(bits), _mm512_set1_epi32(1));
            let half = _mm512_add_epi32(odd, _mm512_set1_epi32(0x7FFF));
            let bits = _mm512_add_epi32(bits, half);
            let words = if part == Part::Low {
                _mm512_srli_epi32::<16>(bits)
            } else {
                let low = _mm512_castps_si512(_mm512_loadu_ps(to));
                let high = _mm512_andnot_si512(_mm512_set1_epi32(0xFFFF), bits);
                _mm512_or_si512(low, high)
            };
            _mm512_storeu_ps(to, _mm512_castsi512_ps(words));
        }
    }
}

/// Two registers of AVX2.
#[cfg(target_arch = "x86_64")]
#[derive(Clone, Copy)]
pub(crate) struct Avx2(__m256, __m256);

// SAFETY of all methods: as for `Avx512`.
#[cfg(target_arch = "x86_64")]
impl Lanes for Avx2 {
    const ZERO: Self = Self(unsafe { std::mem::zeroed() }, unsafe { std::mem::zeroed() });

    #[inline(always)]
    fn load(from: &[f32]) -> Self {
        let from = start(from);
        unsafe { Self(_mm256_loadu_ps(from), _mm256_loadu_ps(from.add(LANES / 2))) }
    }

    #[inline(always)]
    fn store(self, to: &mut [f32]) {
        let to = start_mut(to);
        unsafe {
            _mm256_storeu_ps(to, self.0);
            _mm256_storeu_ps(to.add(LANES / 2), self.1);
        }
    }

    #[inline(always)]
    fn add(self, other: Self) -> Self {
        unsafe { Self(_mm256_add_ps(self.0, other.0), _mm256_add_ps(self.1, other.1)) }
    }

    #[inline(always)]
    fn sub(self, other: Self) -> Self {
        unsafe { Self(_mm256_sub_ps(self.0, other.0), _mm256_sub_ps(self.1, other.1)) }
    }

    #[inline(always)]
    fn mul(self, other: Self) -> Self {
        unsafe { Self(_mm256_mul_ps(self.0, other.0), _mm256_mul_ps(self.1, other.1)) }
    }

    #[inline(always)]
    fn times(self, factor: f32) -> Self {
        unsafe {
            let factor = _mm256_set1_ps(factor);
            Self(_mm256_mul_ps(self.0, factor), _mm256_mul_ps(self.1, factor))
        }
    }

    #[inline(always)]
    fn plus(self, factor: f32, other: Self) -> Self {
        unsafe {
            let factor = _mm256_set1_ps(factor);
            Self(_mm256_fmadd_ps(other.0, factor, self.0), _mm256_fmadd_ps(other.1, factor, self.1))
        }
    }

    #[inline(always)]
    fn write(self, part: Part, words: &mut [f32]) {
        let mut numbers = [0.0; LANES];
        self.store(&mut numbers);
        part.write(numbers, words);
    }
}
