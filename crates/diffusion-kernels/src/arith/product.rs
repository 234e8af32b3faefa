//! Register-tiled matrix products: the inner loop of convolutions, attention, linear layers and
//! Muon.

// c (rows, columns) = a · b, or c += a · b; columns is a multiple of LANES = 16:
//
//     for each tile of R rows and V vectors of 16 columns:
//         acc[R][V] = onto ? c : 0                    all accumulators stay in registers
//         for each term k, in order:
//             x[v] = b[k][v], v < V                   V vector loads
//             for r in 0..R:
//                 w = a[r][k], copied to all lanes
//                 acc[r][v] = w · x[v] + acc[r][v]    V multiply-adds
//         c = acc
//
// 1. The tile fills the registers. AVX-512 has 32: 14 × 2 accumulators, 2 for x, 1 for w. AVX2 has
//    16, of 8 lanes: 6 rows of 2 accumulators, 2 for x, 1 for w. R and V are const parameters, so
//    the compiler unrolls the loops and keeps `acc` in registers.
// 2. Rows are divided evenly: 15 rows become 8 + 7, not 14 + 1, because a tile of one row would
//    load a vector of b for each multiply-add.
// 3. `a` is never packed. It is read one element at a time through strides (see `Factor`). With
//    channels last, the taps of one kernel row are a single run of numbers, so a convolution reads
//    its windows straight from the zero-padded image; `blocks` holds where each kernel row begins.
//    A transposed matrix only swaps the two strides.
// 4. There is no masked tail: callers pad b and c to whole vectors.
// 5. An element of c is one running sum over k in order. It is never split over lanes or tiles. So
//    it does not depend on the tile, on other rows or columns, or on the thread. AVX2 and AVX-512
//    round once per term (fused multiply-add) and agree in every bit. Portable code rounds twice,
//    except on AArch64.
// 6. Bounds are checked once, in `product`, for the largest index of each slice; the loops then use
//    raw pointers. They are advanced with `wrapping_add`, because after the last term they may
//    point outside the slice; they are not read there.
// 7. A product of pairs of bf16 (`arith/format.rs`) is the same loop: a term is a word of two
//    numbers, and `acc += w · x` becomes an instruction that adds both products.

#![allow(unsafe_code)]

use crate::arith::format::{Format, pair};
use crate::arith::isa::Isa;
use crate::arith::vector::LANES;

/// The left factor, whose terms come in blocks: the element in row r for term t of block i is
/// `data[r · row + blocks[i] + t · term]`.
#[derive(Clone, Copy)]
pub(crate) struct Factor<'a> {
    pub data: &'a [f32],
    pub row: usize,
    pub blocks: &'a [usize],
    /// The number of terms in a block.
    pub terms: usize,
    pub term: usize,
}

impl<'a> Factor<'a> {
    /// A matrix with `terms` columns; its rows begin `row` floats apart.
    pub(crate) fn matrix(data: &'a [f32], row: usize, terms: usize) -> Self {
        Self { data, row, blocks: &[0], terms, term: 1 }
    }

    /// The transpose of a matrix with `terms` rows, which begin `row` floats apart.
    pub(crate) fn transposed(data: &'a [f32], row: usize, terms: usize) -> Self {
        Self { data, row: 1, blocks: &[0], terms, term: row }
    }
}

/// The output of a product; its rows begin `row` floats apart.
pub(crate) struct Target<'a> {
    data: &'a mut [f32],
    row: usize,
    /// Whether the product is added to the present values.
    onto: bool,
}

impl<'a> Target<'a> {
    /// An output that the product overwrites.
    pub(crate) fn new(data: &'a mut [f32], row: usize) -> Self {
        Self { data, row, onto: false }
    }

    /// An output that the product is added to.
    pub(crate) fn onto(data: &'a mut [f32], row: usize) -> Self {
        Self { data, row, onto: true }
    }
}

/// Computes `c = a · b` or `c += a · b`. `b` (terms, columns) is dense; `columns` must be a
/// multiple of [`LANES`].
///
/// # Panics
/// If a slice is too short, there are no rows or columns, or `columns` is not a multiple of
/// [`LANES`].
pub(crate) fn product(isa: Isa, a: Factor<'_>, b: &[f32], size: [usize; 2], c: Target<'_>) {
    product_of_words(isa, Format::F32, a, b, size, c);
}

/// Like [`product`], where the elements of `a` and `b` are words of `format`.
///
/// # Panics
/// Like [`product`].
pub(crate) fn product_of_words(
    isa: Isa,
    format: Format,
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
    let (max_rows, max_vectors) = match isa {
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512(_) => (14, 2),
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2(_) => (6, 1),
        Isa::Portable => (4, 1),
    };
    // Tiles of equal size, as far as possible.
    let tile_rows = rows.div_ceil(rows.div_ceil(max_rows));
    let tile_vectors = vectors.div_ceil(vectors.div_ceil(max_vectors));
    for row in (0..rows).step_by(tile_rows) {
        for first in (0..vectors).step_by(tile_vectors) {
            let tile = Tile {
                // A factor without terms may have no data, so the pointer may lie outside.
                a: a.data.as_ptr().wrapping_add(row * a.row),
                factor: a,
                b: b.as_ptr().wrapping_add(first * LANES),
                columns,
                c: c.data[row * c.row + first * LANES..].as_mut_ptr(),
                c_row: c.row,
                onto: c.onto,
            };
            // SAFETY: the rows, terms and columns of the tile are within the sizes asserted above.
            unsafe {
                let size = [(rows - row).min(tile_rows), (vectors - first).min(tile_vectors)];
                tile.run(isa, format, size);
            };
        }
    }
}

/// Some rows and column vectors of a product.
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
    /// The pointers must be valid for `rows` rows, all terms and `vectors` vectors at their
    /// strides.
    unsafe fn run(&self, isa: Isa, format: Format, size: [usize; 2]) {
        macro_rules! choose {
            ($f:ident: $([$r:literal $($v:literal)+])+) => {
                match size {
                    $($([$r, $v] => unsafe { self.$f::<$r, $v>() },)+)+
                    _ => unreachable!("a tile larger than the maximum"),
                }
            };
        }
        // SAFETY of each arm: the caller's promise, and the token proves that the CPU has the
        // instructions.
        if format == Format::Bf16 {
            return match isa {
                #[cfg(target_arch = "x86_64")]
                Isa::Avx512(_) if isa.format() == Format::Bf16 => {
                    choose!(avx512_bf16: [1 1 2][2 1 2][3 1 2][4 1 2][5 1 2][6 1 2][7 1 2][8 1 2][9 1 2][10 1 2][11 1 2][12 1 2][13 1 2][14 1 2]);
                }
                _ => unsafe { self.portable_bf16(size) },
            };
        }
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
        // SAFETY: the caller's promise.
        unsafe {
            self.avx512_by::<R, V>(|w, x, acc| std::arch::x86_64::_mm512_fmadd_ps(w, x, acc));
        }
    }

    /// # Safety
    /// As for [`Self::run`].
    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx512f,avx512bf16")]
    unsafe fn avx512_bf16<const R: usize, const V: usize>(&self) {
        use std::arch::x86_64::{__m512, __m512bh, _mm512_dpbf16_ps};
        use std::mem::transmute;
        // SAFETY: the caller's promise; both types are 64 bytes without invalid values.
        unsafe {
            self.avx512_by::<R, V>(|w, x, acc| {
                _mm512_dpbf16_ps(
                    acc,
                    transmute::<__m512, __m512bh>(w),
                    transmute::<__m512, __m512bh>(x),
                )
            });
        }
    }

    /// The loop with `multiply_add(w, x, acc)`.
    ///
    /// # Safety
    /// As for [`Self::run`].
    #[cfg(target_arch = "x86_64")]
    #[inline]
    #[target_feature(enable = "avx512f")]
    unsafe fn avx512_by<const R: usize, const V: usize>(
        &self,
        multiply_add: impl Fn(
            std::arch::x86_64::__m512,
            std::arch::x86_64::__m512,
            std::arch::x86_64::__m512,
        ) -> std::arch::x86_64::__m512,
    ) {
        use std::arch::x86_64::{
            _mm512_loadu_ps, _mm512_set1_ps, _mm512_setzero_ps, _mm512_storeu_ps,
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
                            acc[r][v] = multiply_add(w, x[v], acc[r][v]);
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

    /// A product of pairs without special instructions, which defines the fast ones.
    ///
    /// # Safety
    /// As for [`Self::run`].
    unsafe fn portable_bf16(&self, [rows, vectors]: [usize; 2]) {
        let Factor { row, blocks, terms, term, .. } = self.factor;
        for (r, l) in (0..rows).flat_map(|r| (0..vectors * LANES).map(move |l| (r, l))) {
            // SAFETY: rows, terms and vectors in range, by the caller's promise.
            unsafe {
                let c = self.c.add(r * self.c_row + l);
                let mut acc = if self.onto { *c } else { 0.0 };
                for (i, block) in blocks.iter().enumerate() {
                    for t in 0..terms {
                        let a = pair(*self.a.add(r * row + block + t * term));
                        let b = pair(*self.b.add((i * terms + t) * self.columns + l));
                        acc = a[0].mul_add(b[0], a[1].mul_add(b[1], acc));
                    }
                }
                *c = acc;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Precision;
    use crate::arith::format::Part;
    use crate::arith::isa::available;

    #[test]
    fn products_of_pairs_agree_with_their_definition() {
        let (rows, columns, terms) = (17, 48, 37);
        let mut state = 1u32;
        let mut word = || {
            let mut words = [0.0; LANES];
            for part in [Part::Low, Part::High] {
                state = state.wrapping_mul(747_796_405).wrapping_add(2_891_336_453);
                part.write(
                    [(state >> 8) as f32 / f32::from(1u16 << 12) - 2048.0; LANES],
                    &mut words,
                );
            }
            words[0]
        };
        let a: Vec<f32> = (0..rows * terms).map(|_| word()).collect();
        let b: Vec<f32> = (0..terms * columns).map(|_| word()).collect();
        let result = |isa: Isa| {
            let mut c = vec![1.0; rows * columns];
            let factor = Factor::matrix(&a, terms, terms);
            product_of_words(
                isa,
                Format::Bf16,
                factor,
                &b,
                [rows, columns],
                Target::onto(&mut c, columns),
            );
            c
        };
        let expected = result(Isa::Portable);
        for isa in available() {
            let results = result(isa.in_precision(Precision::Bf16));
            for (result, expected) in results.iter().zip(&expected) {
                assert!(
                    (result - expected).abs() < 1e-6 * 4e6 * terms as f32,
                    "{result}, {expected}"
                );
            }
        }
    }
}
