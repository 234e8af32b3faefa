//! The block's 3 × 3 convolutions from a canvas to an image, by Winograd's method or by plain sums.

use crate::arith::isa::Isa;
use crate::arith::product::{Factor, Target, product};
use crate::image::pixels::padded_len;
use crate::image::transpose::{channels_last, to_channels_first};
use crate::image::winograd::{Canvas, Method, WideSums, WideWinograd, Winograd, WinogradSums};
use crate::memory::buffer::Buffer;
use crate::memory::scratch::Scratch;
use crate::memory::uninit::UninitVec;

/// The kernel size.
pub(super) const KERNEL: usize = 3;
const TAPS: usize = KERNEL * KERNEL;

/// A convolution with its weights in the layout of its algorithm.
pub(super) enum Conv {
    Winograd(Winograd),
    Wide(WideWinograd),
    /// `[tap][channel padded][output padded]`, and the padded number of outputs.
    Direct(Isa, Vec<f32>, usize),
}

impl Conv {
    /// A convolution with `weight` (outputs, channels, 3, 3).
    pub(super) fn new(
        isa: Isa,
        method: Method,
        weight: &[f32],
        [outputs, channels]: [usize; 2],
    ) -> Self {
        match method {
            Method::Winograd => {
                return Self::Winograd(Winograd::new(isa, weight, outputs, channels));
            }
            Method::Wide => return Self::Wide(WideWinograd::new(isa, weight, outputs, channels)),
            Method::Direct => {}
        }
        let (pitch, padded) = (padded_len(channels), padded_len(outputs));
        let last = channels_last(isa, weight, [outputs, channels * TAPS]);
        let mut weights = vec![0.0; TAPS * pitch * padded];
        for (i, row) in last.chunks_exact(padded).enumerate() {
            let (c, tap) = (i / TAPS, i % TAPS);
            weights[(tap * pitch + c) * padded..][..padded].copy_from_slice(row);
        }
        Self::Direct(isa, weights, padded)
    }

    /// The convolution for the input gradient of `weight` (outputs, channels, 3, 3).
    pub(super) fn transposed(
        isa: Isa,
        method: Method,
        weight: &[f32],
        [outputs, channels]: [usize; 2],
    ) -> Self {
        match method {
            Method::Winograd => {
                return Self::Winograd(Winograd::transposed(isa, weight, outputs, channels));
            }
            Method::Wide => {
                return Self::Wide(WideWinograd::transposed(isa, weight, outputs, channels));
            }
            Method::Direct => {}
        }
        let (pitch, padded) = (padded_len(outputs), padded_len(channels));
        let mut weights = vec![0.0; TAPS * pitch * padded];
        for (o, weight) in weight.chunks_exact(channels * TAPS).enumerate() {
            let last = channels_last(isa, weight, [channels, TAPS]);
            for (tap, row) in last.chunks_exact(padded).enumerate() {
                weights[((TAPS - 1 - tap) * pitch + o) * padded..][..padded].copy_from_slice(row);
            }
        }
        Self::Direct(isa, weights, padded)
    }

    /// Convolves the images on `canvas` into `y`. `start` holds the initial values of the output
    /// channels, padded, for each image or for all. `alone`: other threads have other images.
    pub(super) fn run(&self, canvas: &Canvas, start: &[f32], y: &mut [f32], alone: bool) {
        let (isa, weights, padded) = match self {
            Self::Winograd(winograd) => return winograd.run(canvas, start, y),
            Self::Wide(winograd) => return winograd.run(canvas, start, y, alone),
            Self::Direct(isa, weights, padded) => (*isa, weights, *padded),
        };
        let (height, width) = canvas.side();
        for (i, y) in y.chunks_exact_mut(width * padded).enumerate() {
            let (image, line) = (i / height, i % height);
            let start = &start[image * padded % start.len()..][..padded];
            y.chunks_exact_mut(padded).for_each(|pixel| pixel.copy_from_slice(start));
            let a = Factor {
                data: canvas.around(image, line),
                row: canvas.pitch(),
                blocks: &[0, canvas.row_pitch(), 2 * canvas.row_pitch()],
                terms: KERNEL * canvas.pitch(),
                term: 1,
            };
            product(isa, a, weights, [width, padded], Target::onto(y, padded));
        }
    }
}

/// Partial sums of the gradient of a convolution's weights.
pub(super) enum ConvSums {
    Winograd(WinogradSums),
    Wide(WideSums),
    /// `[tap][channel padded][output padded]`, and the numbers of outputs and channels.
    Direct(Isa, Vec<f32>, [usize; 2]),
}

impl ConvSums {
    pub(super) fn new(isa: Isa, method: Method, [outputs, channels]: [usize; 2]) -> Self {
        match method {
            Method::Winograd => {
                return Self::Winograd(WinogradSums::new(isa, outputs, channels));
            }
            Method::Wide => return Self::Wide(WideSums::new(isa, outputs, channels)),
            Method::Direct => {}
        }
        let sums = vec![0.0; TAPS * padded_len(channels) * padded_len(outputs)];
        Self::Direct(isa, sums, [outputs, channels])
    }

    /// Adds `images` images, given by the convolution's inputs and the gradients of its outputs.
    pub(super) fn add(&mut self, images: usize, inputs: &Canvas, gradients: &Canvas) {
        let (isa, sums) = match self {
            Self::Winograd(sums) => return sums.add(inputs, gradients),
            Self::Wide(sums) => return sums.add(inputs, gradients),
            Self::Direct(isa, sums, _) => (*isa, sums),
        };
        let ((height, width), pitch, padded) = (inputs.side(), inputs.pitch(), gradients.pitch());
        for i in 0..images * height {
            let (image, line) = (i / height, i % height);
            for (ky, sums) in sums.chunks_exact_mut(KERNEL * pitch * padded).enumerate() {
                let around = &inputs.around(image, line)[ky * inputs.row_pitch()..];
                let a = Factor::transposed(around, pitch, width);
                let c = Target::onto(sums, padded);
                product(isa, a, gradients.row(image, line), [KERNEL * pitch, padded], c);
            }
        }
    }

    /// The weight gradient (outputs, channels, 3, 3).
    pub(super) fn weights(&self) -> Buffer {
        let (isa, sums, [outputs, channels]) = match self {
            Self::Winograd(sums) => return sums.weights(),
            Self::Wide(sums) => return sums.weights(),
            Self::Direct(isa, sums, sizes) => (*isa, sums, *sizes),
        };
        let (pitch, padded) = (padded_len(channels), padded_len(outputs));
        let mut last = Scratch::new(channels * TAPS * padded);
        for (i, row) in last.chunks_exact_mut(padded).enumerate() {
            let (c, tap) = (i / TAPS, i % TAPS);
            row.copy_from_slice(&sums[(tap * pitch + c) * padded..][..padded]);
        }
        UninitVec::build(outputs * channels * TAPS, |weights| {
            to_channels_first(isa, &last, padded, [outputs, channels * TAPS], weights);
        })
    }
}
