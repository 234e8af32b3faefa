//! Conversion of images between channels first and channels last.

#![allow(unsafe_code)]

use crate::arith::isa::Isa;
use crate::arith::vector::LANES;
use crate::memory::scratch::Scratch;
use crate::memory::uninit::UninitSlice;

/// The number of channels and of pixels that are transposed together.
const BLOCK: usize = 8;

/// `to[pixel · pitch + c] = from[c · plane + pixel]` for each channel and pixel.
///
/// # Panics
/// If a slice is too short or `pitch` is less than `channels`.
pub(crate) fn to_channels_last(
    isa: Isa,
    from: &[f32],
    plane: usize,
    [channels, pixels]: [usize; 2],
    to: &mut [f32],
    pitch: usize,
) {
    if channels == 0 || pixels == 0 {
        return;
    }
    assert!(pitch >= channels);
    assert!(
        from.len() >= (channels - 1) * plane + pixels
            && to.len() >= (pixels - 1) * pitch + channels
    );
    let blocks = if isa == Isa::Portable { 0 } else { channels / BLOCK * BLOCK };
    #[cfg(target_arch = "x86_64")]
    for c in (0..blocks).step_by(BLOCK) {
        for p in (0..pixels).step_by(BLOCK) {
            let count = (pixels - p).min(BLOCK);
            let (from, to) = (&from[c * plane + p..], &mut to[p * pitch + c..]);
            // SAFETY: 8 channels of `count` pixels lie within both slices, by the assertion above;
            // all values of `Isa` but `Portable` prove that the CPU has AVX2.
            unsafe {
                x86::to_channels_last(from.as_ptr(), plane, count, to.as_mut_ptr(), pitch);
            }
        }
    }
    for c in blocks..channels {
        let from = &from[c * plane..][..pixels];
        for (to, x) in to[c..].iter_mut().step_by(pitch).zip(from) {
            *to = *x;
        }
    }
}

/// Images (C, pixels) with channels last, padded with zeros to whole vectors.
pub(crate) fn channels_last(isa: Isa, from: &[f32], [channels, pixels]: [usize; 2]) -> Scratch {
    let pitch = channels.next_multiple_of(LANES);
    let len = from.len() / channels * pitch;
    let mut to = if channels == pitch { Scratch::new(len) } else { Scratch::zeroed(len) };
    for (from, to) in from.chunks_exact(channels * pixels).zip(to.chunks_exact_mut(pitch * pixels))
    {
        to_channels_last(isa, from, pixels, [channels, pixels], to, pitch);
    }
    to
}

/// `to[c · pixels + pixel] = from[pixel · pitch + c]` for each channel and pixel of an image.
///
/// # Panics
/// If a slice is too short, or `to` does not have the size of the image.
pub(crate) fn to_channels_first(
    isa: Isa,
    from: &[f32],
    pitch: usize,
    [channels, pixels]: [usize; 2],
    mut to: UninitSlice<'_>,
) {
    assert!(channels > 0 && pixels > 0 && to.len() == channels * pixels);
    assert!(from.len() >= (pixels - 1) * pitch + channels);
    let blocks = if isa == Isa::Portable { 0 } else { channels / BLOCK * BLOCK };
    let out = to.as_mut_ptr();
    #[cfg(target_arch = "x86_64")]
    for c in (0..blocks).step_by(BLOCK) {
        for p in (0..pixels).step_by(BLOCK) {
            let count = (pixels - p).min(BLOCK);
            // SAFETY: 8 channels of `count` pixels lie within the slices, by the assertions above;
            // all values of `Isa` but `Portable` prove that the CPU has AVX2.
            unsafe {
                let from = from[p * pitch + c..].as_ptr();
                x86::to_channels_first(from, pitch, count, out.add(c * pixels + p), pixels);
            }
        }
    }
    for c in blocks..channels {
        for (p, x) in from[c..].iter().step_by(pitch).take(pixels).enumerate() {
            // SAFETY: within `to`, by the first assertion.
            unsafe { out.add(c * pixels + p).write(*x) };
        }
    }
    // SAFETY: all pixels of all channels have been written.
    unsafe { to.assume_written() };
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::{
        __m256, __m256i, _mm256_loadu_ps, _mm256_loadu_si256, _mm256_maskload_ps,
        _mm256_maskstore_ps, _mm256_permute2f128_ps, _mm256_setzero_ps, _mm256_shuffle_ps,
        _mm256_storeu_ps, _mm256_unpackhi_ps, _mm256_unpacklo_ps,
    };

    use super::BLOCK;

    /// Enables the first `count` of 8 lanes.
    #[inline]
    #[target_feature(enable = "avx2")]
    fn mask(count: usize) -> __m256i {
        static MASKS: [i32; 2 * BLOCK] = [-1, -1, -1, -1, -1, -1, -1, -1, 0, 0, 0, 0, 0, 0, 0, 0];
        // SAFETY: reads 8 of the 16 entries, from 8 − count on.
        unsafe { _mm256_loadu_si256(MASKS[BLOCK - count..][..BLOCK].as_ptr().cast()) }
    }

    #[inline]
    #[target_feature(enable = "avx2")]
    fn transpose(r: [__m256; BLOCK]) -> [__m256; BLOCK] {
        let mut t = r;
        for i in (0..BLOCK).step_by(2) {
            t[i] = _mm256_unpacklo_ps(r[i], r[i + 1]);
            t[i + 1] = _mm256_unpackhi_ps(r[i], r[i + 1]);
        }
        let mut s = t;
        for i in (0..BLOCK).step_by(4) {
            s[i] = _mm256_shuffle_ps::<0x44>(t[i], t[i + 2]);
            s[i + 1] = _mm256_shuffle_ps::<0xee>(t[i], t[i + 2]);
            s[i + 2] = _mm256_shuffle_ps::<0x44>(t[i + 1], t[i + 3]);
            s[i + 3] = _mm256_shuffle_ps::<0xee>(t[i + 1], t[i + 3]);
        }
        let mut out = s;
        for i in 0..4 {
            out[i] = _mm256_permute2f128_ps::<0x20>(s[i], s[i + 4]);
            out[i + 4] = _mm256_permute2f128_ps::<0x31>(s[i], s[i + 4]);
        }
        out
    }

    /// # Safety
    /// 8 channels of `count` pixels, 1 to 8, must be valid at both pointers. The CPU must have
    /// AVX2.
    #[target_feature(enable = "avx2")]
    pub(super) unsafe fn to_channels_last(
        from: *const f32,
        plane: usize,
        count: usize,
        to: *mut f32,
        pitch: usize,
    ) {
        let mut r = [_mm256_setzero_ps(); BLOCK];
        let mask = mask(count);
        for c in 0..BLOCK {
            // SAFETY: `count` pixels of channel c.
            r[c] = unsafe { _mm256_maskload_ps(from.add(c * plane), mask) };
        }
        let r = transpose(r);
        for p in 0..BLOCK {
            if p < count {
                // SAFETY: 8 channels of pixel p.
                unsafe { _mm256_storeu_ps(to.add(p * pitch), r[p]) };
            }
        }
    }

    /// # Safety
    /// 8 channels of `count` pixels, 1 to 8, must be valid at both pointers. The CPU must have
    /// AVX2.
    #[target_feature(enable = "avx2")]
    pub(super) unsafe fn to_channels_first(
        from: *const f32,
        pitch: usize,
        count: usize,
        to: *mut f32,
        plane: usize,
    ) {
        let mut r = [_mm256_setzero_ps(); BLOCK];
        for p in 0..BLOCK {
            if p < count {
                // SAFETY: 8 channels of pixel p.
                r[p] = unsafe { _mm256_loadu_ps(from.add(p * pitch)) };
            }
        }
        let r = transpose(r);
        let mask = mask(count);
        for c in 0..BLOCK {
            // SAFETY: `count` pixels of channel c.
            unsafe {
                // Masked stores are slow on some CPUs.
                if count == BLOCK {
                    _mm256_storeu_ps(to.add(c * plane), r[c]);
                } else {
                    _mm256_maskstore_ps(to.add(c * plane), mask, r[c]);
                }
            }
        }
    }
}
