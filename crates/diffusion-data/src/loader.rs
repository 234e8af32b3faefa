//! Shuffled batches from a seed.

use candle_core::{Device, Tensor};
use diffusion_process::{Domain, NoiseSource};
use rand::seq::SliceRandom;
use serde::{Deserialize, Serialize};

use crate::{DataError, ImageDataset};

/// Where a loader is: the batch it will give next.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LoaderPosition {
    /// Passes over the data that are complete.
    pub epoch: u64,
    /// Batches of the current pass that were given.
    pub batch: u64,
}

/// One batch.
#[derive(Clone, Debug)]
pub struct Batch {
    /// (N, C, H, W) in \[−1, 1\].
    pub images: Tensor,
    /// N classes, if the data set has them.
    pub labels: Option<Vec<u8>>,
}

/// Endless shuffled batches of one size; the last, partial batch of a pass is left out. The order of a pass is a pure
/// function of (seed, epoch), so a position is all there is to save.
#[derive(Clone, Debug)]
pub struct Loader<'a> {
    dataset: &'a ImageDataset,
    batch_size: usize,
    source: NoiseSource,
    position: LoaderPosition,
    order: Vec<usize>,
}

impl<'a> Loader<'a> {
    /// A loader at the beginning of the first pass.
    ///
    /// # Errors
    /// A batch size of 0 or above the number of pictures.
    pub fn new(dataset: &'a ImageDataset, batch_size: usize, seed: u64) -> Result<Self, DataError> {
        if batch_size == 0 || batch_size > dataset.len() {
            return Err(DataError::Invalid(format!(
                "batch size {batch_size} does not fit {} pictures; choose 1 to {}",
                dataset.len(),
                dataset.len()
            )));
        }
        let source = NoiseSource::new(seed);
        let order = epoch_order(source, 0, dataset.len());
        Ok(Self { dataset, batch_size, source, position: LoaderPosition::default(), order })
    }

    /// Batches in one pass over the data.
    pub fn batches_per_epoch(&self) -> u64 {
        (self.dataset.len() / self.batch_size) as u64
    }

    /// The batch that comes next.
    pub fn position(&self) -> LoaderPosition {
        self.position
    }

    /// Goes to a position.
    ///
    /// # Errors
    /// A batch beyond the end of a pass.
    pub fn seek(&mut self, position: LoaderPosition) -> Result<(), DataError> {
        if position.batch >= self.batches_per_epoch() {
            return Err(DataError::Invalid(format!(
                "position {} lies beyond the {} batches of a pass",
                position.batch,
                self.batches_per_epoch()
            )));
        }
        self.position = position;
        self.order = epoch_order(self.source, position.epoch, self.dataset.len());
        Ok(())
    }

    /// The next batch.
    ///
    /// # Errors
    /// Those of the device.
    pub fn next_batch(&mut self, device: &Device) -> Result<Batch, DataError> {
        let start = self.position.batch as usize * self.batch_size;
        let chosen = &self.order[start..start + self.batch_size];
        let images = self.dataset.images(chosen, device)?;
        let labels = self.dataset.labels().map(|labels| chosen.iter().map(|&i| labels[i]).collect());
        self.position.batch += 1;
        if self.position.batch == self.batches_per_epoch() {
            self.position = LoaderPosition { epoch: self.position.epoch + 1, batch: 0 };
            self.order = epoch_order(self.source, self.position.epoch, self.dataset.len());
        }
        Ok(Batch { images, labels })
    }
}

fn epoch_order(source: NoiseSource, epoch: u64, len: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..len).collect();
    order.shuffle(&mut source.rng(Domain::Shuffle, epoch, 0));
    order
}
