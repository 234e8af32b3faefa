//! Images with their channels last, in a frame of zeros: what Winograd's tiles are cut from.

use crate::arith::vector::LANES;
use crate::memory::scratch::Scratch;

/// Side of a tile of outputs; a tile of inputs has one more pixel on every side.
pub(super) const OUT: usize = 4;

/// How images are cut into tiles, which may reach over the right and the lower edge.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Tiles {
    /// Height and width of an image.
    pub(crate) side: (usize, usize),
    /// Tiles downwards and across.
    count: (usize, usize),
}

impl Tiles {
    pub(crate) fn new(side: (usize, usize)) -> Self {
        Self { side, count: (side.0.div_ceil(OUT), side.1.div_ceil(OUT)) }
    }

    /// The tiles of one image.
    pub(crate) fn per_image(&self) -> usize {
        self.count.0 * self.count.1
    }

    pub(crate) fn pixels(&self) -> usize {
        self.side.0 * self.side.1
    }

    /// The image in which tile `t` lies, counted through all images, and the row and column of its first output.
    pub(super) fn position(&self, t: usize) -> (usize, usize, usize) {
        let (image, t) = (t / self.per_image(), t % self.per_image());
        (image, t / self.count.1 * OUT, t % self.count.1 * OUT)
    }
}

/// `images` images of `channels` channels: pixels `pitch` floats apart, a pixel of zeros around each image and as many
/// more as fill the tiles.
pub(crate) struct Canvas {
    pub(super) tiles: Tiles,
    images: usize,
    pitch: usize,
    data: Scratch,
}

impl Canvas {
    /// A canvas whose images are yet to be written, every row of them.
    pub(crate) fn new(tiles: Tiles, images: usize, channels: usize) -> Self {
        let pitch = channels.next_multiple_of(LANES);
        let (height, width) = Self::frame(tiles);
        let mut data = Scratch::new(images * height * width * pitch);
        for image in data.chunks_exact_mut(height * width * pitch) {
            for (y, row) in image.chunks_exact_mut(width * pitch).enumerate() {
                if (1..=tiles.side.0).contains(&y) {
                    row[..pitch].fill(0.0);
                    row[(1 + tiles.side.1) * pitch..].fill(0.0);
                } else {
                    row.fill(0.0);
                }
            }
        }
        Self { tiles, images, pitch, data }
    }

    fn frame(tiles: Tiles) -> (usize, usize) {
        (tiles.count.0 * OUT + 2, tiles.count.1 * OUT + 2)
    }

    /// Pixels from one row's beginning to the next one's.
    pub(super) fn width(&self) -> usize {
        Self::frame(self.tiles).1
    }

    /// The tiles of all images.
    pub(super) fn len(&self) -> usize {
        self.images * self.tiles.per_image()
    }

    /// The canvas from tile `t`'s inputs on, or from those inputs on that are `inset` pixels further down and right.
    pub(super) fn tile(&self, t: usize, inset: usize) -> &[f32] {
        let (image, y, x) = self.tiles.position(t);
        let (height, width) = Self::frame(self.tiles);
        &self.data[((image * height + y + inset) * width + x + inset) * self.pitch..]
    }

    /// Where row y of an image begins.
    fn row_start(&self, image: usize, y: usize) -> usize {
        let (height, width) = Self::frame(self.tiles);
        ((image * height + y + 1) * width + 1) * self.pitch
    }

    /// Height and width of an image.
    pub(crate) fn side(&self) -> (usize, usize) {
        self.tiles.side
    }

    /// Floats from one pixel to the next.
    pub(crate) fn pitch(&self) -> usize {
        self.pitch
    }

    /// Floats from one row to the next.
    pub(crate) fn row_pitch(&self) -> usize {
        self.width() * self.pitch
    }

    /// The canvas from the pixel on that lies above and to the left of the first one of row y.
    pub(crate) fn around(&self, image: usize, y: usize) -> &[f32] {
        &self.data[self.row_start(image, y) - self.row_pitch() - self.pitch..]
    }

    /// Row y of an image, its pixels `pitch` floats apart.
    pub(crate) fn row(&self, image: usize, y: usize) -> &[f32] {
        let start = self.row_start(image, y);
        &self.data[start..start + self.tiles.side.1 * self.pitch]
    }

    /// The rows of an image, to be written.
    pub(crate) fn rows_mut(&mut self, image: usize) -> impl Iterator<Item = &mut [f32]> {
        let (start, len) = (self.row_start(image, 0), self.tiles.side.1 * self.pitch);
        let (height, row_pitch) = (self.tiles.side.0, self.row_pitch());
        self.data[start..].chunks_mut(row_pitch).take(height).map(move |row| &mut row[..len])
    }

    /// As [`Self::row`], to be written.
    pub(crate) fn row_mut(&mut self, image: usize, y: usize) -> &mut [f32] {
        let start = self.row_start(image, y);
        &mut self.data[start..start + self.tiles.side.1 * self.pitch]
    }

    /// Copies `x`, images of `channels` channels, which come last.
    pub(crate) fn fill(&mut self, x: &[f32], channels: usize) {
        let (height, pitch) = (self.tiles.side.0, self.pitch);
        for (i, x) in x.chunks_exact(self.tiles.side.1 * channels).enumerate() {
            let row = self.row_mut(i / height, i % height);
            if channels == pitch {
                row.copy_from_slice(x);
                continue;
            }
            for (to, from) in row.chunks_exact_mut(pitch).zip(x.chunks_exact(channels)) {
                to[..channels].copy_from_slice(from);
                to[channels..].fill(0.0);
            }
        }
    }
}
