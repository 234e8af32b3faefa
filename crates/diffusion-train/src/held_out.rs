//! The loss on pictures that are kept out of training.

use candle_core::Device;
use diffusion_data::ImageDataset;
use diffusion_kernels::in_pool;
use diffusion_process::{Domain, Network, NoiseSource};

use crate::{TrainError, TrainingLoss};

/// Pictures looked at; more would tell little more and take as long as training does.
const MOST: usize = 256;
/// Pictures at once.
const BATCH: usize = 64;

/// Pictures, each with a noise level and noise of its own that stay the same from one look to the next, so that the losses of
/// two looks differ by the weights alone.
#[derive(Debug)]
pub(crate) struct HeldOut {
    pictures: ImageDataset,
    source: NoiseSource,
    /// Whether the network is told their classes.
    told: bool,
}

impl HeldOut {
    /// Up to 256 of `dataset`, whose classes the network is told if `told`.
    pub(crate) fn new(dataset: &ImageDataset, seed: u64, told: bool) -> Result<Self, TrainError> {
        Ok(Self { pictures: dataset.limited(MOST)?, source: NoiseSource::new(seed), told })
    }

    /// The mean training loss of `network` over the pictures, their noise levels spread evenly over those of training.
    pub(crate) fn loss(
        &self,
        network: &(dyn Network + Send + Sync),
        loss: &TrainingLoss,
        device: &Device,
    ) -> Result<f64, TrainError> {
        let count = self.pictures.len();
        let mut sum = 0.0;
        for first in (0..count).step_by(BATCH) {
            let chosen: Vec<usize> = (first..count.min(first + BATCH)).collect();
            let shares = chosen.iter().map(|i| (*i as f64 + 0.5) / count as f64);
            let levels: Vec<_> = shares.map(|share| loss.objective.level_at(share)).collect();
            let indices = first as u64..(first + chosen.len()) as u64;
            let shape = self.pictures.image_shape();
            let noise = self.source.normal(Domain::Validation, 0, indices, &shape, device)?;
            let images = self.pictures.images(&chosen, device)?;
            let batch = loss.objective.noisy_batch(&images, &noise, &levels)?;
            let classes: Vec<_> =
                chosen.iter().map(|i| self.pictures.label(*i).filter(|_| self.told)).collect();
            let output = in_pool(|| network.forward_classes(&batch.input, &batch.timesteps, &classes))?;
            sum += loss.per_image(&output, &batch)?.to_vec1::<f32>()?.into_iter().map(f64::from).sum::<f64>();
        }
        Ok(sum / count as f64)
    }
}
