//! The input pixels of each output pixel, and zero-padded copies of images.

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
/// windows.
///
/// The taps of one window row, with all channels, are then one run of numbers.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Frame {
    channels: usize,
    input: (usize, usize),
    before: (usize, usize),
    /// Height and width with the frame.
    size: (usize, usize),
}

impl Frame {
    /// The frame for some windows over the same image.
    pub(crate) fn around(windows: &[Window]) -> Self {
        let side = |axis: fn(&Window) -> Axis| {
            let before = windows.iter().map(|w| axis(w).before()).max().unwrap_or(0);
            let end = windows.iter().map(|w| axis(w).end().max(axis(w).input)).max().unwrap_or(0);
            (before, before + end)
        };
        let ((top, height), (left, width)) = (side(|w| w.h), side(|w| w.w));
        Self {
            channels: windows[0].channels,
            input: (windows[0].h.input, windows[0].w.input),
            before: (top, left),
            size: (height, width),
        }
    }

    /// The distance between two rows, in floats.
    pub(crate) fn row(&self) -> usize {
        self.size.1 * self.channels
    }

    /// The index of the first float of the window of the first output.
    pub(crate) fn first(&self, window: &Window) -> usize {
        let at = |before: usize, first: isize| before.strict_add_signed(first);
        at(self.before.0, window.h.first) * self.row()
            + at(self.before.1, window.w.first) * self.channels
    }

    /// Copies the image `x`, channels last, into its frame.
    pub(crate) fn fill(&self, x: &[f32]) -> Scratch {
        let (channels, (height, width), (top, left)) = (self.channels, self.input, self.before);
        let mut framed = Scratch::new(self.size.0 * self.row());
        for (y, row) in framed.chunks_exact_mut(self.row()).enumerate() {
            if y < top || y >= top + height {
                row.fill(0.0);
                continue;
            }
            let (before, rest) = row.split_at_mut(left * channels);
            let (inside, after) = rest.split_at_mut(width * channels);
            before.fill(0.0);
            after.fill(0.0);
            inside.copy_from_slice(&x[(y - top) * inside.len()..][..inside.len()]);
        }
        framed
    }
}
