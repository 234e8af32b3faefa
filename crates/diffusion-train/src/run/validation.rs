//! The validation loss, on pictures that are kept out of training.

use diffusion_data::{DataError, ImageDataset};
use diffusion_nn::load_frozen;
use diffusion_process::Network;
use diffusion_random::{Domain, NoiseSource};

use crate::{CheckpointFile, TrainError, Trainer};

/// The largest number of pictures. More would hardly make the loss more precise, and evaluating
/// them would take as long as training does.
const MAX_PICTURES: usize = 256;
/// The batch size of an evaluation.
const BATCH_SIZE: usize = 64;

/// Validation pictures, each with a fixed noise level and fixed noise.
///
/// Only the weights differ between two evaluations, so their losses can be compared.
#[derive(Debug)]
pub struct ValidationSet {
    pictures: ImageDataset,
}

impl ValidationSet {
    /// At most 256 of `pictures`, for the training of `trainer`.
    ///
    /// # Errors
    /// If the pictures have another shape than those of the training.
    pub fn new(pictures: &ImageDataset, trainer: &Trainer) -> Result<Self, TrainError> {
        let (expected, found) = (trainer.description().image_shape, pictures.image_shape());
        if found != expected {
            let problem = format!(
                "validation pictures have shape {found:?}, expected {expected:?} as in training"
            );
            return Err(DataError::Invalid(problem).into());
        }
        Ok(Self { pictures: pictures.limited(MAX_PICTURES)? })
    }

    /// The mean training loss of the EMA weights over the pictures. Their noise levels are spread
    /// evenly over the distribution of training.
    ///
    /// # Errors
    /// An error of the device.
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
        for first in (0..count).step_by(BATCH_SIZE) {
            let chosen: Vec<usize> = (first..count.min(first + BATCH_SIZE)).collect();
            let shares = chosen.iter().map(|i| (*i as f64 + 0.5) / count as f64);
            let levels: Vec<_> = shares.map(|share| loss.objective.level_at(share)).collect();
            let indices = first as u64..(first + chosen.len()) as u64;
            let noise =
                source.normal(Domain::Validation, 0, indices, &description.image_shape, device)?;
            let images = self.pictures.images(&chosen, device)?;
            let batch = loss.objective.noisy_batch(&images, &noise, &levels)?;
            let classes: Vec<_> =
                chosen.iter().map(|i| self.pictures.label(*i).filter(|_| conditional)).collect();
            let output = network.forward_classes(&batch.input, &batch.timesteps, &classes)?;
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
