//! The two directions of a convolution, for one image at a time: a window of inputs gathered into each output
//! pixel, and its transpose, scattered by phases.

use crate::isa::Isa;
use crate::micro::{LANES, MR, NR, Operands, Start, Steps, Tile, tile};
use crate::scratch::Scratch;
use crate::window::{Axis, Window};
use crate::winograd::{self, Tiles, Winograd};

/// Sizes of a square kernel's convolution, in the direction that has `input` as the side that is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Geometry {
    pub kernel: usize,
    pub stride: usize,
    pub padding: usize,
    /// Height and width on the side of the window: a convolution's input, a transposed one's output.
    pub large: (usize, usize),
    /// Height and width on the side of one element a window: a convolution's output.
    pub small: (usize, usize),
}

impl Geometry {
    /// The window through which a pixel of the small side sees the large one.
    pub(crate) fn window(&self, channels: usize) -> Window {
        let axis = |input, output| Axis {
            input,
            output,
            taps: self.kernel,
            first: -(self.padding as isize),
            stride: self.stride,
        };
        Window { channels, h: axis(self.large.0, self.small.0), w: axis(self.large.1, self.small.1) }
    }

    pub(crate) fn large_len(&self) -> usize {
        self.large.0 * self.large.1
    }

    pub(crate) fn small_len(&self) -> usize {
        self.small.0 * self.small.1
    }
}

/// A gathering convolution with its weights packed.
pub(crate) struct Gather {
    isa: Isa,
    window: Window,
    outputs: usize,
    /// `[block of 8 outputs][term][8]`.
    weights: Vec<f32>,
    bias: Vec<[f32; MR]>,
    steps: Steps,
    /// Instead of `weights`, where that is faster.
    winograd: Option<Winograd>,
}

impl Gather {
    /// `weight(output, channel, vertical tap, horizontal tap)`; no bias is a bias of zero.
    pub(crate) fn new(
        isa: Isa,
        window: Window,
        outputs: usize,
        bias: Option<&[f32]>,
        weight: impl Fn(usize, usize, usize, usize) -> f32,
    ) -> Self {
        let (terms, blocks) = (window.terms(), outputs.div_ceil(MR));
        let bias = bias.map_or_else(|| vec![[0.0; MR]; blocks], blocks_of);
        if winograd::applies(&window, outputs) {
            let taps = |o, c| (0..9).map(move |tap| (o, c, tap / 3, tap % 3));
            let all = (0..outputs).flat_map(|o| (0..window.channels).flat_map(move |c| taps(o, c)));
            let all: Vec<f32> = all.map(|(o, c, ky, kx)| weight(o, c, ky, kx)).collect();
            let winograd = Some(Winograd::new(isa, &all, outputs, window.channels));
            return Self {
                isa,
                window,
                outputs,
                weights: Vec::new(),
                bias,
                steps: Vec::new().into(),
                winograd,
            };
        }
        let mut weights = vec![0.0; blocks * terms * MR];
        // Where a phase of a stride larger than the kernel sees no tap, there is nothing to pack.
        for o in 0..if terms > 0 { outputs } else { 0 } {
            let block = &mut weights[o / MR * terms * MR..];
            let mut slots = block[o % MR..].iter_mut().step_by(MR);
            for c in 0..window.channels {
                for ty in 0..window.h.taps {
                    for (tx, slot) in (&mut slots).take(window.w.taps).enumerate() {
                        *slot = weight(o, c, ty, tx);
                    }
                }
            }
        }
        Self { isa, window, outputs, weights, bias, steps: window.plane_offsets().into(), winograd: None }
    }

    /// Convolves the image `x` (C, H, W) into `y`, whose channel o begins at `o · stride`.
    pub(crate) fn run(&self, x: &[f32], y: &mut [f32], stride: usize) {
        self.run_from(x, y, stride, Some(&self.bias));
    }

    /// As [`Self::run`], with each channel's sum started from `bias`, or from what is in `y`.
    pub(crate) fn run_from(&self, x: &[f32], y: &mut [f32], stride: usize, bias: Option<&[[f32; MR]]>) {
        if let Some(winograd) = &self.winograd {
            debug_assert_eq!(stride, self.window.pixels());
            let tiles = Tiles::new((self.window.h.input, self.window.w.input));
            winograd.run_image(tiles, x, y, bias);
            return;
        }
        let mut planes = Scratch::new(self.window.planes_len());
        self.window.fill_planes(x, &mut planes);
        let (pixels, terms) = (self.window.pixels(), self.window.terms());
        for block in 0..self.bias.len() {
            let a = &self.weights[block * terms * MR..];
            let start = bias.map_or(Start::Tile, |bias| Start::Rows(&bias[block]));
            let rows = (self.outputs - block * MR).min(MR);
            for p in (0..pixels).step_by(NR) {
                let cols = (pixels - p).min(NR);
                let bases = [p, p + LANES, p + 2 * LANES];
                let operands = Operands { a, steps: &self.steps, b: &planes, bases };
                let c = &mut y[block * MR * stride + p..];
                tile(self.isa, operands, start, Tile { c, stride, rows, cols });
            }
        }
    }
}

/// `bias` in blocks as [`Gather::run_from`] takes them, the last filled up with zeros.
pub(crate) fn blocks_of(bias: &[f32]) -> Vec<[f32; MR]> {
    let mut blocks = vec![[0.0; MR]; bias.len().div_ceil(MR)];
    for (block, bias) in blocks.iter_mut().zip(bias.chunks(MR)) {
        block[..bias.len()].copy_from_slice(bias);
    }
    blocks
}

/// A transposed convolution, from the small side to the large one, with its weights packed.
///
/// Large pixels that are congruent modulo the stride see the same taps of the kernel: each such phase is a
/// gathering convolution of its own (with stride 1, there is one).
pub(crate) struct Scatter {
    geometry: Geometry,
    outputs: usize,
    phases: Vec<(usize, usize, Gather)>,
}

impl Scatter {
    /// `weight(output, channel, ky, kx)`, the kernel in its own orientation.
    pub(crate) fn new(
        isa: Isa,
        geometry: Geometry,
        channels: usize,
        outputs: usize,
        bias: Option<&[f32]>,
        weight: impl Fn(usize, usize, usize, usize) -> f32,
    ) -> Self {
        let Geometry { kernel, stride, padding, large, small } = geometry;
        // y = q·stride + residue sees the small pixel q + reach − j through the kernel's tap k0 + j·stride.
        // Counted from the smallest pixel on, tap t is j = taps − 1 − t.
        let phase = |residue: usize, input: usize, output: usize| {
            let k0 = (residue + padding) % stride;
            let taps = kernel.saturating_sub(k0).div_ceil(stride);
            let reach = ((residue + padding) / stride) as isize;
            let first = reach + 1 - taps as isize;
            let output = output.saturating_sub(residue).div_ceil(stride);
            (k0, Axis { input, output, taps, first, stride: 1 })
        };
        let mut phases = Vec::new();
        for ry in 0..stride {
            for rx in 0..stride {
                let (ky0, h) = phase(ry, small.0, large.0);
                let (kx0, w) = phase(rx, small.1, large.1);
                if h.output == 0 || w.output == 0 {
                    continue;
                }
                let window = Window { channels, h, w };
                let gather = Gather::new(isa, window, outputs, bias, |o, c, ty, tx| {
                    let k = |k0: usize, axis: Axis, t: usize| k0 + (axis.taps - 1 - t) * stride;
                    weight(o, c, k(ky0, h, ty), k(kx0, w, tx))
                });
                phases.push((ry, rx, gather));
            }
        }
        Self { geometry, outputs, phases }
    }

    /// Convolves the image `x` (C, small) into `y` (outputs, large), writing every element.
    pub(crate) fn run(&self, x: &[f32], y: &mut [f32]) {
        let Geometry { stride, large: (_, width), .. } = self.geometry;
        let plane = self.geometry.large_len();
        if stride == 1 {
            for (_, _, gather) in &self.phases {
                gather.run(x, y, plane);
            }
            return;
        }
        for (ry, rx, gather) in &self.phases {
            let pixels = gather.window.pixels();
            let mut part = Scratch::new(self.outputs * pixels);
            gather.run(x, &mut part, pixels);
            for (part, y) in part.chunks_exact(pixels).zip(y.chunks_exact_mut(plane)) {
                let rows = y.chunks_exact_mut(width).skip(*ry).step_by(stride);
                for (part, row) in part.chunks_exact(gather.window.w.output).zip(rows) {
                    for (part, y) in part.iter().zip(row[*rx..].iter_mut().step_by(stride)) {
                        *y = *part;
                    }
                }
            }
        }
    }
}
