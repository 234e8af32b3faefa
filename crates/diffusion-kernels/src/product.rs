//! Small matrix products with whole vectors of columns, the middle step of [`crate::winograd`].

#![allow(unsafe_code)]

use crate::isa::Isa;
use crate::micro::LANES;

/// The left factor: element (row r, term i) at `data[r · row + i · term]`.
#[derive(Clone, Copy)]
pub(crate) struct Factor<'a> {
    pub data: &'a [f32],
    pub row: usize,
    pub term: usize,
}

/// `c = a · b`, or `c += a · b` if `onto`: `sizes` are (rows, terms, columns), `b` (terms, columns) and
/// `c` (rows, columns) are dense, and there are whole vectors of columns.
///
/// Each element is a sum in order of the terms, whatever the sizes.
pub(crate) fn product(isa: Isa, a: Factor<'_>, b: &[f32], sizes: [usize; 3], onto: bool, c: &mut [f32]) {
    let [rows, terms, columns] = sizes;
    assert!(rows > 0 && terms > 0 && columns > 0 && columns % LANES == 0);
    assert!(a.data.len() > (rows - 1) * a.row + (terms - 1) * a.term);
    assert!(b.len() >= terms * columns && c.len() >= rows * columns);
    let vectors = columns / LANES;
    let (most_rows, most_vectors) = match isa {
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 => (14, 2),
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 => (6, 1),
        Isa::Portable => (4, 1),
    };
    // As even groups as possible.
    let group = vectors.div_ceil(vectors.div_ceil(most_vectors));
    let at_once = rows.div_ceil(rows.div_ceil(most_rows));
    for row in (0..rows).step_by(at_once) {
        let count = (rows - row).min(at_once);
        for first in (0..vectors).step_by(group) {
            let block = Block {
                a: a.data[row * a.row..].as_ptr(),
                row: a.row,
                term: a.term,
                b: b[first * LANES..].as_ptr(),
                terms,
                columns,
                c: c[row * columns + first * LANES..].as_mut_ptr(),
                onto,
            };
            // SAFETY: the rows, terms and columns of the block lie within the sizes asserted above; `Isa` says
            // that the instructions are there.
            unsafe { block.run(isa, count, group.min(vectors - first)) };
        }
    }
}

/// Some rows and vectors of a product.
#[derive(Clone, Copy)]
struct Block {
    a: *const f32,
    row: usize,
    term: usize,
    b: *const f32,
    terms: usize,
    columns: usize,
    c: *mut f32,
    onto: bool,
}

impl Block {
    /// # Safety
    /// The pointers must be good for `rows` rows, `self.terms` terms and `vectors` vectors at their strides, and
    /// the instructions must be there. At most 14 rows and 2 vectors with AVX-512, 6 rows and 1 vector with AVX2, 4 rows and 1 vector else.
    unsafe fn run(&self, isa: Isa, rows: usize, vectors: usize) {
        macro_rules! choose {
            ($f:ident: $([$r:literal $($v:literal)+])+) => {
                match (rows, vectors) {
                    $($(($r, $v) => unsafe { self.$f::<$r, $v>() },)+)+
                    _ => unreachable!("the caller cuts blocks no larger"),
                }
            };
        }
        // SAFETY of each arm: handed on.
        match isa {
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => {
                choose!(avx512: [1 1 2][2 1 2][3 1 2][4 1 2][5 1 2][6 1 2][7 1 2][8 1 2][9 1 2][10 1 2][11 1 2][12 1 2][13 1 2][14 1 2]);
            }
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => choose!(avx2: [1 1][2 1][3 1][4 1][5 1][6 1]),
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
        let mut acc = [[_mm512_setzero_ps(); V]; R];
        // SAFETY: rows, terms and vectors in range, by the caller's promise.
        unsafe {
            if self.onto {
                for r in 0..R {
                    for v in 0..V {
                        acc[r][v] = _mm512_loadu_ps(self.c.add(r * self.columns + v * LANES));
                    }
                }
            }
            for i in 0..self.terms {
                let (a, b) = (self.a.add(i * self.term), self.b.add(i * self.columns));
                let mut x = [_mm512_setzero_ps(); V];
                for v in 0..V {
                    x[v] = _mm512_loadu_ps(b.add(v * LANES));
                }
                for r in 0..R {
                    let w = _mm512_set1_ps(*a.add(r * self.row));
                    for v in 0..V {
                        acc[r][v] = _mm512_fmadd_ps(w, x[v], acc[r][v]);
                    }
                }
            }
            for r in 0..R {
                for v in 0..V {
                    _mm512_storeu_ps(self.c.add(r * self.columns + v * LANES), acc[r][v]);
                }
            }
        }
    }

    /// # Safety
    /// As for [`Self::run`].
    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2,fma")]
    unsafe fn avx2<const R: usize, const V: usize>(&self) {
        // SAFETY: handed on.
        unsafe { self.lanes::<true, R>() }
    }

    /// # Safety
    /// As for [`Self::run`].
    unsafe fn portable<const R: usize, const V: usize>(&self) {
        // SAFETY: handed on.
        unsafe { self.lanes::<{ cfg!(target_arch = "aarch64") }, R>() }
    }

    /// # Safety
    /// As for [`Self::run`], with one vector.
    #[inline(always)]
    unsafe fn lanes<const FMA: bool, const R: usize>(&self) {
        let mut acc = [[0f32; LANES]; R];
        // SAFETY: rows, terms and one vector in range, by the caller's promise.
        unsafe {
            if self.onto {
                for r in 0..R {
                    acc[r] = self.c.add(r * self.columns).cast::<[f32; LANES]>().read_unaligned();
                }
            }
            for i in 0..self.terms {
                let a = self.a.add(i * self.term);
                let x = self.b.add(i * self.columns).cast::<[f32; LANES]>().read_unaligned();
                for r in 0..R {
                    let w = *a.add(r * self.row);
                    for l in 0..LANES {
                        acc[r][l] = if FMA { w.mul_add(x[l], acc[r][l]) } else { acc[r][l] + w * x[l] };
                    }
                }
            }
            for r in 0..R {
                self.c.add(r * self.columns).cast::<[f32; LANES]>().write_unaligned(acc[r]);
            }
        }
    }
}
