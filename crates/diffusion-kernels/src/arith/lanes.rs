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
use std::arch::x86_64::{
    __m256, __m512, __m512i, _mm256_add_ps, _mm256_fmadd_ps, _mm256_loadu_ps, _mm256_mul_ps,
    _mm256_set1_ps, _mm256_storeu_ps, _mm256_sub_ps, _mm512_add_epi32, _mm512_add_ps,
    _mm512_and_si512, _mm512_andnot_si512, _mm512_castps_si512, _mm512_castsi512_ps,
    _mm512_fmadd_ps, _mm512_loadu_ps, _mm512_maskz_mov_ps, _mm512_mul_ps, _mm512_or_si512,
    _mm512_set1_epi32, _mm512_set1_ps, _mm512_srli_epi32, _mm512_storeu_ps, _mm512_sub_ps,
};

use crate::arith::format::{Part, word};
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

    /// Words of pairs, of which these are the first numbers.
    fn pair(self, second: Self) -> Self;

    /// Writes to a part of the first 16 words of a slice.
    fn write(self, part: Part, words: &mut [f32]);

    /// The numbers whose bit is set, and zeros.
    fn select(self, bits: u16) -> Self;
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
    fn pair(self, second: Self) -> Self {
        self.zip(second, |a, b| word([a, b]))
    }

    #[inline(always)]
    fn write(self, part: Part, words: &mut [f32]) {
        part.write(self.0, words);
    }

    #[inline(always)]
    fn select(mut self, bits: u16) -> Self {
        for l in 0..LANES {
            self.0[l] = if bits >> l & 1 == 1 { self.0[l] } else { 0.0 };
        }
        self
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

    #[inline(always)]
    fn pair(self, second: Self) -> Self {
        unsafe {
            let low = _mm512_srli_epi32::<16>(self.rounded());
            let high = _mm512_andnot_si512(_mm512_set1_epi32(0xFFFF), second.rounded());
            Self(_mm512_castsi512_ps(_mm512_or_si512(low, high)))
        }
    }

    #[inline(always)]
    fn write(self, part: Part, words: &mut [f32]) {
        match part {
            Part::Whole => self.store(words),
            Part::Low => self.pair(Self::ZERO).store(words),
            Part::High => unsafe {
                let low = _mm512_castps_si512(Self::load(words).0);
                let high = _mm512_andnot_si512(_mm512_set1_epi32(0xFFFF), self.rounded());
                Self(_mm512_castsi512_ps(_mm512_or_si512(low, high))).store(words);
            },
        }
    }

    #[inline(always)]
    fn select(self, bits: u16) -> Self {
        Self(unsafe { _mm512_maskz_mov_ps(bits, self.0) })
    }
}

#[cfg(target_arch = "x86_64")]
impl Avx512 {
    /// The bits plus half of the last place that remains in bf16, or just less if it is even.
    #[inline(always)]
    fn rounded(self) -> __m512i {
        unsafe {
            let bits = _mm512_castps_si512(self.0);
            let odd = _mm512_and_si512(_mm512_srli_epi32::<16>(bits), _mm512_set1_epi32(1));
            _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7FFF)))
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
    fn pair(self, second: Self) -> Self {
        let (mut low, high) = (self.numbers(), second.numbers());
        for l in 0..LANES {
            low[l] = word([low[l], high[l]]);
        }
        Self::load(&low)
    }

    #[inline(always)]
    fn write(self, part: Part, words: &mut [f32]) {
        part.write(self.numbers(), words);
    }

    #[inline(always)]
    fn select(self, bits: u16) -> Self {
        let mut numbers = self.numbers();
        for l in 0..LANES {
            numbers[l] = if bits >> l & 1 == 1 { numbers[l] } else { 0.0 };
        }
        Self::load(&numbers)
    }
}

#[cfg(target_arch = "x86_64")]
impl Avx2 {
    #[inline(always)]
    fn numbers(self) -> [f32; LANES] {
        let mut numbers = [0.0; LANES];
        self.store(&mut numbers);
        numbers
    }
}
