//! Shuffled batches from a seed.

use std::sync::mpsc::{self, Receiver, SyncSender};
use std::sync::{Mutex, PoisonError};

use candle_core::{Device, Tensor};
use diffusion_random::{Domain, NoiseSource};
use rand::RngExt;
use rand::seq::SliceRandom;
use serde::{Deserialize, Serialize};

use crate::{DataError, ImageDataset};

/// Batches that may be ready before they are asked for.
const AHEAD: usize = 2;

/// Where a loader is: the batch it will give next.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LoaderPosition {
    /// Passes over the data that are complete.
    pub epoch: u64,
    /// Batches of the current pass that were given.
    pub batch: u64,
}

/// How pictures become batches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LoaderConfig {
    /// Pictures in a batch, at least 1.
    pub batch_size: usize,
    /// The seed of the order, of flips and of windows.
    pub seed: u64,
    /// How often a pass gives each picture, at least 1; [`repeats`](Self::repeats) is what a loader makes of it.
    pub repeat: usize,
    /// Mirror pictures, left to right, with probability ½.
    pub flip: bool,
}

impl LoaderConfig {
    /// Each picture once in a pass, as it is.
    pub fn new(batch_size: usize, seed: u64) -> Self {
        Self { batch_size, seed, repeat: 1, flip: false }
    }

    /// How often a pass gives each of `pictures` pictures, at least 1: `repeat` times, or as often as it takes to fill one batch.
    pub fn repeats(&self, pictures: usize) -> usize {
        self.repeat.max(self.batch_size.div_ceil(pictures))
    }
}

/// One batch.
#[derive(Clone, Debug)]
pub struct Batch {
    /// (N, C, H, W) in \[−1, 1\].
    pub images: Tensor,
    /// The class of each picture, an index of [`ImageDataset::classes`], where it has one.
    pub labels: Vec<Option<u32>>,
}

/// Endless shuffled batches of one size; the last, partial batch of a pass is left out, and pictures that are fewer than a batch are
/// repeated within a pass. The order of a pass, and how its
/// pictures are cut and mirrored, are pure functions of (seed, epoch), so a position is all there is to save. A thread
/// makes the next two batches while the caller works on one.
#[derive(Debug)]
pub struct Loader {
    dataset: ImageDataset,
    config: LoaderConfig,
    position: LoaderPosition,
    /// From the thread that works ahead, once it was started; it ends when this is dropped. (The mutex is never waited for:
    /// it only lets a loader be shared between threads.)
    ahead: Option<Mutex<Receiver<Ready>>>,
}

/// The numbers of a batch, and its labels.
type Ready = (Vec<f32>, Vec<Option<u32>>);

impl Loader {
    /// A loader at the beginning of the first pass.
    ///
    /// # Errors
    /// A batch size of 0; no repetition; a pass of more than 2³² − 1 pictures.
    pub fn new(dataset: &ImageDataset, config: LoaderConfig) -> Result<Self, DataError> {
        if config.batch_size == 0 || config.repeat == 0 {
            let problem = "a batch needs at least one picture, and a pass gives each at least once";
            return Err(DataError::Invalid(problem.to_owned()));
        }
        let config = LoaderConfig { repeat: config.repeats(dataset.len()), ..config };
        let pass = dataset.len().saturating_mul(config.repeat);
        if u32::try_from(pass).is_err() {
            let problem = format!(
                "a pass of {pass} pictures is too long; repeat them less often, or take smaller batches"
            );
            return Err(DataError::Invalid(problem));
        }
        Ok(Self {
            dataset: dataset.clone(),
            config,
            position: LoaderPosition::default(),
            ahead: None,
        })
    }

    /// Batches in one pass over the data.
    pub fn batches_per_epoch(&self) -> u64 {
        (self.dataset.len() * self.config.repeat / self.config.batch_size) as u64
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
        self.ahead = None;
        Ok(())
    }

    /// The next batch.
    ///
    /// # Errors
    /// Those of the device.
    pub fn next_batch(&mut self, device: &Device) -> Result<Batch, DataError> {
        let ahead = self.ahead.get_or_insert_with(|| {
            let (sender, receiver) = mpsc::sync_channel(AHEAD - 1);
            let (dataset, config, position) = (self.dataset.clone(), self.config, self.position);
            std::thread::spawn(move || work_ahead(&dataset, config, position, &sender));
            Mutex::new(receiver)
        });
        let ahead = ahead.get_mut().unwrap_or_else(PoisonError::into_inner);
        let (values, labels) = ahead
            .recv()
            .map_err(|_| DataError::Invalid("the thread that loads pictures ended".to_owned()))?;
        let [channels, height, width] = self.dataset.image_shape();
        let images = Tensor::from_vec(values, (labels.len(), channels, height, width), device)?;
        self.position.batch += 1;
        if self.position.batch == self.batches_per_epoch() {
            self.position = LoaderPosition { epoch: self.position.epoch + 1, batch: 0 };
        }
        Ok(Batch { images, labels })
    }
}

/// Makes batches from `position` on until nobody wants them any more.
fn work_ahead(
    dataset: &ImageDataset,
    config: LoaderConfig,
    position: LoaderPosition,
    batches: &SyncSender<Ready>,
) {
    let per_image: usize = dataset.image_shape().iter().product();
    let mut first = position.batch as usize;
    for epoch in position.epoch.. {
        let pass = Pass::new(dataset, config, epoch);
        for chosen in pass.order.chunks_exact(config.batch_size).skip(first) {
            let mut values = vec![0.0; chosen.len() * per_image];
            for (place, values) in chosen.iter().zip(values.chunks_exact_mut(per_image)) {
                pass.write(*place, values);
            }
            let labels = chosen.iter().map(|place| dataset.label(place % dataset.len())).collect();
            if batches.send((values, labels)).is_err() {
                return;
            }
        }
        first = 0;
    }
}

/// One pass over the data.
struct Pass<'a> {
    dataset: &'a ImageDataset,
    config: LoaderConfig,
    source: NoiseSource,
    epoch: u64,
    /// Picture i of repetition r has the place r·N + i.
    order: Vec<usize>,
}

impl<'a> Pass<'a> {
    fn new(dataset: &'a ImageDataset, config: LoaderConfig, epoch: u64) -> Self {
        let source = NoiseSource::new(config.seed);
        let mut order: Vec<usize> = (0..dataset.len() * config.repeat).collect();
        order.shuffle(&mut source.rng(Domain::Shuffle, epoch, 0));
        Self { dataset, config, source, epoch, order }
    }

    fn write(&self, place: usize, values: &mut [f32]) {
        let (down, right) = self.dataset.slack();
        let (mut corner, mut flip) = ((0, 0), false);
        if self.config.flip || down > 0 || right > 0 {
            let mut rng = self.source.rng(Domain::Augmentation, self.epoch, place as u64);
            corner = (rng.random_range(0..=down), rng.random_range(0..=right));
            flip = self.config.flip && rng.random();
        }
        self.dataset.write_window(place % self.dataset.len(), corner, flip, values);
    }
}
