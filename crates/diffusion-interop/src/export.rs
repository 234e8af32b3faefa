//! Writes a model folder for diffusers.

use std::path::Path;

use candle_core::Device;
use diffusion_files::{FileError, write_new_folder, write_synced};
use diffusion_nn::load_frozen;
use diffusion_process::PredictionType;
use diffusion_schedule::{ScheduleConfig, TimestepSpacing};
use diffusion_unet::{NetworkConfig, UNet2D, UNet2DConfig};
use serde_json::{Value, json};

use crate::folder::parse_object;
use crate::import::{LABELS, SCHEDULER_FILE};
use crate::weights::Tensors;
use crate::{InteropError, Scheduler, SchedulerClass, model_config};

/// The key and the value that mark the scheduler of a model that was not imported. diffusers keeps
/// them.
const WRITER_KEY: &str = "_written_by";
const WRITER: &str = "diffusion";

/// Whether a scheduler is the one that [`ExportedModel::write`] adds to models of this project. It
/// stands for the samplers of this project, which diffusers does not have. Someone who changed it
/// wants the changed one.
pub(crate) fn is_own_scheduler(text: &str, scheduler: &Scheduler) -> bool {
    let Ok(fields) = parse_object(text) else { return false };
    let c = scheduler.config();
    fields.get(WRITER_KEY).and_then(Value::as_str) == Some(WRITER)
        && scheduler.class() == SchedulerClass::Ddpm
        && c.timestep_spacing == Some(TimestepSpacing::Trailing)
        && c.clip_sample == Some(true)
        && c.clip_sample_range == Some(1.0)
        && !c.thresholding
        && c.variance_type.as_deref().is_some_and(|variance| variance != "fixed_large")
}

/// The version of diffusers whose format is written.
const VERSION: &str = "0.42.1";

/// A model to export.
#[derive(Clone, Copy, Debug)]
pub struct ExportedModel<'a> {
    /// The network.
    pub network: &'a NetworkConfig,
    /// The weights, by parameter name.
    pub weights: &'a Tensors,
    /// Shape of the images, `[C, H, W]`.
    pub image_shape: [usize; 3],
    /// The noise schedule of the training.
    pub schedule: &'a ScheduleConfig,
    /// What the network predicts.
    pub prediction_type: PredictionType,
    /// The names of the network's classes. Empty if it is unconditional.
    pub class_names: &'a [String],
    /// The text of the `scheduler_config.json` with which the model was imported; it is written
    /// unchanged. `None`: a `DDPMScheduler` that samples as this project does.
    pub scheduler: Option<&'a str>,
}

impl ExportedModel<'_> {
    /// Writes the folder `out` so that `DDPMPipeline.from_pretrained`, or the pipeline of the
    /// scheduler, loads it.
    ///
    /// # Errors
    /// - If `diffusers` does not have this network or prediction type.
    /// - If the weights do not match the network.
    /// - If `out` exists and is not empty.
    /// - An I/O error of the operating system.
    ///
    /// After an error no file is left.
    pub fn write(&self, out: &Path) -> Result<(), InteropError> {
        let network = UNet2DConfig { augmentation: false, ..self.exportable_network()?.clone() };
        // The layer of the augmentation adds nothing in sampling.
        let mut weights = self.weights.clone();
        weights.remove(NetworkConfig::AUGMENTATION);
        load_frozen(weights.clone(), &Device::Cpu, |vb| UNet2D::new(&network, vb))
            .map_err(|source| InteropError::Parameters { path: out.to_owned(), source })?;
        write_new_folder(out, |dir| self.write_files(dir, &network, &weights))
    }

    /// The network, if `UNet2DModel` and `DDPMScheduler` can represent the model.
    fn exportable_network(&self) -> Result<&UNet2DConfig, InteropError> {
        if self.prediction_type == PredictionType::Flow {
            let problem = "it predicts the velocity of a straight path (flow_prediction), which \
                           DDPMScheduler does not support";
            return Err(InteropError::NotExpressible(problem.to_owned()));
        }
        match self.network {
            NetworkConfig::Unet2d(network) if network.patch_size != 1 => {
                Err(InteropError::NotExpressible(format!(
                    "its network uses patches of {0}×{0} pixels (patch_size), which UNet2DModel \
                     does not support; train a network with patch_size 1 to export it",
                    network.patch_size
                )))
            }
            NetworkConfig::Unet2d(network) => Ok(network),
            NetworkConfig::SimpleUnet(_) => Err(InteropError::NotExpressible(
                "its network is a simple_unet, which has a 4×4 transposed convolution, one skip \
                 connection per level, and a 1×1 convolution at the end; UNet2DModel repeats \
                 pixels before a 3×3 convolution, has one skip connection per layer, and ends \
                 with a normalisation and a 3×3 convolution; train a network of kind unet2d to \
                 export it"
                    .to_owned(),
            )),
        }
    }

    fn write_files(
        &self,
        dir: &Path,
        network: &UNet2DConfig,
        weights: &Tensors,
    ) -> Result<(), InteropError> {
        let [_, height, width] = self.image_shape;
        let class = match self.scheduler {
            Some(text) => Scheduler::from_json(text)?.class(),
            None => SchedulerClass::Ddpm,
        };
        let mut index = json!({
            "_class_name": class.pipeline(),
            "_diffusers_version": VERSION,
            "scheduler": ["diffusers", class.name()],
            "unet": ["diffusers", model_config::CLASS],
        });
        if !self.class_names.is_empty() {
            let names = self.class_names.iter().enumerate();
            index[LABELS] = names.map(|(number, name)| (number.to_string(), json!(name))).collect();
        }
        write_json(&dir.join("model_index.json"), &index)?;

        let unet = dir.join("unet");
        std::fs::create_dir(&unet).map_err(FileError::io(&unet))?;
        write_json(
            &unet.join("config.json"),
            &model_config::write(network, [height, width], VERSION).into(),
        )?;
        let path = unet.join(crate::weights::FILE);
        // diffusers reads only files with this entry.
        let metadata = [("format".to_owned(), "pt".to_owned())].into();
        let bytes = safetensors::serialize(weights, Some(metadata))
            .map_err(|e| InteropError::unusable(&path, format!("cannot be written: {e}")))?;
        write_synced(&path, &bytes)?;

        let folder = dir.join("scheduler");
        std::fs::create_dir(&folder).map_err(FileError::io(&folder))?;
        let file = folder.join(SCHEDULER_FILE);
        match self.scheduler {
            Some(text) => Ok(write_synced(&file, text.as_bytes())?),
            None => write_json(&file, &self.own_scheduler(network)),
        }
    }

    /// The settings of a `DDPMScheduler` that samples as this project does: x̂₀ is clipped, and
    /// sampling starts at the last timestep of the training.
    fn own_scheduler(&self, network: &UNet2DConfig) -> Value {
        let learned = network.out_channels == 2 * network.in_channels;
        json!({
            "_class_name": SchedulerClass::Ddpm.name(),
            "_diffusers_version": VERSION,
            WRITER_KEY: WRITER,
            "num_train_timesteps": self.schedule.num_train_timesteps,
            "beta_start": self.schedule.beta_start,
            "beta_end": self.schedule.beta_end,
            "beta_schedule": self.schedule.beta_schedule,
            "trained_betas": null,
            "rescale_betas_zero_snr": self.schedule.rescale_betas_zero_snr,
            "prediction_type": self.prediction_type,
            "variance_type": if learned { "learned_range" } else { "fixed_small" },
            "timestep_spacing": TimestepSpacing::Trailing,
            "steps_offset": 0,
            "clip_sample": true,
            "clip_sample_range": 1.0,
            "thresholding": false,
            "dynamic_thresholding_ratio": 0.995,
            "sample_max_value": 1.0,
        })
    }
}

fn write_json(path: &Path, value: &Value) -> Result<(), InteropError> {
    let text = format!("{value:#}\n");
    Ok(write_synced(path, text.as_bytes())?)
}
