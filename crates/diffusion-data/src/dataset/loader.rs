//! Seeded, shuffled training batches.

use std::sync::mpsc::{self, Receiver, SyncSender};
use std::sync::{Mutex, PoisonError};

use candle_core::{Device, Tensor};
use diffusion_random::{Domain, NoiseSource};
use rand::RngExt;
use rand::seq::SliceRandom;
use serde::{Deserialize, Serialize};

use super::augment::{AUGMENTATION_LABELS, Augmentation};
use crate::{DataError, ImageDataset};

/// How many batches are prepared in advance.
const PREFETCH: usize = 2;

/// The position of a loader: the batch that comes next.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LoaderPosition {
    /// The number of completed passes over the data.
    pub epoch: u64,
    /// The number of batches already returned in the current pass.
    pub batch: u64,
}

/// The configuration of a [`Loader`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LoaderConfig {
    /// The number of pictures in a batch, at least 1.
    pub batch_size: usize,
    /// The seed of the order, the flips and the random crops.
    pub seed: u64,
    /// The minimum number of times that each picture appears in a pass, at least 1;
    /// [`repeats`](Self::repeats) gives the actual number.
    pub repeat: usize,
    /// Mirror each picture left to right with probability ½.
    pub flip: bool,
    /// The probability, in \[0, 1\], of each kind of augmentation that labels describe. If it is
    /// not 0 and `flip` is false, pictures are also mirrored left to right with probability ½, and
    /// a label says so.
    pub augment: f64,
}

impl LoaderConfig {
    /// Each picture once in a pass, without flips and augmentation.
    pub fn new(batch_size: usize, seed: u64) -> Self {
        Self { batch_size, seed, repeat: 1, flip: false, augment: 0.0 }
    }

    /// How many times each of `pictures` pictures (at least 1) appears in a pass: `repeat` times,
    /// or as often as needed to fill one batch.
    pub fn repeats(&self, pictures: usize) -> usize {
        self.repeat.max(self.batch_size.div_ceil(pictures))
    }
}

/// One batch of images.
#[derive(Clone, Debug)]
pub struct Batch {
    /// The images (N, C, H, W) in \[−1, 1\].
    pub images: Tensor,
    /// The class of each image as an index into [`ImageDataset::classes`], if it has one.
    pub labels: Vec<Option<u32>>,
    /// How each image was transformed, (N, [`AUGMENTATION_LABELS`]); `None` without augmentation.
    pub augmentation: Option<Tensor>,
}

/// Returns shuffled batches of one size without end. The last, incomplete batch of a pass is
/// dropped. If there are fewer pictures than a batch needs, they are repeated within a pass.
///
/// The order, crops and flips of a pass are pure functions of (seed, epoch), so a saved position is
/// enough to resume. A thread prepares the next two batches while the caller uses one.
#[derive(Debug)]
pub struct Loader {
    dataset: ImageDataset,
    config: LoaderConfig,
    position: LoaderPosition,
    /// Batches from the prefetching thread, once it has started. The thread ends when this is
    /// dropped. The mutex never blocks; it only makes a loader `Sync`.
    prefetched: Option<Mutex<Receiver<BatchData>>>,
}

/// The values of a batch (N·C·H·W), its labels, and the labels of its augmentation.
type BatchData = (Vec<f32>, Vec<Option<u32>>, Vec<f32>);

impl Loader {
    /// Creates a loader at the beginning of the first pass.
    ///
    /// # Errors
    /// If `batch_size` or `repeat` is 0, or a pass has more than 2³² − 1 pictures; if pictures to
    /// augment are not square.
    pub fn new(dataset: &ImageDataset, config: LoaderConfig) -> Result<Self, DataError> {
        if config.batch_size == 0 || config.repeat == 0 {
            let problem = "batch size and repeat must be at least 1";
            return Err(DataError::Invalid(problem.to_owned()));
        }
        let [_, height, width] = dataset.image_shape();
        if config.augment > 0.0 && height != width {
            let problem = format!(
                "augmentation rotates pictures, which must be square, not {width}×{height}"
            );
            return Err(DataError::Invalid(problem));
        }
        let config = LoaderConfig { repeat: config.repeats(dataset.len()), ..config };
        let pass = dataset.len().saturating_mul(config.repeat);
        if u32::try_from(pass).is_err() {
            let problem = format!(
                "a pass of {pass} pictures is too long; use fewer repetitions or smaller batches"
            );
            return Err(DataError::Invalid(problem));
        }
        Ok(Self {
            dataset: dataset.clone(),
            config,
            position: LoaderPosition::default(),
            prefetched: None,
        })
    }

    /// The number of batches in one pass over the data.
    pub fn batches_per_epoch(&self) -> u64 {
        (self.dataset.len() * self.config.repeat / self.config.batch_size) as u64
    }

    /// The position of the next batch.
    pub fn position(&self) -> LoaderPosition {
        self.position
    }

    /// Moves to a position.
    ///
    /// # Errors
    /// If `position.batch` is beyond the end of a pass.
    pub fn seek(&mut self, position: LoaderPosition) -> Result<(), DataError> {
        if position.batch >= self.batches_per_epoch() {
            return Err(DataError::Invalid(format!(
                "batch position {} must be below {}, the number of batches in a pass",
                position.batch,
                self.batches_per_epoch()
            )));
        }
        self.position = position;
        self.prefetched = None;
        Ok(())
    }

    /// Returns the next batch on `device`.
    ///
    /// # Errors
    /// An error of the device.
    pub fn next_batch(&mut self, device: &Device) -> Result<Batch, DataError> {
        let prefetched = self.prefetched.get_or_insert_with(|| {
            let (sender, receiver) = mpsc::sync_channel(PREFETCH - 1);
            let (dataset, config, position) = (self.dataset.clone(), self.config, self.position);
            std::thread::spawn(move || prefetch(&dataset, config, position, &sender));
            Mutex::new(receiver)
        });
        let prefetched = prefetched.get_mut().unwrap_or_else(PoisonError::into_inner);
        let (values, labels, augmentation) = prefetched.recv().map_err(|_| {
            DataError::Invalid("the thread that loads pictures ended unexpectedly".to_owned())
        })?;
        let [channels, height, width] = self.dataset.image_shape();
        let images = Tensor::from_vec(values, (labels.len(), channels, height, width), device)?;
        let shape = (labels.len(), AUGMENTATION_LABELS);
        let augmentation = (!augmentation.is_empty())
            .then(|| Tensor::from_vec(augmentation, shape, device))
            .transpose()?;
        self.position.batch += 1;
        if self.position.batch == self.batches_per_epoch() {
            self.position = LoaderPosition { epoch: self.position.epoch + 1, batch: 0 };
        }
        Ok(Batch { images, labels, augmentation })
    }
}

/// Sends batches from `position` on until the receiver is dropped.
fn prefetch(
    dataset: &ImageDataset,
    config: LoaderConfig,
    position: LoaderPosition,
    batches: &SyncSender<BatchData>,
) {
    let per_image: usize = dataset.image_shape().iter().product();
    let mut first = position.batch as usize;
    for epoch in position.epoch.. {
        let pass = Pass::new(dataset, config, epoch);
        for places in pass.order.chunks_exact(config.batch_size).skip(first) {
            let mut values = vec![0.0; places.len() * per_image];
            let mut augmentation = Vec::new();
            for (place, values) in places.iter().zip(values.chunks_exact_mut(per_image)) {
                pass.write(*place, values);
                if config.augment > 0.0 {
                    augmentation.extend(pass.augment(*place, values));
                }
            }
            let labels = places.iter().map(|place| dataset.label(place % dataset.len())).collect();
            if batches.send((values, labels, augmentation)).is_err() {
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
    /// The shuffled places; picture i of repetition r has the place r·N + i.
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

    /// Transforms the values of a picture at random. Returns the labels of the transformation.
    fn augment(&self, place: usize, values: &mut [f32]) -> [f32; AUGMENTATION_LABELS] {
        let [_, height, width] = self.dataset.image_shape();
        let mut rng = self.source.rng(Domain::Transformation, self.epoch, place as u64);
        let drawn = Augmentation::draw(&mut rng, self.config.augment, !self.config.flip);
        if drawn.labels != [0.0; AUGMENTATION_LABELS] {
            for channel in values.chunks_exact_mut(height * width) {
                let before = channel.to_vec();
                drawn.apply(&before, channel, [height, width]);
            }
        }
        drawn.labels
    }
}
