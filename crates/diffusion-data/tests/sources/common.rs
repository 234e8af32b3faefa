//! Helpers: generated pictures in a temporary folder.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use diffusion_data::{
    DataError, ImageDataset, PictureConfig, PreparedDataset, Source, Split, prepare,
};
use image::{ExtendedColorType, ImageEncoder};
use tempfile::TempDir;

pub(crate) struct Folder {
    dir: TempDir,
}

impl Folder {
    pub(crate) fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap() }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn write(&self, name: &str, bytes: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, bytes).unwrap();
        path
    }
}

/// A picture of 12×10 pixels that is different for each seed.
pub(crate) fn png(seed: u8) -> Vec<u8> {
    encoded(12, 10, &colours(seed))
}

/// The pixels of [`png`].
pub(crate) fn colours(seed: u8) -> Vec<u8> {
    (0..12 * 10 * 3u32).map(|i| (i * 7 + u32::from(seed) * 31 + i / 36 * 5) as u8).collect()
}

pub(crate) fn encoded(width: u32, height: u32, rgb: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let encoder = image::codecs::png::PngEncoder::new(&mut bytes);
    encoder.write_image(rgb, width, height, ExtendedColorType::Rgb8).unwrap();
    bytes
}

pub(crate) fn open(path: &Path) -> Result<Source, DataError> {
    Source::open(path, Split::Train)
}

/// Prepares all pictures at `path` in memory as images of 8×8 pixels.
pub(crate) fn prepared(path: &Path) -> Result<PreparedDataset, DataError> {
    prepared_as(path, Some(8), &PictureConfig::default(), None)
}

pub(crate) fn prepared_as(
    path: &Path,
    size: Option<usize>,
    config: &PictureConfig,
    cache: Option<&Path>,
) -> Result<PreparedDataset, DataError> {
    prepare(&open(path)?, size, config, cache, &mut |_| ControlFlow::Continue(()))
}

/// Names and classes of a set, in order.
pub(crate) fn labelled(dataset: &ImageDataset) -> Vec<(String, Option<String>)> {
    let class = |label: u32| dataset.classes()[label as usize].clone();
    (0..dataset.len()).map(|i| (dataset.name(i), dataset.label(i).map(class))).collect()
}

pub(crate) fn pair(name: &str, class: &str) -> (String, Option<String>) {
    (name.to_owned(), Some(class.to_owned()))
}
