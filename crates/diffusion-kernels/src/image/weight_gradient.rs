//! The sum over images and pixels that is the gradient of a convolution's weights.

use crate::arith::isa::Isa;
use crate::arith::product::{Factor, Target, product};
use crate::arith::vector::add_up;
use crate::image::convolution::Geometry;
use crate::image::pixels::{Pixels, padded_len};
use crate::image::window::{Frame, Window};
use crate::image::winograd::{self, Canvas, Tiles, WinogradSums};
use crate::memory::buffer::{Buffer, room};

/// Sums over pixels of (an element of the small side) × (what its window sees of the large one): the gradient
/// of a convolution's weights, or of a transposed convolution's.
pub(crate) struct WeightGradient {
    isa: Isa,
    window: Window,
    frame: Frame,
    /// Channels of the small side.
    small: usize,
    /// Channels of the large side.
    large: usize,
    /// Whether to go by [`crate::image::winograd`].
    winograd: bool,
}

/// Sums in the making.
pub(crate) struct Running<'a> {
    gradient: &'a WeightGradient,
    algorithm: Algorithm,
    /// Sums of the small side's channels, padded: a convolution's bias gradient.
    small: Vec<f32>,
}

enum Algorithm {
    /// `[vertical tap][horizontal tap][large channel][small channel, padded]`.
    Direct(Vec<f32>),
    Winograd(WinogradSums),
}

impl WeightGradient {
    pub(crate) fn new(isa: Isa, geometry: Geometry, [small, large]: [usize; 2]) -> Self {
        let window = geometry.window(large);
        let winograd = winograd::applies(&window, small);
        Self { isa, window, frame: Frame::around(&[window]), small, large, winograd }
    }

    /// Nothing summed yet.
    pub(crate) fn begin(&self) -> Running<'_> {
        let pitch = padded_len(self.small);
        let algorithm = if self.winograd {
            Algorithm::Winograd(WinogradSums::new(self.isa, self.small, self.large))
        } else {
            Algorithm::Direct(vec![
                0.0;
                self.window.h.taps * self.window.w.taps * self.large * pitch
            ])
        };
        Running { gradient: self, algorithm, small: vec![0.0; pitch] }
    }
}

impl Running<'_> {
    /// Adds an image: `small` and `large`, both with their channels last.
    pub(crate) fn add(&mut self, small: &[f32], large: &[f32]) {
        let &WeightGradient { isa, window, frame, .. } = self.gradient;
        let [small_channels, large_channels] = [self.gradient.small, self.gradient.large];
        let pitch = self.small.len();
        let small = Pixels::new(small, small_channels);
        add_up(isa, &small, &mut self.small);
        let sums = match &mut self.algorithm {
            Algorithm::Direct(sums) => sums,
            Algorithm::Winograd(sums) => {
                let tiles = Tiles::new((window.h.input, window.w.input));
                let canvas = |x, channels| {
                    let mut canvas = Canvas::new(tiles, 1, channels);
                    canvas.fill(x, channels);
                    canvas
                };
                return sums.add(&canvas(large, large_channels), &canvas(&small, pitch));
            }
        };
        let framed = frame.fill(large);
        let blocks: Vec<usize> =
            (0..window.h.output).map(|oy| oy * window.h.stride * frame.row()).collect();
        let rows = window.w.taps * large_channels;
        for (ty, sums) in sums.chunks_exact_mut(rows * pitch).enumerate() {
            let a = Factor {
                data: &framed[frame.first(&window) + ty * frame.row()..],
                row: 1,
                blocks: &blocks,
                terms: window.w.output,
                term: window.w.stride * large_channels,
            };
            product(isa, a, &small, [rows, pitch], Target::onto(sums, pitch));
        }
    }

    /// The sums as (small, large, K, K), and those of the small side's channels.
    pub(crate) fn finish(self) -> (Buffer, Vec<f32>) {
        let WeightGradient { window, small, large, .. } = self.gradient;
        let pitch = self.small.len();
        let mut bias = self.small;
        bias.truncate(*small);
        let sums = match self.algorithm {
            Algorithm::Winograd(sums) => return (sums.weights(), bias),
            Algorithm::Direct(sums) => sums,
        };
        let taps = window.h.taps * window.w.taps;
        let mut weights = room(small * large * taps);
        for s in 0..*small {
            for l in 0..*large {
                weights.extend((0..taps).map(|tap| sums[(tap * large + l) * pitch + s]));
            }
        }
        (weights.into(), bias)
    }
}
