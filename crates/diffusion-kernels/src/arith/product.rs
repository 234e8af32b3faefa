//! Small matrix products with whole vectors of columns: the inner loop of everything here that multiplies.
//!
//! The left factor is read where it lies, element by element, which serves windows of an image with channels last as
//! well as matrices and their transposes; the right one is dense. An element of the result is the sum of its products
//! in order, one fused multiply-add a term, so that its value depends neither on how the work is cut nor on its
//! neighbours, and is the same with AVX2 as with AVX-512.

#![allow(unsafe_code)]

use crate::arith::isa::Isa;
use crate::arith::vector::LANES;

/// The left factor: its terms come in blocks; element (row r, term t of block i) is
/// `data[r · row + blocks[i] + t · term]`.
#[derive(Clone, Copy)]
pub(crate) struct Factor<'a> {
    pub data: &'a [f32],
    pub row: usize,
    pub blocks: &'a [usize],
    /// Terms in a block.
    pub terms: usize,
    pub term: usize,
}

impl<'a> Factor<'a> {
    /// A matrix of `terms` columns, its rows `row` apart.
    pub(crate) fn matrix(data: &'a [f32], row: usize, terms: usize) -> Self {
        Self { data, row, blocks: &[0], terms, term: 1 }
    }

    /// The transpose of a matrix of `terms` rows, `row` apart.
    pub(crate) fn transposed(data: &'a [f32], row: usize, terms: usize) -> Self {
        Self { data, row: 1, blocks: &[0], terms, term: row }
    }
}

/// Where a product goes: to rows that are `row` apart.
pub(crate) struct Target<'a> {
    data: &'a mut [f32],
    row: usize,
    /// Whether the product is added to what is there.
    onto: bool,
}

impl<'a> Target<'a> {
    /// A target that the product replaces.
    pub(crate) fn new(data: &'a mut [f32], row: usize) -> Self {
        Self { data, row, onto: false }
    }

    /// A target that the product is added to.
    pub(crate) fn onto(data: &'a mut [f32], row: usize) -> Self {
        Self { data, row, onto: true }
    }
}

/// `c = a · b`, or `c += a · b`: `b` (terms, columns) is dense, and there are whole vectors of columns.
///
/// # Panics
/// If a slice is too short.
pub(crate) fn product(
    isa: Isa,
    a: Factor<'_>,
    b: &[f32],
    [rows, columns]: [usize; 2],
    c: Target<'_>,
) {
    assert!(rows > 0 && columns > 0 && columns % LANES == 0);
    let terms = a.blocks.len() * a.terms;
    if let Some(reach) = a.blocks.iter().max().filter(|_| terms > 0) {
        assert!(a.data.len() > (rows - 1) * a.row + reach + (a.terms - 1) * a.term);
    }
    assert!(b.len() >= terms * columns && c.data.len() >= (rows - 1) * c.row + columns);
    let vectors = columns / LANES;
    let (most_rows, most_vectors) = match isa {
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512(_) => (14, 2),
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2(_) => (6, 1),
        Isa::Portable => (4, 1),
    };
    // As even groups as possible.
    let at_once = rows.div_ceil(rows.div_ceil(most_rows));
    let group = vectors.div_ceil(vectors.div_ceil(most_vectors));
    for row in (0..rows).step_by(at_once) {
        for first in (0..vectors).step_by(group) {
            let tile = Tile {
                // A factor without terms may have no data.
                a: a.data.as_ptr().wrapping_add(row * a.row),
                factor: a,
                b: b.as_ptr().wrapping_add(first * LANES),
                columns,
                c: c.data[row * c.row + first * LANES..].as_mut_ptr(),
                c_row: c.row,
                onto: c.onto,
            };
            // SAFETY: the rows, terms and columns of the tile lie within the sizes asserted above.
            unsafe { tile.run(isa, (rows - row).min(at_once), (vectors - first).min(group)) };
        }
    }
}

/// Some rows and vectors of a product.
#[derive(Clone, Copy)]
struct Tile<'a> {
    a: *const f32,
    factor: Factor<'a>,
    b: *const f32,
    columns: usize,
    c: *mut f32,
    c_row: usize,
    onto: bool,
}

impl Tile<'_> {
    /// # Safety
    /// The pointers must be good for `rows` rows, all terms and `vectors` vectors at their strides.
    unsafe fn run(&self, isa: Isa, rows: usize, vectors: usize) {
        macro_rules! choose {
            ($f:ident: $([$r:literal $($v:literal)+])+) => {
                match (rows, vectors) {
                    $($(($r, $v) => unsafe { self.$f::<$r, $v>() },)+)+
                    _ => unreachable!("the caller cuts tiles no larger"),
                }
            };
        }
        // SAFETY of each arm: the caller's promise, and the token's that this machine has the instructions.
        match isa {
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512(_) => {
                choose!(avx512: [1 1 2][2 1 2][3 1 2][4 1 2][5 1 2][6 1 2][7 1 2][8 1 2][9 1 2][10 1 2][11 1 2][12 1 2][13 1 2][14 1 2]);
            }
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2(_) => choose!(avx2: [1 1][2 1][3 1][4 1][5 1][6 1]),
            Isa::Portable => choose!(portable: [1 1][2 1][3 1][4 1]),
        }
    }

    /// # Safety
    /// As for [`Self::run`].
    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx512f")]
    unsafe fn avx512<const R: usize, const V: usize>(&self) {
        use std::arch::x86_64::{
            _mm512_fmadd_ps, _mm512_loadu_ps, _mm512_set1_ps, _mm512_setzero_ps, _mm512_storeu_ps,
        };
        let Factor { row, blocks, terms, term, .. } = self.factor;
        let mut acc = [[_mm512_setzero_ps(); V]; R];
        // SAFETY: rows, terms and vectors in range, by the caller's promise.
        unsafe {
            if self.onto {
                for r in 0..R {
                    for v in 0..V {
                        acc[r][v] = _mm512_loadu_ps(self.c.add(r * self.c_row + v * LANES));
                    }
                }
            }
            let mut b = self.b;
            for &block in blocks {
                let mut a = self.a.add(block);
                for _ in 0..terms {
                    let mut x = [_mm512_setzero_ps(); V];
                    for v in 0..V {
                        x[v] = _mm512_loadu_ps(b.add(v * LANES));
                    }
                    for r in 0..R {
                        let w = _mm512_set1_ps(*a.add(r * row));
                        for v in 0..V {
                            acc[r][v] = _mm512_fmadd_ps(w, x[v], acc[r][v]);
                        }
                    }
                    a = a.wrapping_add(term);
                    b = b.wrapping_add(self.columns);
                }
            }
            for r in 0..R {
                for v in 0..V {
                    _mm512_storeu_ps(self.c.add(r * self.c_row + v * LANES), acc[r][v]);
                }
            }
        }
    }

    /// # Safety
    /// As for [`Self::run`].
    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2,fma")]
    unsafe fn avx2<const R: usize, const V: usize>(&self) {
        use std::arch::x86_64::{
            _mm256_fmadd_ps, _mm256_loadu_ps, _mm256_set1_ps, _mm256_setzero_ps, _mm256_storeu_ps,
        };
        const HALF: usize = LANES / 2;
        let Factor { row, blocks, terms, term, .. } = self.factor;
        let mut acc = [[_mm256_setzero_ps(); 2]; R];
        // SAFETY: rows, terms and one vector, of two registers, in range, by the caller's promise.
        unsafe {
            if self.onto {
                for r in 0..R {
                    for h in 0..2 {
                        acc[r][h] = _mm256_loadu_ps(self.c.add(r * self.c_row + h * HALF));
                    }
                }
            }
            let mut b = self.b;
            for &block in blocks {
                let mut a = self.a.add(block);
                for _ in 0..terms {
                    let x = [_mm256_loadu_ps(b), _mm256_loadu_ps(b.add(HALF))];
                    for r in 0..R {
                        let w = _mm256_set1_ps(*a.add(r * row));
                        for h in 0..2 {
                            acc[r][h] = _mm256_fmadd_ps(w, x[h], acc[r][h]);
                        }
                    }
                    a = a.wrapping_add(term);
                    b = b.wrapping_add(self.columns);
                }
            }
            for r in 0..R {
                for h in 0..2 {
                    _mm256_storeu_ps(self.c.add(r * self.c_row + h * HALF), acc[r][h]);
                }
            }
        }
    }

    /// # Safety
    /// As for [`Self::run`].
    unsafe fn portable<const R: usize, const V: usize>(&self) {
        let Factor { row, blocks, terms, term, .. } = self.factor;
        let mut acc = [[0f32; LANES]; R];
        // SAFETY: rows, terms and one vector in range, by the caller's promise.
        unsafe {
            if self.onto {
                for r in 0..R {
                    acc[r] = self.c.add(r * self.c_row).cast::<[f32; LANES]>().read_unaligned();
                }
            }
            let mut b = self.b;
            for &block in blocks {
                let mut a = self.a.add(block);
                for _ in 0..terms {
                    let x = b.cast::<[f32; LANES]>().read_unaligned();
                    for r in 0..R {
                        let w = *a.add(r * row);
                        for l in 0..LANES {
                            acc[r][l] = if cfg!(target_arch = "aarch64") {
                                w.mul_add(x[l], acc[r][l])
                            } else {
                                acc[r][l] + w * x[l]
                            };
                        }
                    }
                    a = a.wrapping_add(term);
                    b = b.wrapping_add(self.columns);
                }
            }
            for r in 0..R {
                self.c.add(r * self.c_row).cast::<[f32; LANES]>().write_unaligned(acc[r]);
            }
        }
    }
}
