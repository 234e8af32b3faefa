//! Conversion of data sets loaded by candle-datasets.

use candle_core::{DType, Device, Tensor};
use candle_datasets::vision::Dataset;

use crate::dataset::{Metadata, Pixels};
use crate::{DataError, ImageDataset, Split};

impl ImageDataset {
    /// Converts one split of a data set of candle-datasets. Its images must have the shape
    /// (N, C, H, W), or (N, H·W) for grey squares, and values in 0–1. The classes are named by
    /// their numbers.
    ///
    /// The loaders `mnist::load`, `mnist::load_dir`, `fashion_mnist::load` and `cifar::load_dir`
    /// give (N, C, H, W). `cifar::load` of version 0.11 gives transposed images (N, C, W, H).
    /// Correct them with `dataset.train_images = dataset.train_images.transpose(2, 3)?`, and
    /// `test_images` likewise.
    ///
    /// # Errors
    /// If there are no images, they have another shape, or a value is outside 0–1. If the number of
    /// labels differs from the number of images, or a label is not below the number of classes. An
    /// error of the device.
    pub fn from_candle(dataset: &Dataset, split: Split) -> Result<Self, DataError> {
        let (images, labels) = match split {
            Split::Train => (&dataset.train_images, &dataset.train_labels),
            Split::Test => (&dataset.test_images, &dataset.test_labels),
        };
        let labels = labels.to_device(&Device::Cpu)?.to_dtype(DType::U32)?.to_vec1::<u32>()?;
        if let Some(label) = labels.iter().find(|label| **label as usize >= dataset.labels) {
            let problem = format!("label {label} of a data set with {} classes", dataset.labels);
            return Err(DataError::Invalid(problem));
        }
        let classes = (0..dataset.labels).map(|class| class.to_string()).collect();
        let labels = labels.into_iter().map(Some).collect();
        let metadata = Metadata { labels, classes, names: Vec::new() };
        let image_shape = image_shape(images)?;
        Self::assemble(Pixels::Memory(bytes(images)?), metadata, image_shape)
    }
}

/// [C, H, W] of a batch of images.
fn image_shape(images: &Tensor) -> Result<[usize; 3], DataError> {
    match images.dims() {
        [_, channels @ (1 | 3), height, width] => Ok([*channels, *height, *width]),
        [_, area] if area.isqrt().pow(2) == *area => Ok([1, area.isqrt(), area.isqrt()]),
        dims => Err(DataError::Invalid(format!(
            "images of shape {dims:?}; expected (N, C, H, W) with 1 or 3 channels, or (N, H·W) of \
             grey squares"
        ))),
    }
}

/// Converts values in 0–1 to bytes.
fn bytes(images: &Tensor) -> Result<Vec<u8>, DataError> {
    let values =
        images.to_device(&Device::Cpu)?.to_dtype(DType::F32)?.flatten_all()?.to_vec1::<f32>()?;
    if let Some(value) = values.iter().find(|value| !(0.0..=1.0).contains(*value)) {
        return Err(DataError::Invalid(format!("a pixel is {value}; expected values in 0–1")));
    }
    Ok(values.into_iter().map(|value| (value * 255.0).round() as u8).collect())
}
