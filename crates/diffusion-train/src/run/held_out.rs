//! The loss on pictures that are kept out of training.

use diffusion_data::{DataError, ImageDataset};
use diffusion_kernels::in_pool;
use diffusion_nn::load_frozen;
use diffusion_process::Network;
use diffusion_random::{Domain, NoiseSource};

use crate::{CheckpointFile, TrainError, Trainer};

/// Pictures looked at; more would tell little more and take as long as training does.
const MOST: usize = 256;
/// Pictures at once.
const BATCH: usize = 64;

/// Pictures, each with a noise level and noise of its own that stay the same from one look to the next, so that the losses of
/// two looks differ by the weights alone.
#[derive(Debug)]
pub struct HeldOut {
    pictures: ImageDataset,
}

impl HeldOut {
    /// Up to 256 of `pictures`, for the training of `trainer`.
    ///
    /// # Errors
    /// Pictures of another shape than those of the training.
    pub fn new(pictures: &ImageDataset, trainer: &Trainer) -> Result<Self, TrainError> {
        let (expected, found) = (trainer.description().image_shape, pictures.image_shape());
        if found != expected {
            let problem =
                format!("pictures to validate on are {found:?}, those to train on {expected:?}");
            return Err(DataError::Invalid(problem).into());
        }
        Ok(Self { pictures: pictures.limited(MOST)? })
    }

    /// The mean training loss of the averaged weights over the pictures, their noise levels spread evenly over those of
    /// training.
    ///
    /// # Errors
    /// Those of the device.
    pub fn loss(&self, trainer: &Trainer) -> Result<f64, TrainError> {
        let (loss, device, description) = (trainer.loss(), trainer.device(), trainer.description());
        let network =
            load_frozen(trainer.ema().tensors(), device, |vb| description.network.build(vb))
                .map_err(|source| TrainError::Parameters {
                    path: CheckpointFile::Ema.name().into(),
                    source,
                })?;
        let network: &(dyn Network + Send + Sync) = &*network;
        let source = NoiseSource::new(trainer.config().seed);
        let conditional = !description.classes.is_empty();
        let count = self.pictures.len();
        let mut sum = 0.0;
        for first in (0..count).step_by(BATCH) {
            let chosen: Vec<usize> = (first..count.min(first + BATCH)).collect();
            let shares = chosen.iter().map(|i| (*i as f64 + 0.5) / count as f64);
            let levels: Vec<_> = shares.map(|share| loss.objective.level_at(share)).collect();
            let indices = first as u64..(first + chosen.len()) as u64;
            let noise =
                source.normal(Domain::Validation, 0, indices, &description.image_shape, device)?;
            let images = self.pictures.images(&chosen, device)?;
            let batch = loss.objective.noisy_batch(&images, &noise, &levels)?;
            let classes: Vec<_> =
                chosen.iter().map(|i| self.pictures.label(*i).filter(|_| conditional)).collect();
            let output =
                in_pool(|| network.forward_classes(&batch.input, &batch.timesteps, &classes))?;
            sum += loss
                .per_image(&output, &batch)?
                .to_vec1::<f32>()?
                .into_iter()
                .map(f64::from)
                .sum::<f64>();
        }
        Ok(sum / count as f64)
    }
}
