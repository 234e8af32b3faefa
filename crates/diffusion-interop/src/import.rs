//! Reads a model folder of diffusers, or a state dict of OpenAI.

use std::path::{Path, PathBuf};

use candle_core::Device;
use diffusion_nn::load_frozen;
use diffusion_process::PredictionType;
use diffusion_schedule::{BetaSchedule, ScheduleConfig};
use diffusion_unet::{UNet2D, UNet2DConfig};
use serde_json::Value;

use crate::export::is_own_scheduler;
use crate::folder::{read_object, read_text};
use crate::model_config::{self, CLASS, SampleSize};
use crate::openai::{OpenAiOptions, convert, is_openai};
use crate::weights::{self, Tensors};
use crate::{InteropError, Scheduler};

/// An imported network, and the noise schedule and prediction type of its training.
#[derive(Clone, Debug)]
pub struct ImportedModel {
    /// The network.
    pub network: UNet2DConfig,
    /// The weights as f32, under the parameter names of [`UNet2D`].
    pub weights: Tensors,
    /// The moving average of the weights, if the folder has one beside them (`unet_ema/`).
    pub ema: Option<Tensors>,
    /// Shape of the images, `[C, H, W]`.
    pub image_shape: [usize; 3],
    /// The noise schedule of the training.
    pub schedule: ScheduleConfig,
    /// What the network predicts.
    pub prediction_type: PredictionType,
    /// The names of the network's classes (`id2label` of the pipeline). Empty if the network is
    /// unconditional or its classes have no names.
    pub class_names: Vec<String>,
    /// The scheduler of the folder. `None`: there is no `scheduler_config.json`. Without it,
    /// schedule and prediction type of a folder are the defaults of `DDPMScheduler`.
    pub scheduler: Option<Scheduler>,
    /// The text of the scheduler's file. `None` also for the scheduler of a model that this project
    /// exported, which is sampled by the samplers of this project again.
    pub scheduler_text: Option<String>,
}

/// The largest height and width of images, in pixels. A larger number means a damaged file.
const MAX_SIDE: usize = 65_536;

/// The supported parts of a pipeline, which are also the names of their folders.
const UNET: &str = "unet";
/// The folder that trainings with `EMAModel` write beside `unet`.
const UNET_EMA: &str = "unet_ema";
const SCHEDULER: &str = "scheduler";
/// The file of a scheduler, in its own folder or that of a model.
pub(crate) const SCHEDULER_FILE: &str = "scheduler_config.json";
/// The key of the class names by number in a pipeline's `model_index.json`.
pub(crate) const LABELS: &str = "id2label";

impl ImportedModel {
    /// Reads the folder of a pipeline (`model_index.json`, `unet/`, `scheduler/`), of a training's
    /// checkpoint (`unet/`, `unet_ema/`) or of a model alone (`config.json`, the weights, and
    /// optionally `scheduler_config.json`). `side` is the height and width of the images in pixels;
    /// it replaces `sample_size` in the file. Configurations of old versions of `diffusers` are
    /// translated.
    ///
    /// # Errors
    /// - If the folder does not exist or holds no model.
    /// - If a file is damaged or too large.
    /// - If a setting, the scheduler or a part of the pipeline is not supported; the message names
    ///   it.
    /// - If the size of the images is missing or does not fit the network.
    /// - If a tensor is missing, left over, or has another shape than the network's parameter.
    /// - An I/O error of the operating system.
    pub fn read(folder: &Path, side: Option<usize>) -> Result<Self, InteropError> {
        if !folder.is_dir() {
            return Err(InteropError::unusable(folder, "there is no such folder"));
        }
        let index = folder.join("model_index.json");
        let class_names = if index.exists() { read_index(&index)? } else { Vec::new() };
        let model = part_folder(folder, UNET);
        let config = model.join("config.json");
        if !config.exists() {
            let mut problem =
                "this folder holds no model: there is neither unet/config.json nor config.json"
                    .to_owned();
            if folder.join(UNET_EMA).is_dir() {
                problem += "; to import the moving average, name the folder unet_ema in it";
            }
            return Err(InteropError::unusable(folder, problem));
        }
        let (mut network, size) = model_config::read(&read_object(&config)?)
            .map_err(|e| InteropError::unusable(&config, e))?;
        let rows = network.num_class_embeds.unwrap_or(0);
        if !class_names.is_empty() {
            // One row more than names: the last row stands for "no class", as in classifier-free
            // guidance.
            network.null_class = rows == class_names.len() + 1;
            if !network.null_class && rows != class_names.len() {
                let names = class_names.len();
                let problem = format!(
                    "`id2label` names {names} classes, but the network has {rows}; \
                     expected {names} or {}",
                    names + 1
                );
                return Err(InteropError::unusable(&index, problem));
            }
        }
        let image_shape = image_shape(&network, side.map(|side| [side, side]).or(size))
            .map_err(|e| InteropError::unusable(&config, e))?;
        let file = part_folder(folder, SCHEDULER).join(SCHEDULER_FILE);
        let (scheduler, scheduler_text) = if file.exists() {
            let (scheduler, text) = Scheduler::read(&file)?;
            if let Some(problem) = training_problem(&scheduler, &network) {
                return Err(InteropError::unusable(&file, problem));
            }
            let text = (!is_own_scheduler(&text, &scheduler)).then_some(text);
            (Some(scheduler), text)
        } else {
            (None, None)
        };
        let (schedule, prediction_type) = match &scheduler {
            Some(scheduler) => (scheduler.schedule_config(), scheduler.prediction_type()),
            None => (ScheduleConfig::default(), PredictionType::default()),
        };
        let weights = read_weights(&model, &network)?;
        let ema = folder.join(UNET_EMA);
        let has_ema = model != folder && ema.is_dir();
        let ema = has_ema.then(|| read_weights(&ema, &network)).transpose()?;
        Ok(Self {
            network,
            weights,
            ema,
            image_shape,
            schedule,
            prediction_type,
            class_names,
            scheduler,
            scheduler_text,
        })
    }
}

/// The weights of `network` in a folder.
fn read_weights(folder: &Path, network: &UNet2DConfig) -> Result<Tensors, InteropError> {
    let files = weights::find(folder)?;
    let weights = weights::read_all(&files)?;
    let path = if let [file] = files.as_slice() { file.clone() } else { folder.to_owned() };
    // Building the network finds tensors that are missing, left over or of another shape.
    load_frozen(weights.clone(), &Device::Cpu, |vb| UNet2D::new(network, vb))
        .map_err(|source| InteropError::Parameters { path, source })?;
    Ok(weights)
}

impl ImportedModel {
    /// Reads a state dict of OpenAI's improved-diffusion or guided-diffusion, trained to predict ε
    /// with 1000 timesteps of the `cosine` or the linear schedule on images of `side` × `side`
    /// pixels. With another number of timesteps, such a network gets rescaled timesteps, which a
    /// run cannot represent.
    ///
    /// # Errors
    /// - If the file is damaged, too large, or holds another network.
    /// - If `options` must give the attention heads and does not, or they do not fit the tensors.
    /// - If [`UNet2D`] does not support this variant of the network.
    /// - If `side` does not fit the network.
    /// - An I/O error of the operating system.
    pub fn read_openai(
        path: &Path,
        side: usize,
        cosine: bool,
        options: &OpenAiOptions,
    ) -> Result<Self, InteropError> {
        let tensors = weights::read(path)?;
        if !is_openai(&tensors) {
            let problem = "it has no tensor `input_blocks.0.0.weight`, so this is not a model of \
                           improved-diffusion or guided-diffusion; to import a model of \
                           diffusers, give its folder";
            return Err(InteropError::unusable(path, problem));
        }
        let (network, weights) =
            convert(&tensors, options).map_err(|e| InteropError::unusable(path, e))?;
        let image_shape = image_shape(&network, Some([side, side]))
            .map_err(|e| InteropError::unusable(path, e))?;
        load_frozen(weights.clone(), &Device::Cpu, |vb| UNet2D::new(&network, vb))
            .map_err(|source| InteropError::Parameters { path: path.to_owned(), source })?;
        let beta_schedule = if cosine { BetaSchedule::Cosine } else { BetaSchedule::Linear };
        let schedule = ScheduleConfig { beta_schedule, ..ScheduleConfig::default() };
        let prediction_type = PredictionType::Epsilon;
        let class_names = Vec::new();
        Ok(Self {
            network,
            weights,
            ema: None,
            image_shape,
            schedule,
            prediction_type,
            class_names,
            scheduler: None,
            scheduler_text: None,
        })
    }
}

/// The folder of a part. Early pipelines have all parts in one folder.
fn part_folder(folder: &Path, name: &str) -> PathBuf {
    let subfolder = folder.join(name);
    if subfolder.is_dir() { subfolder } else { folder.to_owned() }
}

/// Checks a pipeline's `model_index.json` and returns the names of the classes. Only pipelines of a
/// `UNet2DModel` and a scheduler are supported. Names in the file are compared, never opened as
/// paths.
fn read_index(path: &Path) -> Result<Vec<String>, InteropError> {
    let error = |problem: String| Err(InteropError::unusable(path, problem));
    let mut parts = read_object(path)?;
    let class_names = match parts.remove(LABELS) {
        Some(labels) => class_names(&labels).map_err(|e| InteropError::unusable(path, e))?,
        None => Vec::new(),
    };
    for (name, value) in parts.iter().filter(|(name, _)| !name.starts_with('_')) {
        let mut components = Path::new(name).components();
        let is_plain = matches!(components.next(), Some(std::path::Component::Normal(_)))
            && components.next().is_none();
        if !is_plain || name.contains(['/', '\\']) {
            return error(format!("`{name}` is not the plain name of a folder"));
        }
        let class = value.as_array().and_then(|pair| pair.get(1)).and_then(Value::as_str);
        match (name.as_str(), class) {
            (UNET, Some(CLASS)) | (SCHEDULER, Some(_)) => {}
            (UNET, _) => {
                return error(format!("`{UNET}` is {value}; only a {CLASS} can be imported"));
            }
            _ => return error(format!("`{name}` is a part of pipelines that are not supported")),
        }
    }
    if parts.contains_key(UNET) {
        Ok(class_names)
    } else {
        error(format!("this pipeline has no `{UNET}`"))
    }
}

fn image_shape(network: &UNet2DConfig, size: SampleSize) -> Result<[usize; 3], String> {
    let Some([height, width]) = size else {
        return Err(
            "`sample_size` is not given; specify the height and width of the images".to_owned()
        );
    };
    let multiple = network.size_multiple();
    let fits = |side: usize| (1..=MAX_SIDE).contains(&side) && side.is_multiple_of(multiple);
    if !fits(height) || !fits(width) {
        return Err(format!(
            "the images are {height}×{width}; both sides must be multiples of {multiple} up to \
             {MAX_SIDE}"
        ));
    }
    Ok([network.in_channels, height, width])
}

impl Scheduler {
    /// Reads the scheduler at `path`: a `scheduler_config.json`, or the folder of a scheduler, a
    /// model or a pipeline. Also returns the text of the file.
    ///
    /// # Errors
    /// If the file is missing, too large, a pointer of Git LFS, or not a JSON object. If the class
    /// or a setting is not supported; the message names it.
    pub fn read(path: &Path) -> Result<(Self, String), InteropError> {
        let file = if path.is_dir() {
            part_folder(path, SCHEDULER).join(SCHEDULER_FILE)
        } else {
            path.to_owned()
        };
        let text = read_text(&file)?;
        let scheduler = Self::from_json(&text).map_err(|e| InteropError::unusable(&file, e))?;
        Ok((scheduler, text))
    }
}

/// Why a run cannot represent the training of a scheduler's model; `None` if it can.
fn training_problem(scheduler: &Scheduler, network: &UNet2DConfig) -> Option<String> {
    let (class, config) = (scheduler.class(), scheduler.config());
    if class.is_edm() {
        return Some(format!(
            "{} is for networks of Karras et al. 2022, which are trained on noise levels, not on \
             timesteps; a run cannot hold such a model",
            class.name()
        ));
    }
    if config.trained_betas.is_some() {
        return Some(
            "`trained_betas` is a table; a run needs a schedule with a formula (beta_schedule)"
                .to_owned(),
        );
    }
    if config.rescale_betas_zero_snr && scheduler.prediction_type() == PredictionType::Epsilon {
        return Some(
            "`rescale_betas_zero_snr` is true and `prediction_type` is epsilon; the last timestep \
             is pure noise then, from which a predicted ε gives no image (Lin et al. 2024); set \
             one of them to what the model was trained with"
                .to_owned(),
        );
    }
    let learned = config.variance_type.as_deref() == Some("learned_range");
    if learned && network.out_channels != 2 * network.in_channels {
        return Some(format!(
            "`variance_type` is learned_range, but the network has {} output channels; a learned \
             variance needs {}",
            network.out_channels,
            2 * network.in_channels
        ));
    }
    scheduler.schedule().err().map(|e| e.to_string())
}

/// The class names in the order of their numbers, which must be 0, 1, 2 and so on.
fn class_names(labels: &Value) -> Result<Vec<String>, String> {
    let error =
        || format!("`{LABELS}` must map the class numbers, from 0 on without gaps, to names");
    let labels = labels.as_object().ok_or_else(error)?;
    let name =
        |number: usize| labels.get(&number.to_string()).and_then(Value::as_str).map(str::to_owned);
    (0..labels.len()).map(name).collect::<Option<_>>().ok_or_else(error)
}
