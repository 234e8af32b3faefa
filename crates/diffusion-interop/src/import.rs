//! A model folder of the library, read.

use std::path::{Path, PathBuf};

use candle_core::Device;
use diffusion_nn::load_frozen;
use diffusion_process::PredictionType;
use diffusion_schedule::{BetaSchedule, ScheduleConfig};
use diffusion_unet::{UNet2D, UNet2DConfig};
use serde_json::Value;

use crate::folder::read_object;
use crate::model_config::{self, CLASS, SampleSize};
use crate::openai::{OpenAiOptions, converted, is_openai};
use crate::weights::{self, Tensors};
use crate::{InteropError, Scheduler};

/// A `UNet2DModel` and what its scheduler says of its training.
#[derive(Clone, Debug)]
pub struct ImportedModel {
    /// The network.
    pub network: UNet2DConfig,
    /// Its weights, f32, under the names that [`UNet2D`] asks for.
    pub weights: Tensors,
    /// [C, H, W] of the images.
    pub image_shape: [usize; 3],
    /// The schedule of training.
    pub schedule: ScheduleConfig,
    /// What the network's output means.
    pub prediction_type: PredictionType,
    /// The names of the classes that the network knows, `id2label` of the pipeline; none where it knows no classes, or nobody
    /// named them.
    pub class_names: Vec<String>,
    /// The folder's scheduler. None: there is no `scheduler_config.json`, and schedule and prediction type are the
    /// defaults of `DDPMScheduler`.
    pub scheduler: Option<Scheduler>,
}

/// A larger side is a damaged file.
const MAX_SIDE: usize = 65_536;

/// The parts of a pipeline that can be taken over, and the folder of each.
const UNET: &str = "unet";
const SCHEDULER: &str = "scheduler";
/// The names of classes by their number, as pipelines with classes have them.
pub(crate) const LABELS: &str = "id2label";

impl ImportedModel {
    /// Reads a pipeline (`model_index.json`, `unet/`, `scheduler/`) or a model alone (`config.json` and its weights, with
    /// `scheduler_config.json` beside them if there is one). `side` is the height and width of the images in place of the
    /// file's `sample_size`.
    ///
    /// # Errors
    /// A folder that holds neither; files that are damaged or too large; a setting, a scheduler or a tensor that this
    /// project has no form for, by name.
    pub fn read(folder: &Path, side: Option<usize>) -> Result<Self, InteropError> {
        if !folder.is_dir() {
            return Err(InteropError::unusable(folder, "there is no such folder"));
        }
        let index = folder.join("model_index.json");
        let class_names = if index.exists() { check_index(&index)? } else { Vec::new() };
        let model = part(folder, UNET);
        let config = model.join("config.json");
        if !config.exists() {
            let problem =
                "this folder holds no model: there is neither unet/config.json nor config.json";
            return Err(InteropError::unusable(folder, problem));
        }
        let (mut network, size) = model_config::read(&read_object(&config)?)
            .map_err(|e| InteropError::unusable(&config, e))?;
        let rows = network.num_class_embeds.unwrap_or(0);
        if !class_names.is_empty() {
            // A row more than there are names stands for no class, as this project and guidance elsewhere have it.
            network.null_class = rows == class_names.len() + 1;
            if !network.null_class && rows != class_names.len() {
                let problem = format!(
                    "`id2label` names {} classes, and the network knows {rows}",
                    class_names.len()
                );
                return Err(InteropError::unusable(&index, problem));
            }
        }
        let image_shape = image_shape(&network, side.map(|side| [side, side]).or(size))
            .map_err(|e| InteropError::unusable(&config, e))?;
        let scheduler = read_scheduler(&part(folder, SCHEDULER).join("scheduler_config.json"))?;
        let (schedule, prediction_type) = match &scheduler {
            Some(scheduler) => (scheduler.schedule_config(), scheduler.prediction_type()),
            None => (ScheduleConfig::default(), PredictionType::default()),
        };
        let path = weights::find(&model)?;
        let weights = weights::read(&path)?;
        // Building it once finds what is missing, left over or of another shape.
        load_frozen(weights.clone(), &Device::Cpu, |vb| UNet2D::new(&network, vb))
            .map_err(|source| InteropError::Parameters { path, source })?;
        Ok(Self {
            network,
            weights,
            image_shape,
            schedule,
            prediction_type,
            class_names,
            scheduler,
        })
    }
}

impl ImportedModel {
    /// Reads a state dict of OpenAI's improved-diffusion or guided-diffusion, trained to predict ε over 1000 steps of the
    /// `cosine` or the linear schedule on images of `side` × `side`. With other numbers of steps that network is told
    /// rescaled timesteps, which a run cannot say.
    ///
    /// # Errors
    /// A file that is damaged, too large or of another network; what the options must say and do not; a variant that our
    /// network has no form for.
    pub fn read_openai(
        path: &Path,
        side: usize,
        cosine: bool,
        options: &OpenAiOptions,
    ) -> Result<Self, InteropError> {
        let tensors = weights::read(path)?;
        if !is_openai(&tensors) {
            let problem = "it has no tensor `input_blocks.0.0.weight`, so it is no network of improved-diffusion or \
                           guided-diffusion; models of diffusers are imported by their folder";
            return Err(InteropError::unusable(path, problem));
        }
        let (network, weights) =
            converted(&tensors, options).map_err(|e| InteropError::unusable(path, e))?;
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
            image_shape,
            schedule,
            prediction_type,
            class_names,
            scheduler: None,
        })
    }
}

/// The folder of a part: early pipelines have all parts in one folder.
fn part(folder: &Path, name: &str) -> PathBuf {
    let own = folder.join(name);
    if own.is_dir() { own } else { folder.to_owned() }
}

/// The names of the classes. Refuses pipelines of anything but a `UNet2DModel` and a scheduler. The names in the file are compared,
/// never opened.
fn check_index(path: &Path) -> Result<Vec<String>, InteropError> {
    let refuse = |problem: String| Err(InteropError::unusable(path, problem));
    let mut parts = read_object(path)?;
    let class_names = match parts.remove(LABELS) {
        Some(labels) => class_names(&labels).map_err(|e| InteropError::unusable(path, e))?,
        None => Vec::new(),
    };
    for (name, value) in parts.iter().filter(|(name, _)| !name.starts_with('_')) {
        let mut of_name = Path::new(name).components();
        let is_plain = matches!(of_name.next(), Some(std::path::Component::Normal(_)))
            && of_name.next().is_none();
        if !is_plain || name.contains(['/', '\\']) {
            return refuse(format!("`{name}` is not the plain name of a folder"));
        }
        let class = value.as_array().and_then(|pair| pair.get(1)).and_then(Value::as_str);
        match (name.as_str(), class) {
            (UNET, Some(CLASS)) | (SCHEDULER, Some(_)) => {}
            (UNET, _) => {
                return refuse(format!("`{UNET}` is {value}; only a {CLASS} can be imported"));
            }
            _ => return refuse(format!("`{name}` is a part of pipelines that are not supported")),
        }
    }
    if parts.contains_key(UNET) {
        Ok(class_names)
    } else {
        refuse(format!("this pipeline has no `{UNET}`"))
    }
}

fn image_shape(network: &UNet2DConfig, size: SampleSize) -> Result<[usize; 3], String> {
    let Some([height, width]) = size else {
        return Err("`sample_size` is not given; say the height and width of the images".to_owned());
    };
    let multiple = network.size_multiple();
    let fits = |side: usize| (1..=MAX_SIDE).contains(&side) && side.is_multiple_of(multiple);
    if !fits(height) || !fits(width) {
        return Err(format!(
            "the images are {height}×{width}; both sides must be multiples of {multiple} up to {MAX_SIDE}"
        ));
    }
    Ok([network.in_channels, height, width])
}

fn read_scheduler(path: &Path) -> Result<Option<Scheduler>, InteropError> {
    if !path.exists() {
        return Ok(None);
    }
    let mut fields = read_object(path)?;
    // Notes of the library to itself, and a setting of its first versions.
    fields.retain(|key, value| {
        let is_note = key.starts_with('_') && key != "_class_name";
        let is_obsolete = key == "timestep_values" && value.is_null();
        !is_note && !is_obsolete
    });
    let scheduler = Scheduler::from_json(&Value::Object(fields).to_string())
        .map_err(|e| InteropError::unusable(path, e))?;
    match training_problem(&scheduler) {
        Some(problem) => Err(InteropError::unusable(path, problem)),
        None => Ok(Some(scheduler)),
    }
}

/// Why the training that belongs to a scheduler has no form here.
fn training_problem(scheduler: &Scheduler) -> Option<String> {
    let class = scheduler.class();
    if class.is_edm() {
        return Some(format!(
            "{} samples networks of Karras et al. 2022, which were trained on noise levels and not on timesteps; a run \
             cannot hold such a model",
            class.name()
        ));
    }
    if scheduler.config().trained_betas.is_some() {
        return Some(
            "`trained_betas` is a table; a run holds a schedule by its formula, beta_schedule"
                .to_owned(),
        );
    }
    scheduler.schedule().err().map(|e| e.to_string())
}

/// The names, in the order of their numbers, which are 0 to the last.
fn class_names(labels: &Value) -> Result<Vec<String>, String> {
    let wrong = || format!("`{LABELS}` is no table of the names of classes 0 to the last");
    let labels = labels.as_object().ok_or_else(wrong)?;
    let name =
        |number: usize| labels.get(&number.to_string()).and_then(Value::as_str).map(str::to_owned);
    (0..labels.len()).map(name).collect::<Option<_>>().ok_or_else(wrong)
}
