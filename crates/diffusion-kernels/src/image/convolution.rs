//! Convolution and transposed convolution of one image, with channels last.
//!
//! Both gather: each output pixel is a product of a window of inputs with the weights. A transposed
//! convolution with stride s is split into up to s × s phases that gather.

use crate::arith::format::Format;
use crate::arith::isa::Isa;
use crate::arith::product::{Factor, Target, product_of_words};
use crate::arith::vector::{LANES, at, padded};
use crate::image::pixels::{padded_len, write_pixels};
use crate::image::transpose::{channels_last, to_channels_last};
use crate::image::window::{Axis, Frame, Window};
use crate::image::winograd::{self, Method, Tiles, WideWinograd, Winograd};
use crate::image::words::format_for;
use crate::memory::scratch::Scratch;
use crate::memory::uninit::UninitSlice;

/// The sizes of a convolution with a square kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Geometry {
    pub kernel: usize,
    pub stride: usize,
    pub padding: usize,
    /// Height and width of the large side: the input of a convolution, the output of a transposed
    /// one.
    pub large: (usize, usize),
    /// Height and width of the small side, with one pixel for each window: the output of a
    /// convolution, the input of a transposed one.
    pub small: (usize, usize),
}

impl Geometry {
    /// The window of the large side for each pixel of the small side.
    pub(crate) fn window(&self, channels: usize) -> Window {
        let axis = |input, output| Axis {
            input,
            output,
            taps: self.kernel,
            first: -(self.padding as isize),
            stride: self.stride,
        };
        Window {
            channels,
            h: axis(self.large.0, self.small.0),
            w: axis(self.large.1, self.small.1),
        }
    }

    pub(crate) fn large_len(&self) -> usize {
        self.large.0 * self.large.1
    }

    pub(crate) fn small_len(&self) -> usize {
        self.small.0 * self.small.1
    }
}

/// A convolution in one of its directions, with its weights in the layout of its algorithm.
pub(crate) struct Convolution {
    isa: Isa,
    outputs: usize,
    /// The width of the output, in pixels.
    width: usize,
    /// The format of the direct sums.
    format: Format,
    /// The initial values of an output pixel: the bias, padded.
    start: Vec<f32>,
    algorithm: Algorithm,
}

/// The algorithm of a convolution.
enum Algorithm {
    Winograd(Winograd, Tiles),
    Wide(WideWinograd, Tiles),
    Direct(Frame, Vec<Phase>),
}

/// The output pixels that one window gathers.
struct Phase {
    window: Window,
    /// `[vertical tap][horizontal tap][channel][output padded]`, as words.
    weights: Vec<f32>,
    /// Row and column of the first output pixel.
    first: (usize, usize),
    /// The distance between output pixels, in both directions.
    stride: usize,
}

impl Convolution {
    /// A convolution, from the large side to the small one; `weight` is (outputs, channels, K, K).
    pub(crate) fn gathering(
        isa: Isa,
        geometry: Geometry,
        [outputs, channels]: [usize; 2],
        weight: &[f32],
        bias: Option<&[f32]>,
    ) -> Self {
        let (window, size) = (geometry.window(channels), geometry.small);
        let (width, start) = (size.1, start_of(bias, outputs));
        let (tiles, format) = (Tiles::new(size), format_for(isa, channels));
        let of = |algorithm| Self { isa, outputs, width, format, start: start.clone(), algorithm };
        match winograd::method(&window, outputs) {
            Method::Winograd => {
                let winograd = Winograd::new(isa, weight, outputs, channels);
                return of(Algorithm::Winograd(winograd, tiles));
            }
            Method::Wide => {
                let winograd = WideWinograd::new(isa, weight, outputs, channels);
                return of(Algorithm::Wide(winograd, tiles));
            }
            Method::Direct => {}
        }
        let taps = geometry.kernel * geometry.kernel;
        // `[channel][tap][output padded]`
        let last = channels_last(isa, weight, [outputs, channels * taps]);
        let rows = last.chunks_exact(start.len()).collect::<Vec<_>>();
        let phase = Phase::new(window, format, start.len(), ((0, 0), 1), |c, ty, tx| {
            rows[c * taps + ty * geometry.kernel + tx]
        });
        of(Algorithm::Direct(Frame::around(&[window], format), vec![phase]))
    }

    /// A transposed convolution, from the small side to the large one; `weight` is (channels,
    /// outputs, K, K).
    ///
    /// Large pixels whose coordinates are equal modulo the stride use the same kernel taps. Each
    /// such phase gathers with its own window. With stride 1 there is one phase.
    pub(crate) fn scattering(
        isa: Isa,
        geometry: Geometry,
        [channels, outputs]: [usize; 2],
        weight: &[f32],
        bias: Option<&[f32]>,
    ) -> Self {
        let Geometry { kernel, stride, padding, large, small } = geometry;
        // The large pixel q·stride + residue sums the small pixels q + reach − j, each times the
        // kernel tap k0 + j·stride. The window's tap t, counted from the smallest pixel, is j =
        // taps − 1 − t.
        let axis = |residue: usize, input: usize, output: usize| {
            let k0 = (residue + padding) % stride;
            let taps = kernel.saturating_sub(k0).div_ceil(stride);
            let reach = ((residue + padding) / stride) as isize;
            let first = reach + 1 - taps as isize;
            let output = output.saturating_sub(residue).div_ceil(stride);
            (k0, Axis { input, output, taps, first, stride: 1 })
        };
        let (width, start, taps) = (large.1, start_of(bias, outputs), kernel * kernel);
        // `[channel][tap][output padded]`
        let mut last = Scratch::zeroed(channels * taps * start.len());
        let by_channel =
            weight.chunks_exact(outputs * taps).zip(last.chunks_exact_mut(taps * start.len()));
        for (weight, last) in by_channel {
            to_channels_last(isa, weight, taps, [outputs, taps], last, start.len());
        }
        let rows = last.chunks_exact(start.len()).collect::<Vec<_>>();
        let format = format_for(isa, channels);
        let mut phases = Vec::new();
        for ry in 0..stride.min(large.0) {
            for rx in 0..stride.min(large.1) {
                let (ky0, h) = axis(ry, small.0, large.0);
                let (kx0, w) = axis(rx, small.1, large.1);
                if h.output == 0 || w.output == 0 {
                    continue;
                }
                let window = Window { channels, h, w };
                let tiles = Tiles::new(large);
                let of = |algorithm| {
                    let start = start.clone();
                    Self { isa, outputs, width, format, start, algorithm }
                };
                match winograd::method(&window, outputs) {
                    Method::Winograd => {
                        let winograd = Winograd::transposed(isa, weight, channels, outputs);
                        return of(Algorithm::Winograd(winograd, tiles));
                    }
                    Method::Wide => {
                        let winograd = WideWinograd::transposed(isa, weight, channels, outputs);
                        return of(Algorithm::Wide(winograd, tiles));
                    }
                    Method::Direct => {}
                }
                let first = ((ry, rx), stride);
                phases.push(Phase::new(window, format, start.len(), first, |c, ty, tx| {
                    let k = |k0: usize, axis: Axis, t: usize| k0 + (axis.taps - 1 - t) * stride;
                    rows[c * taps + k(ky0, h, ty) * kernel + k(kx0, w, tx)]
                }));
            }
        }
        let windows: Vec<Window> = phases.iter().map(|phase| phase.window).collect();
        Self {
            isa,
            outputs,
            width,
            format,
            start,
            algorithm: Algorithm::Direct(Frame::around(&windows, format), phases),
        }
    }

    /// The number of images to convolve together on all threads. `None`: each thread convolves its
    /// own images, one at a time.
    pub(crate) fn group(&self) -> Option<usize> {
        match &self.algorithm {
            Algorithm::Wide(_, tiles) => Some(winograd::group(*tiles)),
            Algorithm::Winograd(..) | Algorithm::Direct(..) => None,
        }
    }

    /// Convolves the image `x`, or a [`group`](Self::group) of images, into `y`, both with channels
    /// last.
    pub(crate) fn run(&self, x: &[f32], y: UninitSlice<'_>) {
        write_pixels(y, self.outputs, |y| match &self.algorithm {
            Algorithm::Winograd(winograd, tiles) => winograd.run_image(*tiles, x, &self.start, y),
            Algorithm::Wide(winograd, tiles) => winograd.run_images(*tiles, x, &self.start, y),
            Algorithm::Direct(frame, phases) => {
                let framed = frame.fill(self.isa, x);
                let pixels = y.chunks_exact_mut(self.start.len());
                pixels.for_each(|pixel| pixel.copy_from_slice(&self.start));
                for phase in phases {
                    phase.run(self, frame, &framed, y);
                }
            }
        });
    }
}

/// The bias or zeros, padded.
fn start_of(bias: Option<&[f32]>, outputs: usize) -> Vec<f32> {
    bias.map_or_else(|| vec![0.0; padded_len(outputs)], padded)
}

impl Phase {
    /// `row(channel, vertical tap, horizontal tap)` returns the weights of all outputs, padded to
    /// `pitch`.
    fn new<'a>(
        window: Window,
        format: Format,
        pitch: usize,
        (first, stride): ((usize, usize), usize),
        row: impl Fn(usize, usize, usize) -> &'a [f32],
    ) -> Self {
        let pixel = format.channels(window.channels);
        let mut weights = vec![0.0; window.h.taps * window.w.taps * pixel * pitch];
        for (tap, weights) in weights.chunks_exact_mut(pixel * pitch).enumerate() {
            for c in 0..window.channels {
                let row = row(c, tap / window.w.taps, tap % window.w.taps);
                let (word, part) = format.channel(c);
                let weights = &mut weights[word * pitch..][..pitch];
                for i in (0..pitch).step_by(LANES) {
                    part.write(*at(row, i), &mut weights[i..]);
                }
            }
        }
        Self { window, weights, first, stride }
    }

    /// Gathers from a framed image and adds to `y`, which has padded channels.
    fn run(&self, convolution: &Convolution, frame: &Frame, framed: &[f32], y: &mut [f32]) {
        let &Convolution { isa, format, width, ref start, .. } = convolution;
        let (Window { h, w, .. }, pitch) = (self.window, start.len());
        let blocks: Vec<usize> = (0..h.taps).map(|ty| ty * frame.row()).collect();
        // Without a frame, as for 1 × 1 kernels, all rows are one matrix.
        let row = w.stride * frame.pixel();
        let is_matrix = self.stride == 1 && h.stride * frame.row() == w.output * row;
        let (lines, pixels) =
            if is_matrix { (1, h.output * w.output) } else { (h.output, w.output) };
        for oy in 0..lines {
            let begin = frame.first(&self.window) + oy * h.stride * frame.row();
            let a = Factor {
                data: &framed[begin.min(framed.len())..],
                row,
                blocks: &blocks,
                terms: w.taps * frame.pixel(),
                term: 1,
            };
            let to = (self.first.0 + oy * self.stride) * width + self.first.1;
            let c = Target::onto(&mut y[to * pitch..], self.stride * pitch);
            product_of_words(isa, format, a, &self.weights, [pixels, pitch], c);
        }
    }
}
