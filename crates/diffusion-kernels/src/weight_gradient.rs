//! The sum over images and pixels that is the gradient of a convolution's weights.

use crate::engine::Geometry;
use crate::isa::Isa;
use crate::micro::{LANES, MR, NR, Operands, Start, Steps, Tile, VECTORS, tile};
use crate::scratch::Scratch;
use crate::transpose::{Planes, to_channels_last};
use crate::vector;
use crate::window::{Patches, Window};
use crate::winograd::{self, Tiles, WinogradSums};

/// Sums over pixels of (an element of the small side) × (what its window sees of the large one): the gradient
/// of a convolution's weights, or of a transposed convolution's.
pub(crate) struct WeightGradient {
    isa: Isa,
    window: Window,
    rows: usize,
    channels: usize,
    kernel: usize,
    pixels: usize,
    patches: Patches,
    steps: Steps,
    vectors: Vec<usize>,
    /// Whether to go by [`crate::winograd`] instead.
    winograd: bool,
}

/// Sums over some of the images.
pub(crate) struct Partial {
    /// `[block of 8 rows][group of 3 vectors][8][48]`, or as [`WinogradSums::weights`] has it.
    sums: Vec<f32>,
    /// Sum of each row's elements: a convolution's bias gradient.
    row_sums: Vec<f32>,
}

impl WeightGradient {
    /// `rows` channels on the small side, `channels` on the large one.
    pub(crate) fn new(isa: Isa, geometry: Geometry, rows: usize, channels: usize) -> Self {
        let window = geometry.window(channels);
        let patches = Patches::new(window);
        Self {
            isa,
            window,
            rows,
            channels,
            kernel: geometry.kernel,
            pixels: geometry.small_len(),
            steps: patches.pixel_offsets().into(),
            vectors: patches.vectors(),
            patches,
            winograd: winograd::applies(&window, rows),
        }
    }

    fn tiles(&self) -> Tiles {
        Tiles::new((self.window.h.input, self.window.w.input))
    }

    /// Nothing summed yet.
    pub(crate) fn begin(&self) -> Running<'_> {
        let means = if self.winograd {
            Means::Winograd(WinogradSums::new(self.isa, self.rows, self.channels))
        } else {
            let blocks = self.rows.div_ceil(MR);
            let groups = self.vectors.len().div_ceil(VECTORS);
            Means::Direct {
                sums: vec![0.0; blocks * groups * MR * NR],
                patches: Scratch::zeroed(self.patches.len()),
                packed: Scratch::zeroed(blocks * self.pixels * MR),
            }
        };
        Running { gradient: self, row_sums: vec![0.0; self.rows], means }
    }

    /// The sums over several images, in order: each `small` (rows, pixels), `large` (channels, H, W).
    pub(crate) fn sum<'a>(&self, images: impl Iterator<Item = (&'a [f32], &'a [f32])>) -> Partial {
        let mut running = self.begin();
        images.for_each(|(small, large)| running.add(small, large));
        running.finish()
    }

    /// `packed[block][pixel][8]` from `small` (rows, pixels); rows that do not exist stay as they are.
    fn pack(&self, small: &[f32], packed: &mut [f32]) {
        let planes = Planes { plane: self.pixels, channels: MR, pixels: self.pixels };
        for (rows, packed) in small.chunks(self.pixels * MR).zip(packed.chunks_exact_mut(self.pixels * MR)) {
            let channels = rows.len() / self.pixels;
            to_channels_last(self.isa, rows, Planes { channels, ..planes }, packed, MR);
        }
    }

    /// Adds up partial sums in order: the gradient (rows, channels, K, K) and the sums of the rows.
    pub(crate) fn finish(&self, partials: &[Partial]) -> (Vec<f32>, Vec<f32>) {
        let Some(first) = partials.first() else {
            let weights = self.rows * self.channels * self.kernel * self.kernel;
            return (vec![0.0; weights], vec![0.0; self.rows]);
        };
        let (mut sums, mut row_sums) = (first.sums.clone(), first.row_sums.clone());
        for partial in &partials[1..] {
            for (sum, x) in sums.iter_mut().zip(&partial.sums) {
                *sum += x;
            }
            for (sum, x) in row_sums.iter_mut().zip(&partial.row_sums) {
                *sum += x;
            }
        }
        if self.winograd {
            return (sums, row_sums);
        }
        let groups = self.vectors.len().div_ceil(VECTORS);
        let mut gradient = Vec::with_capacity(self.rows * self.channels * self.kernel * self.kernel);
        for r in 0..self.rows {
            for c in 0..self.channels {
                for ky in 0..self.kernel {
                    for kx in 0..self.kernel {
                        let block = &sums[r / MR * groups * MR * NR..];
                        let lane = self.patches.lane(c, ky, kx);
                        gradient.push(block[lane / NR * MR * NR + r % MR * NR + lane % NR]);
                    }
                }
            }
        }
        (gradient, row_sums)
    }
}

/// Sums in the making.
pub(crate) struct Running<'a> {
    gradient: &'a WeightGradient,
    row_sums: Vec<f32>,
    means: Means,
}

/// The two ways to sum, each with the memory it works in.
enum Means {
    Direct { sums: Vec<f32>, patches: Scratch, packed: Scratch },
    Winograd(WinogradSums),
}

impl Running<'_> {
    /// Adds an image: `small` (rows, pixels), `large` (channels, H, W).
    pub(crate) fn add(&mut self, small: &[f32], large: &[f32]) {
        let &WeightGradient { isa, pixels, ref steps, ref vectors, .. } = self.gradient;
        for (sum, row) in self.row_sums.iter_mut().zip(small.chunks_exact(pixels)) {
            *sum += vector::sum(isa, row);
        }
        let (sums, patches, packed) = match &mut self.means {
            Means::Winograd(sums) => return sums.add_image(self.gradient.tiles(), small, large),
            Means::Direct { sums, patches, packed } => (sums, patches, packed),
        };
        self.gradient.patches.fill(isa, large, patches);
        self.gradient.pack(small, packed);
        let groups = vectors.len().div_ceil(VECTORS);
        for (block, sums) in sums.chunks_exact_mut(groups * MR * NR).enumerate() {
            let a = &packed[block * pixels * MR..];
            for (vectors, c) in vectors.chunks(VECTORS).zip(sums.chunks_exact_mut(MR * NR)) {
                let mut bases = [0; VECTORS];
                bases[..vectors.len()].copy_from_slice(vectors);
                let cols = vectors.len() * LANES;
                let tile_of_sums = Tile { c, stride: NR, rows: MR, cols };
                tile(isa, Operands { a, steps, b: patches, bases }, Start::Tile, tile_of_sums);
            }
        }
    }

    /// The sums as they are now.
    pub(crate) fn finish(self) -> Partial {
        let sums = match self.means {
            Means::Direct { sums, .. } => sums,
            Means::Winograd(sums) => sums.weights(),
        };
        Partial { sums, row_sums: self.row_sums }
    }
}
