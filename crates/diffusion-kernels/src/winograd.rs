//! 3 × 3 convolutions with a quarter of the multiplications: Winograd's F(4 × 4, 3 × 3) (Lavin & Gray 2016).
//!
//! ```text
//! Y = Aᵀ[ (G g Gᵀ) ⊙ (Bᵀ d B) ]A        d: 6 × 6 inputs, g: 3 × 3 weights, Y: 4 × 4 outputs
//! ```
//!
//! Summed over channels, ⊙ becomes 36 matrix products, one for each place in the 6 × 6 tile. The weights'
//! gradient is Gᵀ[ Σ (A dY Aᵀ) ⊙ (Bᵀ d B) ]G, summed over tiles. Everything is kept with channels last, so that
//! 16 channels are transformed at a time.
//!
//! Rounding errors are five to ten times those of the plain sum; a test holds them below 2e-5 of the largest
//! result for 64 channels.

mod transforms;

use transforms::{
    K, OUT, PLACES, Tiles, transform_inputs, transform_output_gradients, transform_outputs,
    transform_weight_gradients, transform_weights, weight_pitch,
};

use crate::isa::Isa;
use crate::micro::{LANES, MR};
use crate::product::{Factor, product};
use crate::scratch::Scratch;
use crate::transpose::{Planes, to_channels_first, to_channels_last};
use crate::window::Window;

/// The image `x` (C, H, W) with its channels last and padded, and zeros around it: `before` pixels above and to
/// the left, and as many below and to the right as fill the tiles and `before` more.
fn channels_last(isa: Isa, x: &[f32], channels: usize, tiles: Tiles, before: usize) -> Scratch {
    let pitch = channels.next_multiple_of(LANES);
    let (height, width) = (tiles.count.0 * OUT + 2 * before, tiles.count.1 * OUT + 2 * before);
    let mut image = Scratch::new(height * width * pitch);
    let planes = Planes { plane: tiles.side.0 * tiles.side.1, channels, pixels: tiles.side.1 };
    for (y, row) in image.chunks_exact_mut(width * pitch).enumerate() {
        if y < before || y >= before + tiles.side.0 {
            row.fill(0.0);
            continue;
        }
        if channels == pitch {
            row[..before * pitch].fill(0.0);
            row[(before + tiles.side.1) * pitch..].fill(0.0);
        } else {
            row.fill(0.0);
        }
        to_channels_last(isa, &x[(y - before) * tiles.side.1..], planes, &mut row[before * pitch..], pitch);
    }
    image
}

/// Transforms the image `x` (C, H, W) to `places[place][tile][channel]`.
fn inputs_of(isa: Isa, x: &[f32], channels: usize, tiles: Tiles) -> Scratch {
    let pitch = channels.next_multiple_of(LANES);
    let image = channels_last(isa, x, channels, tiles, 1);
    let mut places = Scratch::new(PLACES * tiles.pitch(pitch));
    transform_inputs(isa, &image, tiles.count.1 * OUT + 2, pitch, tiles, &mut places);
    places
}

/// Whether the method is for this window, and pays.
pub(crate) fn applies(window: &Window, outputs: usize) -> bool {
    let axis = |a: &crate::window::Axis| {
        a.taps == K && a.first == -1 && a.stride == 1 && a.output == a.input && a.input >= OUT
    };
    axis(&window.h) && axis(&window.w) && window.channels >= LANES && outputs >= LANES
}

/// The weights of a convolution, transformed.
pub(crate) struct Winograd {
    isa: Isa,
    channels: usize,
    outputs: usize,
    tiles: Tiles,
    /// `[place][channel][output]`.
    weights: Scratch,
}

impl Winograd {
    /// `weight(output, channel, ky, kx)`, for a window to which the method applies.
    pub(crate) fn new(
        isa: Isa,
        window: &Window,
        outputs: usize,
        weight: impl Fn(usize, usize, usize, usize) -> f32,
    ) -> Self {
        let (channels, padded) = (window.channels, outputs.next_multiple_of(LANES));
        let len = channels * padded;
        let pitch = weight_pitch(len);
        let mut plain = Scratch::zeroed(K * K * pitch);
        for c in 0..channels {
            for o in 0..outputs {
                for ky in 0..K {
                    for kx in 0..K {
                        plain[(ky * K + kx) * pitch + c * padded + o] = weight(o, c, ky, kx);
                    }
                }
            }
        }
        let mut weights = Scratch::new(PLACES * pitch);
        transform_weights(isa, &plain, len, &mut weights);
        let tiles = Tiles::new((window.h.input, window.w.input));
        Self { isa, channels, outputs, tiles, weights }
    }

    /// Convolves the image `x` (C, H, W) into `y` (outputs, H, W), starting from `bias` or from what is in `y`.
    pub(crate) fn run(&self, x: &[f32], y: &mut [f32], bias: Option<&[[f32; MR]]>) {
        let &Self { isa, channels, outputs, tiles, .. } = self;
        let (padded_in, padded_out) = (channels.next_multiple_of(LANES), outputs.next_multiple_of(LANES));
        let inputs = inputs_of(isa, x, channels, tiles);
        let (pitch_in, pitch_out) = (tiles.pitch(padded_in), tiles.pitch(padded_out));
        let mut sums = Scratch::new(PLACES * pitch_out);
        let weights = self.weights.chunks_exact(weight_pitch(channels * padded_out));
        for ((a, c), b) in inputs.chunks_exact(pitch_in).zip(sums.chunks_exact_mut(pitch_out)).zip(weights) {
            let a = Factor { data: a, row: padded_in, term: 1 };
            product(isa, a, b, [tiles.len(), channels, padded_out], false, c);
        }
        let (height, width) = (tiles.count.0 * OUT, tiles.count.1 * OUT);
        let mut image = Scratch::new(height * width * padded_out);
        transform_outputs(isa, &sums, padded_out, tiles, &mut image);
        let planes = Planes { plane: tiles.side.0 * tiles.side.1, channels: outputs, pixels: tiles.side.1 };
        for (line, row) in image.chunks_exact(width * padded_out).take(tiles.side.0).enumerate() {
            let y = &mut y[line * tiles.side.1..];
            to_channels_first(isa, row, padded_out, bias, y, planes);
        }
    }
}

/// The gradient of a convolution's weights in the making.
pub(crate) struct WinogradSums {
    isa: Isa,
    /// Channels of the convolution's output.
    rows: usize,
    channels: usize,
    tiles: Tiles,
    /// `[place][channel][row]`, once an image has been added.
    sums: Scratch,
    begun: bool,
}

impl WinogradSums {
    pub(crate) fn new(isa: Isa, window: &Window, rows: usize) -> Self {
        let sums = Scratch::new(PLACES * weight_pitch(window.channels * rows.next_multiple_of(LANES)));
        let tiles = Tiles::new((window.h.input, window.w.input));
        Self { isa, rows, channels: window.channels, tiles, sums, begun: false }
    }

    /// Adds an image: `small` (rows, H, W), the gradient of the output, and `large` (channels, H, W), the input.
    pub(crate) fn add(&mut self, small: &[f32], large: &[f32]) {
        let Self { isa, rows, channels, tiles, begun, .. } = *self;
        let (padded_rows, padded) = (rows.next_multiple_of(LANES), channels.next_multiple_of(LANES));
        let inputs = inputs_of(isa, large, channels, tiles);
        let image = channels_last(isa, small, rows, tiles, 0);
        let mut gradients = Scratch::new(PLACES * tiles.pitch(padded_rows));
        transform_output_gradients(isa, &image, tiles.count.1 * OUT, padded_rows, tiles, &mut gradients);
        let sums = self.sums.chunks_exact_mut(weight_pitch(channels * padded_rows));
        let places =
            inputs.chunks_exact(tiles.pitch(padded)).zip(gradients.chunks_exact(tiles.pitch(padded_rows)));
        for ((a, b), c) in places.zip(sums) {
            let a = Factor { data: a, row: 1, term: padded };
            product(isa, a, b, [channels, tiles.len(), padded_rows], begun, c);
        }
        self.begun = true;
    }

    /// The gradient as `[3·3][channel][row padded to 16]`.
    pub(crate) fn weights(&self) -> Vec<f32> {
        let len = self.channels * self.rows.next_multiple_of(LANES);
        let mut weights = vec![0.0; K * K * len];
        if self.begun {
            transform_weight_gradients(self.isa, &self.sums, len, &mut weights);
        }
        weights
    }
}
