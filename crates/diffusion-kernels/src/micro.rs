//! The inner loop of every convolution and matrix product here: one tile of up to 8 × 48 sums of products.
//!
//! ```text
//! C[r][16·j + l] = start + Σ_i A[i][r] · b[j][offset[i] + l]      r < 8, j < 3, l < 16
//! ```
//!
//! The sum runs over i in order, one fused multiply-add a term, so that an element's value depends neither on
//! the tile it falls into nor on its neighbours. Results are the same, bit for bit, for every way of cutting
//! the work, and the same with AVX2 as with AVX-512.
//!
//! `A` is packed: the 8 values of a step lie together. `B` is addressed through offsets, which serves
//! both shifted image planes (forward) and pixels of a channels-last image (weight gradients).

#![allow(unsafe_code)]

use crate::isa::Isa;

/// Rows of a tile.
pub(crate) const MR: usize = 8;
/// Columns of a column vector.
pub(crate) const LANES: usize = 16;
/// Column vectors of a tile.
pub(crate) const VECTORS: usize = 3;
/// Columns of a tile.
pub(crate) const NR: usize = LANES * VECTORS;

/// What the sums start from.
#[derive(Clone, Copy)]
pub(crate) enum Start<'a> {
    /// One value a row.
    Rows(&'a [f32; MR]),
    /// What is in the tile already.
    Tile,
}

/// Where in `B` each step's columns begin, relative to each base.
pub(crate) struct Steps {
    offsets: Vec<u32>,
    /// The largest offset.
    reach: usize,
}

impl From<Vec<u32>> for Steps {
    fn from(offsets: Vec<u32>) -> Self {
        let reach = offsets.iter().max().map_or(0, |&offset| offset as usize);
        Self { offsets, reach }
    }
}

/// The operands of one tile.
#[derive(Clone, Copy)]
pub(crate) struct Operands<'a> {
    /// Packed `A`: [`MR`] values for each step.
    pub a: &'a [f32],
    pub steps: &'a Steps,
    /// All of `B`.
    pub b: &'a [f32],
    /// Where in `b` each column vector begins.
    pub bases: [usize; VECTORS],
}

/// Where a tile is written: row r at `c[r * stride ..]`, `rows` × `cols` elements of it.
pub(crate) struct Tile<'a> {
    pub c: &'a mut [f32],
    pub stride: usize,
    pub rows: usize,
    pub cols: usize,
}

/// Computes one tile.
///
/// # Panics
/// If a step's columns do not lie within `b` (whole vectors of them), or if `a` or `c` are too short.
pub(crate) fn tile(isa: Isa, operands: Operands<'_>, start: Start<'_>, tile: Tile<'_>) {
    let Tile { c, stride, rows, cols } = tile;
    let Steps { offsets, reach } = operands.steps;
    assert!((1..=MR).contains(&rows) && (1..=NR).contains(&cols));
    assert!(operands.a.len() >= offsets.len() * MR && c.len() >= (rows - 1) * stride + cols);
    for base in &operands.bases[..cols.div_ceil(LANES)] {
        assert!(offsets.is_empty() || base + reach + LANES <= operands.b.len());
    }
    let a = operands.a.as_ptr();
    let b = operands.bases.map(|base| operands.b.as_ptr().wrapping_add(base));
    let c = c.as_mut_ptr();
    let args = Args { a, b, offsets, start, c, stride, rows, cols };
    match isa {
        // SAFETY: the instructions are there, since `Isa` says so; `a`, `b` and `c` are long enough by
        // the assertions above.
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 => unsafe {
            match cols.div_ceil(LANES) {
                1 => x86::tile512::<1>(&args),
                2 => x86::tile512::<2>(&args),
                _ => x86::tile512::<3>(&args),
            }
        },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 => unsafe { x86::tile256(&args) },
        // SAFETY: as above.
        Isa::Portable => unsafe { portable(&args) },
    }
}

/// [`tile`]'s arguments as the kernels want them.
#[derive(Clone, Copy)]
struct Args<'a> {
    a: *const f32,
    b: [*const f32; VECTORS],
    offsets: &'a [u32],
    start: Start<'a>,
    c: *mut f32,
    stride: usize,
    rows: usize,
    cols: usize,
}

/// Sub-tiles of 4 × 16 in plain Rust, which a compiler keeps in registers.
///
/// # Safety
/// The pointers must be good for what [`tile`] asserts.
unsafe fn portable(args: &Args<'_>) {
    const ROWS: usize = 4;
    for (j, &b) in args.b.iter().enumerate().take(args.cols.div_ceil(LANES)) {
        let cols = (args.cols - j * LANES).min(LANES);
        for r0 in (0..args.rows).step_by(ROWS) {
            let rows = (args.rows - r0).min(ROWS);
            let mut acc = [[0f32; LANES]; ROWS];
            for r in 0..rows {
                for l in 0..cols {
                    acc[r][l] = match args.start {
                        Start::Rows(values) => values[r0 + r],
                        // SAFETY: inside the tile.
                        Start::Tile => unsafe { *args.c.add((r0 + r) * args.stride + j * LANES + l) },
                    };
                }
            }
            for (i, &offset) in args.offsets.iter().enumerate() {
                // SAFETY: step i of `a`, and 16 columns of `b` by [`tile`]'s assertions.
                let (a, x) = unsafe {
                    (
                        &*args.a.add(i * MR + r0).cast::<[f32; ROWS]>(),
                        &*b.add(offset as usize).cast::<[f32; LANES]>(),
                    )
                };
                for r in 0..ROWS {
                    for l in 0..LANES {
                        acc[r][l] = if cfg!(target_arch = "aarch64") {
                            a[r].mul_add(x[l], acc[r][l])
                        } else {
                            acc[r][l] + a[r] * x[l]
                        };
                    }
                }
            }
            for r in 0..rows {
                for l in 0..cols {
                    // SAFETY: inside the tile.
                    unsafe { *args.c.add((r0 + r) * args.stride + j * LANES + l) = acc[r][l] };
                }
            }
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::{
        __m256, __m256i, __m512, _mm256_fmadd_ps, _mm256_loadu_ps, _mm256_loadu_si256, _mm256_maskload_ps,
        _mm256_maskstore_ps, _mm256_set1_ps, _mm256_setzero_ps, _mm256_storeu_ps, _mm512_fmadd_ps,
        _mm512_loadu_ps, _mm512_mask_storeu_ps, _mm512_maskz_loadu_ps, _mm512_set1_ps, _mm512_setzero_ps,
    };

    use super::{Args, LANES, MR, Start};

    /// All 8 rows and `NV` vectors of 16 in one go: up to 24 of the 32 registers hold sums.
    ///
    /// # Safety
    /// As for [`super::portable`]; AVX-512F must be there.
    #[target_feature(enable = "avx512f")]
    pub(super) unsafe fn tile512<const NV: usize>(args: &Args<'_>) {
        let &Args { a, b, offsets, start, c, stride, rows, cols } = args;
        let last: u16 = u16::MAX >> (NV * LANES - cols);
        let mask = |j: usize| if j + 1 == NV { last } else { u16::MAX };
        let mut acc: [[__m512; NV]; MR] = [[_mm512_setzero_ps(); NV]; MR];
        for (r, acc) in acc.iter_mut().enumerate() {
            for (j, acc) in acc.iter_mut().enumerate() {
                match start {
                    Start::Rows(values) => *acc = _mm512_set1_ps(values[r]),
                    // SAFETY: a row of the tile, masked to its columns.
                    Start::Tile if r < rows => unsafe {
                        *acc = _mm512_maskz_loadu_ps(mask(j), c.add(r * stride + j * LANES));
                    },
                    Start::Tile => {}
                }
            }
        }
        for (i, &offset) in offsets.iter().enumerate() {
            let mut x = [_mm512_setzero_ps(); NV];
            for j in 0..NV {
                // SAFETY: [`super::tile`]'s assertion about `b`.
                x[j] = unsafe { _mm512_loadu_ps(b[j].add(offset as usize)) };
            }
            for r in 0..MR {
                // SAFETY: `a` has `offsets.len()` steps.
                let w = _mm512_set1_ps(unsafe { *a.add(i * MR + r) });
                for j in 0..NV {
                    acc[r][j] = _mm512_fmadd_ps(w, x[j], acc[r][j]);
                }
            }
        }
        for (r, acc) in acc.iter().enumerate() {
            for (j, acc) in acc.iter().enumerate() {
                if r < rows {
                    // SAFETY: a row of the tile, masked to its columns.
                    unsafe { _mm512_mask_storeu_ps(c.add(r * stride + j * LANES), mask(j), *acc) };
                }
            }
        }
    }

    /// Lanes of the AVX2 vectors.
    const HALF: usize = 8;
    /// `MASKS[HALF - n..]` enables n lanes.
    static MASKS: [i32; 16] = [-1, -1, -1, -1, -1, -1, -1, -1, 0, 0, 0, 0, 0, 0, 0, 0];

    /// The tile as sub-tiles of 4 rows and up to 2 vectors of 8. A third vector would just fit into the 16 registers,
    /// but compilers then keep a sum in memory.
    ///
    /// # Safety
    /// As for [`super::portable`]; AVX2 and FMA must be there.
    #[target_feature(enable = "avx2,fma")]
    pub(super) unsafe fn tile256(args: &Args<'_>) {
        let halves = args.cols.div_ceil(HALF);
        for r0 in (0..args.rows).step_by(4) {
            for h in (0..halves).step_by(2) {
                // SAFETY: handed on.
                unsafe {
                    match halves - h {
                        1 => sub_tile256::<1>(args, r0, h),
                        _ => sub_tile256::<2>(args, r0, h),
                    }
                }
            }
        }
    }

    #[inline]
    #[target_feature(enable = "avx2,fma")]
    unsafe fn sub_tile256<const NV: usize>(args: &Args<'_>, r0: usize, h0: usize) {
        let &Args { a, b, offsets, start, c, stride, rows, cols } = args;
        let rows = (rows - r0).min(4);
        let mut bases = [b[0]; NV];
        let mut masks: [__m256i; NV] = [unsafe { _mm256_loadu_si256(MASKS.as_ptr().cast()) }; NV];
        for j in 0..NV {
            let h = h0 + j;
            bases[j] = b[h / 2].wrapping_add(h % 2 * HALF);
            let n = (cols - h * HALF).min(HALF);
            // SAFETY: 8 of the 16 entries, from 8 − n on.
            masks[j] = unsafe { _mm256_loadu_si256(MASKS.as_ptr().add(HALF - n).cast()) };
        }
        let mut acc: [[__m256; NV]; 4] = [[_mm256_setzero_ps(); NV]; 4];
        for (r, acc) in acc.iter_mut().enumerate() {
            for (j, acc) in acc.iter_mut().enumerate() {
                match start {
                    Start::Rows(values) => *acc = _mm256_set1_ps(values[r0 + r]),
                    // SAFETY: a row of the tile, masked to its columns.
                    Start::Tile if r < rows => unsafe {
                        *acc = _mm256_maskload_ps(c.add((r0 + r) * stride + (h0 + j) * HALF), masks[j]);
                    },
                    Start::Tile => {}
                }
            }
        }
        for (i, &offset) in offsets.iter().enumerate() {
            let mut x = [_mm256_setzero_ps(); NV];
            for j in 0..NV {
                // SAFETY: [`super::tile`]'s assertion about `b`.
                x[j] = unsafe { _mm256_loadu_ps(bases[j].add(offset as usize)) };
            }
            for r in 0..4 {
                // SAFETY: `a` has `offsets.len()` steps.
                let w = _mm256_set1_ps(unsafe { *a.add(i * MR + r0 + r) });
                for j in 0..NV {
                    acc[r][j] = _mm256_fmadd_ps(w, x[j], acc[r][j]);
                }
            }
        }
        for (r, acc) in acc.iter().enumerate() {
            for (j, acc) in acc.iter().enumerate() {
                if r < rows {
                    // SAFETY: a row of the tile, masked to its columns; masked stores are slow on some machines.
                    unsafe {
                        let to = c.add((r0 + r) * stride + (h0 + j) * HALF);
                        if cols >= (h0 + j + 1) * HALF {
                            _mm256_storeu_ps(to, *acc);
                        } else {
                            _mm256_maskstore_ps(to, masks[j], *acc);
                        }
                    }
                }
            }
        }
    }
}
