//! Images with channels last in a frame of zeros, from which Winograd's tiles are read.

use rayon::prelude::*;

use crate::arith::vector::LANES;
use crate::memory::scratch::Scratch;

/// Side of an output tile. An input tile has one more pixel on every side.
pub(super) const OUT: usize = 4;

/// The number of floats below which waking another thread takes longer than their work.
pub(super) const MIN_TASK: usize = 1 << 15;

/// The division of images into tiles, which may extend past the right and the lower edge.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Tiles {
    /// Height and width of an image.
    pub(crate) side: (usize, usize),
    /// The number of tiles vertically and horizontally.
    count: (usize, usize),
}

impl Tiles {
    pub(crate) fn new(side: (usize, usize)) -> Self {
        Self { side, count: (side.0.div_ceil(OUT), side.1.div_ceil(OUT)) }
    }

    /// The number of tiles of one image.
    pub(crate) fn per_image(&self) -> usize {
        self.count.0 * self.count.1
    }

    pub(crate) fn pixels(&self) -> usize {
        self.side.0 * self.side.1
    }

    /// The image of tile `t`, which counts through all images, and the row and column of its first
    /// output.
    pub(super) fn position(&self, t: usize) -> (usize, usize, usize) {
        let (image, t) = (t / self.per_image(), t % self.per_image());
        (image, t / self.count.1 * OUT, t % self.count.1 * OUT)
    }
}

/// Some images in frames of zeros. Pixels are `pitch` floats apart. The frame is one pixel wide,
/// and wider on the right and below where tiles extend past the image.
pub(crate) struct Canvas {
    pub(super) tiles: Tiles,
    images: usize,
    pitch: usize,
    data: Scratch,
}

impl Canvas {
    /// A canvas with zero frames. The rows of the images are not initialised; the caller must write
    /// them all.
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

    /// The distance between the beginnings of two rows, in pixels.
    pub(super) fn width(&self) -> usize {
        Self::frame(self.tiles).1
    }

    /// The number of tiles of all images.
    pub(super) fn len(&self) -> usize {
        self.images * self.tiles.per_image()
    }

    /// The canvas from the first input of tile `t` on, moved down and right by `inset` pixels.
    pub(super) fn tile(&self, t: usize, inset: usize) -> &[f32] {
        let (image, y, x) = self.tiles.position(t);
        let (height, width) = Self::frame(self.tiles);
        &self.data[((image * height + y + inset) * width + x + inset) * self.pitch..]
    }

    /// The index of the first float of row y of an image.
    fn row_start(&self, image: usize, y: usize) -> usize {
        let (height, width) = Self::frame(self.tiles);
        ((image * height + y + 1) * width + 1) * self.pitch
    }

    /// Height and width of an image.
    pub(crate) fn side(&self) -> (usize, usize) {
        self.tiles.side
    }

    /// The distance between two pixels, in floats.
    pub(crate) fn pitch(&self) -> usize {
        self.pitch
    }

    /// The distance between two rows, in floats.
    pub(crate) fn row_pitch(&self) -> usize {
        self.width() * self.pitch
    }

    /// The canvas from the pixel above and to the left of the first pixel of row y on.
    pub(crate) fn around(&self, image: usize, y: usize) -> &[f32] {
        &self.data[self.row_start(image, y) - self.row_pitch() - self.pitch..]
    }

    /// Row y of an image, its pixels `pitch` floats apart.
    pub(crate) fn row(&self, image: usize, y: usize) -> &[f32] {
        let start = self.row_start(image, y);
        &self.data[start..start + self.tiles.side.1 * self.pitch]
    }

    /// The rows of each image, for tasks that write different images.
    pub(crate) fn par_images_mut(
        &mut self,
    ) -> impl IndexedParallelIterator<Item = impl Iterator<Item = &mut [f32]>> {
        let (start, len) = (self.row_start(0, 0), self.tiles.side.1 * self.pitch);
        let (height, row_pitch) = (self.tiles.side.0, self.row_pitch());
        let image_len = self.data.len() / self.images;
        let images =
            self.data.par_chunks_exact_mut(image_len).with_min_len(MIN_TASK / image_len + 1);
        images.map(move |image| {
            image[start..].chunks_mut(row_pitch).take(height).map(move |row| &mut row[..len])
        })
    }

    /// Copies the images `x` with `channels` channels, channels last.
    pub(crate) fn fill(&mut self, x: &[f32], channels: usize) {
        let (row_len, pitch) = (self.tiles.side.1 * channels, self.pitch);
        let images = x.par_chunks_exact(row_len * self.tiles.side.0);
        self.par_images_mut().zip(images).for_each(|(rows, x)| {
            for (row, x) in rows.zip(x.chunks_exact(row_len)) {
                if channels == pitch {
                    row.copy_from_slice(x);
                    continue;
                }
                for (to, from) in row.chunks_exact_mut(pitch).zip(x.chunks_exact(channels)) {
                    to[..channels].copy_from_slice(from);
                    to[channels..].fill(0.0);
                }
            }
        });
    }
}
