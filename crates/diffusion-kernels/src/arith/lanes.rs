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
    __m256, __m256bh, __m256i, __m512, __m512bh, __m512i, _CMP_GE_OQ, _mm256_add_ps,
    _mm256_fmadd_ps, _mm256_loadu_ps, _mm256_mul_ps, _mm256_set1_ps, _mm256_storeu_ps,
    _mm256_sub_ps, _mm512_add_ps, _mm512_castps_si512, _mm512_castsi256_si512, _mm512_castsi512_ps,
    _mm512_cmp_ps_mask, _mm512_cvtepu16_epi32, _mm512_cvtne2ps_pbh, _mm512_cvtneps_pbh,
    _mm512_fmadd_ps, _mm512_fnmadd_ps, _mm512_fnmsub_ps, _mm512_loadu_ps,
    _mm512_mask_permutexvar_epi16, _mm512_maskz_mov_ps, _mm512_max_ps, _mm512_min_ps,
    _mm512_mul_ps, _mm512_permutexvar_epi16, _mm512_rcp14_ps, _mm512_roundscale_ps,
    _mm512_scalef_ps, _mm512_set1_ps, _mm512_storeu_ps, _mm512_sub_ps,
};
#[cfg(target_arch = "x86_64")]
use std::mem::transmute;

use crate::arith::format::{Part, word};
use crate::arith::vector::{EXP_RANGE, EXP_TERMS, LANES, LN2, sigmoid};
use std::f32::consts::LOG2_E;

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

    /// `1 / (1 + e^−x)` of each number.
    #[inline(always)]
    fn sigmoid<const FMA: bool>(self) -> Self {
        let mut numbers = [0.0; LANES];
        self.store(&mut numbers);
        for x in &mut numbers {
            *x = sigmoid::<FMA>(*x);
        }
        Self::load(&numbers)
    }
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

/// The words of pairs of numbers.
#[inline(always)]
fn pairs(mut first: [f32; LANES], second: [f32; LANES]) -> [f32; LANES] {
    for l in 0..LANES {
        first[l] = word([first[l], second[l]]);
    }
    first
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
        Self(pairs(self.0, second.0))
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

/// A register of AVX-512; with BF16, pairs are made by the instructions of AVX512-BF16, which take
/// subnormal numbers as zero.
#[cfg(target_arch = "x86_64")]
#[derive(Clone, Copy)]
pub(crate) struct Avx512<const BF16: bool>(__m512);

// SAFETY of all methods: they are called where the CPU has the instructions; `start` has checked
// the length.
#[cfg(target_arch = "x86_64")]
impl<const BF16: bool> Lanes for Avx512<BF16> {
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
        if !BF16 {
            return Self::load(&pairs(self.numbers(), second.numbers()));
        }
        unsafe {
            let halves = transmute::<__m512bh, __m512i>(_mm512_cvtne2ps_pbh(second.0, self.0));
            let to = transmute::<[u16; 2 * LANES], __m512i>(ALTERNATELY);
            Self(_mm512_castsi512_ps(_mm512_permutexvar_epi16(to, halves)))
        }
    }

    #[inline(always)]
    fn write(self, part: Part, words: &mut [f32]) {
        match part {
            Part::Whole => self.store(words),
            _ if !BF16 => part.write(self.numbers(), words),
            Part::Low => unsafe {
                Self(_mm512_castsi512_ps(_mm512_cvtepu16_epi32(self.halves()))).store(words);
            },
            Part::High => unsafe {
                let low = _mm512_castps_si512(Self::load(words).0);
                let halves = _mm512_castsi256_si512(self.halves());
                let to = transmute::<[u16; 2 * LANES], __m512i>(SECONDS);
                let both = _mm512_mask_permutexvar_epi16(low, 0xAAAA_AAAA, to, halves);
                Self(_mm512_castsi512_ps(both)).store(words);
            },
        }
    }

    #[inline(always)]
    fn select(self, bits: u16) -> Self {
        Self(unsafe { _mm512_maskz_mov_ps(bits, self.0) })
    }

    /// The same as `arith::vector::sigmoid`, to about 2 ulp, with two thirds of the instructions:
    /// the scale of the exponential is one, and an approximation of 14 bits and a step of Newton's
    /// method take the place of the division.
    #[inline(always)]
    fn sigmoid<const FMA: bool>(self) -> Self {
        let with = |number: f32| unsafe { _mm512_set1_ps(number) };
        unsafe {
            let x =
                _mm512_max_ps(_mm512_min_ps(self.0, with(-EXP_RANGE.start)), with(-EXP_RANGE.end));
            let n = _mm512_roundscale_ps::<0>(_mm512_mul_ps(x, with(-LOG2_E)));
            let r = _mm512_fnmadd_ps(n, with(LN2[1]), _mm512_fnmsub_ps(n, with(LN2[0]), x));
            let mut p = with(EXP_TERMS[0]);
            for term in &EXP_TERMS[1..] {
                p = _mm512_fmadd_ps(p, r, with(*term));
            }
            let p = _mm512_add_ps(_mm512_fmadd_ps(p, _mm512_mul_ps(r, r), r), with(1.0));
            let d = _mm512_add_ps(_mm512_scalef_ps(p, n), with(1.0));
            let near = _mm512_rcp14_ps(d);
            let result = _mm512_mul_ps(_mm512_fnmadd_ps(d, near, with(2.0)), near);
            // Where e^−x is infinite, also without a number.
            let is_above = _mm512_cmp_ps_mask::<_CMP_GE_OQ>(self.0, with(-EXP_RANGE.end));
            Self(_mm512_maskz_mov_ps(is_above, result))
        }
    }
}

#[cfg(target_arch = "x86_64")]
impl<const BF16: bool> Avx512<BF16> {
    #[inline(always)]
    fn numbers(self) -> [f32; LANES] {
        let mut numbers = [0.0; LANES];
        self.store(&mut numbers);
        numbers
    }

    /// The numbers in bf16.
    #[inline(always)]
    unsafe fn halves(self) -> __m256i {
        unsafe { transmute::<__m256bh, __m256i>(_mm512_cvtneps_pbh(self.0)) }
    }
}

/// The places of two halves of 16 numbers, alternately.
#[cfg(target_arch = "x86_64")]
const ALTERNATELY: [u16; 2 * LANES] = {
    let mut places = [0; 2 * LANES];
    let mut i = 0;
    while i < LANES {
        places[2 * i] = i as u16;
        places[2 * i + 1] = (LANES + i) as u16;
        i += 1;
    }
    places
};

/// Places of the first half only, each at the second place of a pair.
#[cfg(target_arch = "x86_64")]
const SECONDS: [u16; 2 * LANES] = {
    let mut places = [0; 2 * LANES];
    let mut i = 0;
    while i < LANES {
        places[2 * i + 1] = i as u16;
        i += 1;
    }
    places
};

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
        Self::load(&pairs(self.numbers(), second.numbers()))
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Precision;
    use crate::arith::format::pair;
    use crate::arith::isa::{Isa, available, vectorised};

    vectorised! {
        fn sigmoids(x: &[f32], y: &mut [f32]) {
            L::load(x).sigmoid::<FMA>().store(y);
        }
    }

    vectorised! {
    pairs:
        fn written(x: &[f32], y: &[f32], at_once: &mut [f32], one_by_one: &mut [f32]) {
            let (x, y) = (L::load(x), L::load(y));
            x.pair(y).store(at_once);
            x.write(Part::Low, one_by_one);
            y.write(Part::High, one_by_one);
        }
    }

    fn all() -> impl Iterator<Item = Isa> {
        let both = |isa: Isa| [Precision::F32, Precision::Bf16].map(|p| isa.in_precision(p));
        available().into_iter().flat_map(both)
    }

    #[test]
    fn sigmoids_are_within_four_ulp_and_saturate() {
        let numbers = (-8600..=8600).map(|i| i as f32 / 100.0);
        let numbers: Vec<f32> = numbers.chain([-3e38, -1e30, -88.0, 88.0, 1e30, 3e38]).collect();
        for isa in all() {
            for x in &numbers {
                let mut y = [0.0; LANES];
                sigmoids(isa, &[*x; LANES], &mut y);
                let exact = 1.0 / (1.0 + (-f64::from(*x)).exp());
                let error = (f64::from(y[5]) - exact).abs();
                let most = exact * 4.0 * f64::from(f32::EPSILON) + 3e-38;
                assert!(error <= most, "sigmoid({x}) = {}, off by {error:e}", y[5]);
            }
            // SiLU is this number times x.
            for (x, expected) in [(f32::INFINITY, 1.0), (f32::NEG_INFINITY, 0.0), (-3e38, 0.0)] {
                let mut y = [0.5; LANES];
                sigmoids(isa, &[x; LANES], &mut y);
                assert_eq!(y, [expected; LANES], "sigmoid({x})");
            }
            let mut y = [0.5; LANES];
            sigmoids(isa, &[f32::NAN; LANES], &mut y);
            assert!((f32::NAN * y[3]).is_nan());
        }
    }

    #[test]
    fn pairs_are_rounded_alike_by_all_instructions() {
        let number = |i: usize| (i as f32 * 0.37).sin() * 2f32.powi(i as i32 % 60 - 30);
        for isa in all() {
            for i in 0..200 {
                let [x, y] = [0, 1].map(|k| std::array::from_fn(|l| number(2 * (i + 7 * l) + k)));
                let (mut at_once, mut one_by_one) = ([0.0; LANES], [0.0; LANES]);
                written(isa, &x, &y, &mut at_once, &mut one_by_one);
                for (words, name) in [(at_once, "at once"), (one_by_one, "one by one")] {
                    let expected = pairs(x, y).map(pair);
                    assert_eq!(words.map(pair), expected, "{name}");
                }
            }
        }
    }
}
