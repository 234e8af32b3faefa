//! `diffusion import`.

use std::path::PathBuf;
use std::process::ExitCode;

use diffusion_interop::{
    ImportedModel, OpenAiOptions, Scheduler, SchedulerClass, StepArguments, Steps,
};
use diffusion_model::{DATA_RANGE, ModelClass, ModelDescription};
use diffusion_process::Threshold;
use diffusion_schedule::TimestepSpacing;
use diffusion_train::{AdoptedModel, RunDir};
use diffusion_unet::{NetworkConfig, TimeEmbeddingType};

use super::quantity;
use crate::args::numbers::whole;
use crate::args::{one_of, runs};
use crate::session::usage::bail_usage;

/// Import a model of Python's diffusers or of OpenAI as a new run
///
/// SRC is a folder that diffusers saved: a UNet2DModel, alone, in a pipeline, or in a training's
/// checkpoint beside its moving average (unet_ema). Its schedule and prediction type are those of
/// the folder's scheduler. The run keeps the scheduler: `sample` takes the same steps, and `export`
/// writes it unchanged. The run can also be described and trained further with `train --init-from`.
///
/// SRC may also be a state dict of OpenAI's improved-diffusion or guided-diffusion that was trained
/// with 1000 timesteps. A state dict contains neither the image size nor the attention heads: it
/// needs --size, and with attention --heads or --head-channels.
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  diffusion import ddpm-cifar10-32 --run-dir runs/cifar10\n  \
                        diffusion import pipeline/unet --size 32 --run-dir runs/model\n  \
                        diffusion import cifar10_uncond.pt --size 32 --heads 4 --schedule cosine --run-dir runs/openai")]
pub(crate) struct ImportArgs {
    /// Folder with model_index.json, or with config.json and the weights; or a state dict of OpenAI
    #[arg(value_name = "SRC")]
    source: PathBuf,
    /// Folder of the new run
    #[arg(long, value_name = "DIR")]
    run_dir: PathBuf,
    /// Height and width of the images in pixels, 1 to 4096 [default: sample_size in config.json]
    ///
    /// Required for a state dict of OpenAI.
    #[arg(long, value_name = "SIZE", value_parser = whole(1..=4096))]
    size: Option<u64>,
    /// Noise schedule of an OpenAI model [default: linear]
    #[arg(long, value_name = "SCHEDULE", value_parser = one_of(&["linear", "cosine"], |name| name))]
    schedule: Option<&'static str>,
    /// Number of attention heads of an OpenAI model (num_heads), 1 to 1024
    #[arg(long, value_name = "N", conflicts_with = "head_channels", value_parser = whole(1..=1024))]
    heads: Option<u64>,
    /// Number of channels of each attention head of an OpenAI model (num_head_channels), 1 to 4096
    #[arg(long, value_name = "N", value_parser = whole(1..=4096))]
    head_channels: Option<u64>,
    /// Read the attention weights of an OpenAI model in the order of use_new_attention_order
    ///
    /// Use it if the model was trained with that option.
    #[arg(long)]
    new_attention_order: bool,
}

fn read(args: &ImportArgs) -> anyhow::Result<ImportedModel> {
    let side = args.size.map(|side| side as usize);
    if !args.source.is_file() {
        let openai_only =
            args.schedule.is_some() || args.heads.is_some() || args.head_channels.is_some();
        if openai_only || args.new_attention_order {
            bail_usage!(
                "--schedule, --heads, --head-channels and --new-attention-order are for state dicts of \
                 OpenAI only"
            );
        }
        return Ok(ImportedModel::read(&args.source, side)?);
    }
    let Some(side) = side else {
        bail_usage!(
            "{}: a state dict does not contain the size of its images; --size is required",
            args.source.display()
        );
    };
    let options = OpenAiOptions {
        heads: args.heads.map(|heads| heads as usize),
        head_channels: args.head_channels.map(|channels| channels as usize),
        new_attention_order: args.new_attention_order,
    };
    Ok(ImportedModel::read_openai(&args.source, side, args.schedule == Some("cosine"), &options)?)
}

pub(crate) fn run(args: &ImportArgs) -> anyhow::Result<ExitCode> {
    let model = read(args)?;
    if model.scheduler.is_none() && args.source.is_dir() {
        tracing::warn!(
            "{} has no scheduler_config.json; using DDPMScheduler's defaults: linear betas from \
             0.0001 to 0.02 in 1000 steps, and prediction_type epsilon",
            args.source.display()
        );
    }
    let fourier = model.network.time_embedding_type == TimeEmbeddingType::Fourier;
    if fourier {
        tracing::warn!(
            "this network takes ln(t), so t = 0 must be left out: use at most half as many sampling \
             steps as timesteps, with the default --spacing"
        );
    }
    let network = NetworkConfig::Unet2d(model.network);
    let classes = classes(&network, model.class_names);
    let [channels, height, width] = model.image_shape;
    let timesteps = model.schedule.num_train_timesteps;
    let tensors = model.weights.len();
    if model.ema.is_some() {
        tracing::info!(
            "the moving average of the weights is in unet_ema; `sample` uses it by default"
        );
    }
    let description = ModelDescription {
        network,
        classes,
        schedule: model.schedule,
        prediction_type: model.prediction_type,
        edm: None,
        image_shape: model.image_shape,
        data_range: DATA_RANGE,
        guidance_scale: None,
    };
    let keeps_scheduler = model.scheduler_text.is_some();
    let (weights, ema, scheduler) = (model.weights, model.ema, model.scheduler_text);
    RunDir::adopt(&args.run_dir, AdoptedModel { description, weights, ema, scheduler })?;
    let path = runs::quoted(&args.run_dir);
    println!(
        "imported {tensors} tensors into {path}: images of {width}×{height}, {}",
        quantity(channels, "channel", "channels")
    );
    if let (Some(scheduler), true) = (&model.scheduler, keeps_scheduler) {
        println!(
            "sampled by its {} in {}; the most similar flags of `sample` are{}",
            scheduler.class().name(),
            quantity(scheduler.default_steps(), "step", "steps"),
            sampling_flags(scheduler)
        );
    }
    let flags = match &model.scheduler {
        _ if fourier => format!(" --sampler ddim --steps {}", (timesteps / 2).clamp(1, 100)),
        Some(scheduler) if scheduler.plan(&Steps::Count(scheduler.default_steps())).is_err() => {
            " --sampler ddim".to_owned()
        }
        _ => String::new(),
    };
    println!("next: {} --run {path}{flags} --num 16 --out pictures", runs::program("sample"));
    Ok(ExitCode::SUCCESS)
}

/// The flags with which the samplers of this project come closest to `scheduler`.
fn sampling_flags(scheduler: &Scheduler) -> String {
    let config = scheduler.config();
    let is = |value: &Option<String>, expected: &str| value.as_deref() == Some(expected);
    let sampler = match scheduler.class() {
        SchedulerClass::Ddim => "ddim",
        SchedulerClass::DpmSolverMultistep if is(&config.algorithm_type, "sde-dpmsolver++") => {
            "dpmpp-2m-sde"
        }
        SchedulerClass::DpmSolverMultistep if is(&config.solver_type, "heun") => "dpmpp-2m-heun",
        SchedulerClass::DpmSolverMultistep => "dpmpp-2m",
        SchedulerClass::Euler => "euler",
        SchedulerClass::EulerAncestral => "euler-ancestral",
        SchedulerClass::Heun => "heun",
        SchedulerClass::UniPc => "unipc",
        SchedulerClass::Lms => "lms",
        SchedulerClass::Pndm => "pndm",
        SchedulerClass::Ddpm | SchedulerClass::EdmEuler | SchedulerClass::EdmDpmSolverMultistep => {
            "ddpm"
        }
    };
    let steps = scheduler.default_steps();
    let spacing = match scheduler.spacing() {
        TimestepSpacing::Leading => "leading",
        TimestepSpacing::Linspace => "linspace",
        TimestepSpacing::Trailing => "trailing",
    };
    let mut flags = format!(" --sampler {sampler} --steps {steps} --spacing {spacing}");
    if config.use_karras_sigmas == Some(true) {
        flags += " --sigmas karras";
    }
    if is(&config.variance_type, "fixed_large") {
        flags += " --variance fixed-large";
    }
    match scheduler.threshold(&StepArguments::default()) {
        None => flags += " --no-clip",
        Some((Threshold::Dynamic { ratio, .. }, _)) => {
            flags += &[" --dynamic-threshold ", &ratio.to_string()].concat();
        }
        Some((Threshold::Clip { .. }, _)) => {}
    }
    flags
}

/// The classes of a network, with the names in its pipeline or numbered.
fn classes(network: &NetworkConfig, names: Vec<String>) -> Vec<ModelClass> {
    if names.is_empty() {
        return ModelClass::numbered(network.classes());
    }
    names.into_iter().map(|name| ModelClass { name, pictures: 0 }).collect()
}
