//! The gradient of a convolution's weights, a sum over images and pixels.

use crate::arith::isa::Isa;
use crate::arith::product::{Factor, Target, product};
use crate::arith::vector::add_up;
use crate::image::convolution::Geometry;
use crate::image::pixels::{Pixels, padded_len};
use crate::image::window::{Frame, Window};
use crate::image::winograd::{self, Canvas, Method, Tiles, WideSums, WinogradSums};
use crate::memory::buffer::{Buffer, pooled_vec};

/// The weight gradient of a convolution or a transposed convolution: the sum over small-side pixels
/// of the pixel times its window of the large side.
pub(crate) struct WeightGradient {
    isa: Isa,
    window: Window,
    frame: Frame,
    /// The number of channels of the small side.
    small: usize,
    /// The number of channels of the large side.
    large: usize,
    method: Method,
}

/// Partial sums of a weight gradient.
pub(crate) struct PartialSums<'a> {
    gradient: &'a WeightGradient,
    algorithm: Algorithm,
    /// The sums of the small side's channels, padded: the bias gradient of a convolution.
    small: Vec<f32>,
}

enum Algorithm {
    Wide(WideSums),
    /// `[vertical tap][horizontal tap][large channel][small channel, padded]`.
    Direct(Vec<f32>),
    Winograd(WinogradSums),
}

impl WeightGradient {
    pub(crate) fn new(isa: Isa, geometry: Geometry, [small, large]: [usize; 2]) -> Self {
        let window = geometry.window(large);
        let method = winograd::method(&window, small);
        Self { isa, window, frame: Frame::around(&[window]), small, large, method }
    }

    fn tiles(&self) -> Tiles {
        Tiles::new((self.window.h.input, self.window.w.input))
    }

    /// The number of images to add together on all threads. `None`: each thread adds its own
    /// images, one at a time.
    pub(crate) fn group(&self) -> Option<usize> {
        (self.method == Method::Wide).then(|| winograd::group(self.tiles()))
    }

    /// Sums of zero.
    pub(crate) fn begin(&self) -> PartialSums<'_> {
        let pitch = padded_len(self.small);
        let algorithm = match self.method {
            Method::Winograd => {
                Algorithm::Winograd(WinogradSums::new(self.isa, self.small, self.large))
            }
            Method::Wide => Algorithm::Wide(WideSums::new(self.isa, self.small, self.large)),
            Method::Direct => {
                let taps = self.window.h.taps * self.window.w.taps;
                Algorithm::Direct(vec![0.0; taps * self.large * pitch])
            }
        };
        PartialSums { gradient: self, algorithm, small: vec![0.0; pitch] }
    }
}

impl PartialSums<'_> {
    /// Adds an image, or a [`group`](WeightGradient::group) of images, given by its small and large
    /// side with channels last.
    pub(crate) fn add(&mut self, small: &[f32], large: &[f32]) {
        let &WeightGradient { isa, window, frame, .. } = self.gradient;
        let [small_channels, large_channels] = [self.gradient.small, self.gradient.large];
        let pitch = self.small.len();
        let small = Pixels::new(small, small_channels);
        add_up(isa, &small, &mut self.small);
        let sums = match &mut self.algorithm {
            Algorithm::Direct(sums) => sums,
            Algorithm::Wide(sums) => {
                return sums.add_images(self.gradient.tiles(), large, &small);
            }
            Algorithm::Winograd(sums) => {
                let tiles = self.gradient.tiles();
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

    /// The weight gradient (small, large, K, K), and the sums of the small side's channels.
    pub(crate) fn finish(self) -> (Buffer, Vec<f32>) {
        let WeightGradient { window, small, large, .. } = self.gradient;
        let pitch = self.small.len();
        let mut bias = self.small;
        bias.truncate(*small);
        let sums = match self.algorithm {
            Algorithm::Winograd(sums) => return (sums.weights(), bias),
            Algorithm::Wide(sums) => return (sums.weights(), bias),
            Algorithm::Direct(sums) => sums,
        };
        let taps = window.h.taps * window.w.taps;
        let mut weights = pooled_vec(small * large * taps);
        for s in 0..*small {
            for l in 0..*large {
                weights.extend((0..taps).map(|tap| sums[(tap * large + l) * pitch + s]));
            }
        }
        (weights.into(), bias)
    }
}
