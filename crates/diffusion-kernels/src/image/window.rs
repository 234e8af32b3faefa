//! Which input pixels an output pixel looks at, and the copy of an image made for it.

use crate::memory::scratch::Scratch;

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
    /// Zeros that are needed before the first input.
    fn before(&self) -> usize {
        (-self.first).max(0).unsigned_abs()
    }

    /// Behind the last position that is looked at, counted from the first input.
    fn end(&self) -> usize {
        let seen = self.first + (self.output.saturating_sub(1) * self.stride + self.taps) as isize;
        seen.max(0).unsigned_abs()
    }
}

/// A window over images of `channels` channels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Window {
    pub channels: usize,
    pub h: Axis,
    pub w: Axis,
}

/// An image with its channels last, dense, in a frame of zeros that is wide enough for some windows.
///
/// A row of a window's taps with all their channels is then one run of numbers.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Frame {
    channels: usize,
    input: (usize, usize),
    before: (usize, usize),
    /// Height and width with the zeros.
    size: (usize, usize),
}

impl Frame {
    /// For windows over the same image.
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

    /// Floats from one row to the next.
    pub(crate) fn row(&self) -> usize {
        self.size.1 * self.channels
    }

    /// Where the window of the first output begins.
    pub(crate) fn first(&self, window: &Window) -> usize {
        let at = |before: usize, first: isize| before.strict_add_signed(first);
        at(self.before.0, window.h.first) * self.row()
            + at(self.before.1, window.w.first) * self.channels
    }

    /// The image `x`, with its channels last, in its frame.
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
