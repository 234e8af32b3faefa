//! Which input pixels an output pixel looks at, and the two copies of an image made for it.

use crate::isa::Isa;
use crate::micro::{LANES, NR};
use crate::transpose::{Planes, to_channels_last};

/// One axis of a sliding window: output position o sees the inputs `o·stride + first + t`, `t < taps`; those
/// outside `0..input` count as zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Axis {
    pub input: usize,
    pub output: usize,
    pub taps: usize,
    pub first: isize,
    pub stride: usize,
}

impl Axis {
    /// The outputs whose tap t lies inside the input, as a range.
    fn inside(&self, t: usize) -> (usize, usize) {
        let first = self.first + t as isize;
        let lo = if first < 0 { first.unsigned_abs().div_ceil(self.stride) } else { 0 };
        let room = self.input as isize - first;
        let hi = if room > 0 { (room as usize).div_ceil(self.stride) } else { 0 };
        let hi = hi.min(self.output);
        (lo.min(hi), hi)
    }
}

/// A window over images of `channels` planes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Window {
    pub channels: usize,
    pub h: Axis,
    pub w: Axis,
}

impl Window {
    /// Number of output pixels.
    pub(crate) fn pixels(&self) -> usize {
        self.h.output * self.w.output
    }

    /// Number of terms in one output element's sum.
    pub(crate) fn terms(&self) -> usize {
        self.channels * self.h.taps * self.w.taps
    }

    /// Rows of a shifted plane that one vertical phase needs.
    fn plane_rows(&self) -> usize {
        self.h.output + self.h.taps.saturating_sub(1) / self.h.stride
    }

    /// Vertical taps t and t + stride see the same rows, one row later: a plane for each t < stride is enough.
    fn phases(&self) -> usize {
        self.h.stride.min(self.h.taps)
    }

    /// Floats that [`Self::fill_planes`] writes, with room for a tile's overhang.
    pub(crate) fn planes_len(&self) -> usize {
        self.channels * self.w.taps * self.phases() * self.plane_rows() * self.w.output + NR
    }

    /// Where in the planes the columns of term (channel, vertical tap, horizontal tap) begin, in that order.
    ///
    /// From there on, the inputs of all output pixels of that term lie side by side.
    pub(crate) fn plane_offsets(&self) -> Vec<u32> {
        let mut offsets = Vec::with_capacity(self.terms());
        for c in 0..self.channels {
            for ty in 0..self.h.taps {
                for tx in 0..self.w.taps {
                    let plane = (c * self.w.taps + tx) * self.phases() + ty % self.h.stride;
                    let row = plane * self.plane_rows() + ty / self.h.stride;
                    offsets.push((row * self.w.output) as u32);
                }
            }
        }
        offsets
    }

    /// Copies the image `x` (C, H, W) into planes shifted horizontally by each tap, zeros where it looks outside.
    ///
    /// Shifting vertically needs no copy: it is another offset into the same plane.
    pub(crate) fn fill_planes(&self, x: &[f32], planes: &mut [f32]) {
        let Self { h, w, .. } = *self;
        let rows = self.plane_rows();
        let mut rest = planes;
        for x in x.chunks_exact(h.input * w.input).take(self.channels) {
            for tx in 0..w.taps {
                for phase in 0..self.phases() {
                    let plane;
                    (plane, rest) = rest.split_at_mut(rows * w.output);
                    if w.stride == 1 && h.stride == 1 && w.output == w.input {
                        self.shift_whole(tx, x, plane);
                    } else {
                        self.shift_rows(tx, phase, x, plane);
                    }
                }
            }
        }
        // A tile may look past the end; what it finds there is not used, but must be initialised.
    }

    /// Where rows are as long in as out, a shift is one copy of the whole plane with its edges cleared.
    fn shift_whole(&self, tx: usize, x: &[f32], plane: &mut [f32]) {
        let Self { h, w, .. } = *self;
        let width = w.output;
        // plane[i] = x[i + shift] wherever that lies in one row.
        let shift = h.first * width as isize + w.first + tx as isize;
        let begin = (-shift).clamp(0, plane.len() as isize) as usize;
        let end = (x.len() as isize - shift).clamp(begin as isize, plane.len() as isize) as usize;
        plane[..begin].fill(0.0);
        plane[end..].fill(0.0);
        if begin < end {
            let from = (begin as isize + shift) as usize;
            plane[begin..end].copy_from_slice(&x[from..from + (end - begin)]);
        }
        let (lo, hi) = w.inside(tx);
        if (lo, hi) != (0, width) {
            for row in plane.chunks_exact_mut(width) {
                row[..lo].fill(0.0);
                row[hi..].fill(0.0);
            }
        }
    }

    fn shift_rows(&self, tx: usize, phase: usize, x: &[f32], plane: &mut [f32]) {
        let Self { h, w, .. } = *self;
        let (lo, hi) = w.inside(tx);
        for (r, row) in plane.chunks_exact_mut(w.output).enumerate() {
            let iy = (r * h.stride + phase) as isize + h.first;
            if iy < 0 || iy >= h.input as isize || lo == hi {
                row.fill(0.0);
                continue;
            }
            let x = &x[iy as usize * w.input..(iy as usize + 1) * w.input];
            let from = ((lo * w.stride + tx) as isize + w.first) as usize;
            row[..lo].fill(0.0);
            row[hi..].fill(0.0);
            for (out, x) in row[lo..hi].iter_mut().zip(x[from..].iter().step_by(w.stride)) {
                *out = *x;
            }
        }
    }
}

/// The image copied so that all terms of one output pixel are found as whole vectors: what weight gradients want.
///
/// With many channels that is the padded image with its channels last, a tap being an offset into it; with few
/// it is each pixel's own list of terms.
pub(crate) struct Patches {
    window: Window,
    /// Floats from one pixel's beginning to the next one's in the buffer.
    pitch: usize,
    /// Whether each pixel has its own list.
    expanded: bool,
}

impl Patches {
    pub(crate) fn new(window: Window) -> Self {
        let expanded = window.channels < LANES;
        let row = if expanded { window.terms() } else { window.channels };
        Self { window, pitch: row.next_multiple_of(LANES), expanded }
    }

    /// Height and width of the padded image.
    fn padded(&self) -> (usize, usize) {
        let side = |a: &Axis| a.output.saturating_sub(1) * a.stride + a.taps;
        (side(&self.window.h), side(&self.window.w))
    }

    /// Floats in the buffer.
    pub(crate) fn len(&self) -> usize {
        let (height, width) = self.padded();
        if self.expanded { self.window.pixels() * self.pitch } else { height * width * self.pitch }
    }

    /// Where in the buffer each output pixel's patch begins.
    pub(crate) fn pixel_offsets(&self) -> Vec<u32> {
        let Window { h, w, .. } = self.window;
        let width = self.padded().1;
        let mut offsets = Vec::with_capacity(self.window.pixels());
        for y in 0..h.output {
            for x in 0..w.output {
                let pixel =
                    if self.expanded { y * w.output + x } else { y * h.stride * width + x * w.stride };
                offsets.push((pixel * self.pitch) as u32);
            }
        }
        offsets
    }

    /// Where in a patch each vector of [`LANES`] terms begins.
    pub(crate) fn vectors(&self) -> Vec<usize> {
        if self.expanded {
            return (0..self.pitch).step_by(LANES).collect();
        }
        let width = self.padded().1;
        let mut vectors = Vec::new();
        for ty in 0..self.window.h.taps {
            for tx in 0..self.window.w.taps {
                vectors.extend((0..self.pitch).step_by(LANES).map(|c| (ty * width + tx) * self.pitch + c));
            }
        }
        vectors
    }

    /// The lane, counted through all vectors, that holds term (channel, vertical tap, horizontal tap).
    pub(crate) fn lane(&self, c: usize, ty: usize, tx: usize) -> usize {
        let tap = ty * self.window.w.taps + tx;
        if self.expanded { tap * self.window.channels + c } else { tap * self.pitch + c }
    }

    /// Copies the image `x` (C, H, W). Lanes without a term and pixels outside the image are zero, provided
    /// that they were zero in `buffer` before: they are not written.
    pub(crate) fn fill(&self, isa: Isa, x: &[f32], buffer: &mut [f32]) {
        if self.expanded { self.fill_expanded(x, buffer) } else { self.fill_channels_last(isa, x, buffer) }
    }

    fn fill_expanded(&self, x: &[f32], buffer: &mut [f32]) {
        let Window { channels, h, w } = self.window;
        for (c, x) in x.chunks_exact(h.input * w.input).enumerate() {
            for ty in 0..h.taps {
                let (y_lo, y_hi) = h.inside(ty);
                for tx in 0..w.taps {
                    let (x_lo, x_hi) = w.inside(tx);
                    let lane = (ty * w.taps + tx) * channels + c;
                    for oy in y_lo..y_hi {
                        let iy = ((oy * h.stride + ty) as isize + h.first) as usize;
                        for ox in x_lo..x_hi {
                            let ix = ((ox * w.stride + tx) as isize + w.first) as usize;
                            buffer[(oy * w.output + ox) * self.pitch + lane] = x[iy * w.input + ix];
                        }
                    }
                }
            }
        }
    }

    fn fill_channels_last(&self, isa: Isa, x: &[f32], buffer: &mut [f32]) {
        let Window { channels, h, w } = self.window;
        let (height, width) = self.padded();
        // The padded image's row r is the input's row r + first, as far as both exist.
        let span = |a: &Axis, side: usize| {
            let begin = ((-a.first).max(0) as usize).min(side);
            (begin, (a.input as isize - a.first).clamp(begin as isize, side as isize) as usize)
        };
        let (r0, r1) = span(&h, height);
        let (c0, c1) = span(&w, width);
        let plane = h.input * w.input;
        for r in r0..r1 {
            let iy = (r as isize + h.first) as usize;
            let from = iy * w.input + (c0 as isize + w.first).max(0) as usize;
            let row = &mut buffer[(r * width + c0) * self.pitch..(r * width + c1) * self.pitch];
            if c0 < c1 {
                let planes = Planes { plane, channels, pixels: c1 - c0 };
                to_channels_last(isa, &x[from..], planes, row, self.pitch);
            }
        }
    }
}
