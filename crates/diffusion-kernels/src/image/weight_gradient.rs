//! The gradient of a convolution's weights, a sum over images and pixels.

use crate::arith::format::Format;
use crate::arith::isa::Isa;
use crate::arith::product::{Factor, Target, product_of_words};
use crate::arith::vector::add_up;
use crate::image::convolution::Geometry;
use crate::image::pixels::{Pixels, padded_len};
use crate::image::transpose::to_channels_first;
use crate::image::window::{Frame, Window};
use crate::image::winograd::{self, Canvas, Method, Tiles, WideSums, WinogradSums};
use crate::image::words::{by_row, format_for, pair};
use crate::memory::buffer::Buffer;
use crate::memory::scratch::Scratch;
use crate::memory::uninit::UninitVec;

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
        let frame = Frame::around(&[window], Format::F32);
        Self { isa, window, frame, small, large, method }
    }

    /// A framed image for sums over the rows of the small side, whose row y reads the rows y·stride
    /// + tap. In pairs, each of these rows is paired with that of y + 1.
    fn paired<'a>(&self, framed: Pixels<'a>, format: Format) -> Pixels<'a> {
        if format == Format::F32 {
            return framed;
        }
        let (len, stride, taps) = (self.frame.row(), self.window.h.stride, self.window.h.taps);
        let first = self.frame.first(&self.window) / len;
        let mut paired = Scratch::new(framed.len());
        for (y, to) in paired.chunks_exact_mut(len).enumerate().skip(first) {
            if (y - first) % (2 * stride) < taps {
                let next = framed[y * len..].chunks_exact(len).nth(stride);
                pair(self.isa, &framed[y * len..][..len], next.unwrap_or_default(), to);
            }
        }
        Pixels::Copied(paired)
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
        let format = format_for(isa, large_channels);
        let framed = self.gradient.paired(frame.fill(isa, large), format);
        let small = by_row(isa, format, &small, window.w.output * pitch);
        let blocks: Vec<usize> = (0..window.h.output)
            .step_by(format.numbers())
            .map(|oy| oy * window.h.stride * frame.row())
            .collect();
        let rows = window.w.taps * large_channels;
        for (ty, sums) in sums.chunks_exact_mut(rows * pitch).enumerate() {
            let a = Factor {
                data: &framed[frame.first(&window) + ty * frame.row()..],
                row: 1,
                blocks: &blocks,
                terms: window.w.output,
                term: window.w.stride * large_channels,
            };
            product_of_words(isa, format, a, &small, [rows, pitch], Target::onto(sums, pitch));
        }
    }

    /// The weight gradient (small, large, K, K), and the sums of the small side's channels.
    pub(crate) fn finish(self) -> (Buffer, Vec<f32>) {
        let WeightGradient { isa, window, small, large, .. } = self.gradient;
        let pitch = self.small.len();
        let mut bias = self.small;
        bias.truncate(*small);
        let sums = match self.algorithm {
            Algorithm::Winograd(sums) => return (sums.weights(), bias),
            Algorithm::Wide(sums) => return (sums.weights(), bias),
            Algorithm::Direct(sums) => sums,
        };
        // `[large channel][tap][small channel, padded]`, and then with small channels first.
        let taps = window.h.taps * window.w.taps;
        let mut last = Scratch::new(sums.len());
        for (i, row) in last.chunks_exact_mut(pitch).enumerate() {
            let (l, tap) = (i / taps, i % taps);
            row.copy_from_slice(&sums[(tap * large + l) * pitch..][..pitch]);
        }
        let weights = UninitVec::build(small * large * taps, |weights| {
            to_channels_first(*isa, &last, pitch, [*small, large * taps], weights);
        });
        (weights, bias)
    }
}
