//! The input pixels of each output pixel, and zero-padded copies of images.

use crate::arith::format::Format;
use crate::arith::isa::Isa;
use crate::image::pixels::Pixels;
use crate::image::words::pair_channels;
use crate::memory::scratch::Scratch;

/// One axis of a sliding window. Output position o reads the inputs `o·stride + first + t` for `t <
/// taps`; inputs outside of `0..input` are zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Axis {
    pub input: usize,
    pub output: usize,
    pub taps: usize,
    pub first: isize,
    pub stride: usize,
}

impl Axis {
    /// The number of zeros needed before the first input.
    fn before(&self) -> usize {
        (-self.first).max(0).unsigned_abs()
    }

    /// The end of the positions read, counted from the first input.
    fn end(&self) -> usize {
        let end = self.first + (self.output.saturating_sub(1) * self.stride + self.taps) as isize;
        end.max(0).unsigned_abs()
    }
}

/// A window over images with `channels` channels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Window {
    pub channels: usize,
    pub h: Axis,
    pub w: Axis,
}

/// The layout of an image, channels last and dense, in a frame of zeros wide enough for some
/// windows, as words of a format.
///
/// The taps of one window row, with all channels, are then one run of words.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Frame {
    channels: usize,
    format: Format,
    /// The number of words of a pixel.
    pixel: usize,
    input: (usize, usize),
    before: (usize, usize),
    /// Height and width with the frame.
    size: (usize, usize),
}

impl Frame {
    /// The frame for some windows over the same image. Pairs need whole vectors of channels.
    pub(crate) fn around(windows: &[Window], format: Format) -> Self {
        let side = |axis: fn(&Window) -> Axis| {
            let before = windows.iter().map(|w| axis(w).before()).max().unwrap_or(0);
            let end = windows.iter().map(|w| axis(w).end().max(axis(w).input)).max().unwrap_or(0);
            (before, before + end)
        };
        let ((top, height), (left, width)) = (side(|w| w.h), side(|w| w.w));
        let channels = windows[0].channels;
        Self {
            channels,
            format,
            pixel: format.channels(channels),
            input: (windows[0].h.input, windows[0].w.input),
            before: (top, left),
            size: (height, width),
        }
    }

    /// The distance between two pixels, in words.
    pub(crate) fn pixel(&self) -> usize {
        self.pixel
    }

    /// The distance between two rows, in words.
    pub(crate) fn row(&self) -> usize {
        self.size.1 * self.pixel
    }

    /// The index of the first word of the window of the first output.
    pub(crate) fn first(&self, window: &Window) -> usize {
        let at = |before: usize, first: isize| before.strict_add_signed(first);
        at(self.before.0, window.h.first) * self.row()
            + at(self.before.1, window.w.first) * self.pixel
    }

    /// The image `x`, channels last, in its frame. It is copied unless both are the same.
    pub(crate) fn fill<'a>(&self, isa: Isa, x: &'a [f32]) -> Pixels<'a> {
        if self.size == self.input && self.format == Format::F32 {
            return Pixels::Borrowed(x);
        }
        let (pixel, (height, width), (top, left)) = (self.pixel, self.input, self.before);
        let len = width * self.channels;
        let mut framed = Scratch::new(self.size.0 * self.row());
        for (y, row) in framed.chunks_exact_mut(self.row()).enumerate() {
            if y < top || y >= top + height {
                row.fill(0.0);
                continue;
            }
            let (before, rest) = row.split_at_mut(left * pixel);
            let (inside, after) = rest.split_at_mut(width * pixel);
            before.fill(0.0);
            after.fill(0.0);
            let x = &x[(y - top) * len..][..len];
            match self.format {
                Format::F32 => inside.copy_from_slice(x),
                Format::Bf16 => pair_channels(isa, x, self.channels, inside),
            }
        }
        Pixels::Copied(framed)
    }
}
