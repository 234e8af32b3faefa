//! `diffusion import`.

use std::path::PathBuf;
use std::process::ExitCode;

use diffusion_interop::{ImportedModel, OpenAiOptions, Scheduler, SchedulerClass, StepArguments};
use diffusion_model::{DATA_RANGE, ModelClass, ModelDescription};
use diffusion_process::Threshold;
use diffusion_schedule::TimestepSpacing;
use diffusion_train::RunDir;
use diffusion_unet::{NetworkConfig, TimeEmbeddingType};

use crate::args::{one_of, runs};
use crate::session::usage::bail_usage;

/// Make a run of a model that Python's diffusers saved: a UNet2DModel, alone or in a pipeline
///
/// The run can be sampled from, described, trained further by `train --init-from` and exported again. Its schedule and
/// prediction type are those of the folder's scheduler.
///
/// SRC may also be a state dict of OpenAI's improved-diffusion or guided-diffusion, trained over 1000 steps. It does not say
/// everything: --size and, for attention, --heads or --head-channels must.
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  diffusion import ddpm-cifar10-32 --run-dir runs/cifar10\n  \
                        diffusion import pipeline/unet --size 32 --run-dir runs/model\n  \
                        diffusion import cifar10_uncond.pt --size 32 --heads 4 --schedule cosine --run-dir runs/openai")]
pub(crate) struct ImportArgs {
    /// The folder with model_index.json, or with config.json and the weights; or a state dict of OpenAI's
    #[arg(value_name = "SRC")]
    source: PathBuf,
    /// The folder of the new run
    #[arg(long, value_name = "DIR")]
    run_dir: PathBuf,
    /// The height and width of the images [default: what the model's sample_size says]
    #[arg(long, value_name = "SIZE", value_parser = clap::value_parser!(u64).range(1..=4096))]
    size: Option<u64>,
    /// The schedule of an OpenAI model [default: linear]
    #[arg(long, value_name = "SCHEDULE", value_parser = one_of(&["linear", "cosine"], |name| name))]
    schedule: Option<&'static str>,
    /// The heads of an OpenAI model's attention
    #[arg(long, value_name = "N", conflicts_with = "head_channels", value_parser = clap::value_parser!(u64).range(1..=1024))]
    heads: Option<u64>,
    /// The width of each head of an OpenAI model's attention
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=4096))]
    head_channels: Option<u64>,
    /// The OpenAI model was trained with use_new_attention_order
    #[arg(long)]
    new_attention_order: bool,
}

fn read(args: &ImportArgs) -> anyhow::Result<ImportedModel> {
    let side = args.size.map(|side| side as usize);
    if !args.source.is_file() {
        let only = args.schedule.is_some() || args.heads.is_some() || args.head_channels.is_some();
        if only || args.new_attention_order {
            bail_usage!(
                "--schedule, --heads, --head-channels and --new-attention-order are for state dicts of OpenAI's only"
            );
        }
        return Ok(ImportedModel::read(&args.source, side)?);
    }
    let Some(side) = side else {
        bail_usage!(
            "{}: a state dict does not say the size of its images: give --size",
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
            "{} has no scheduler_config.json; taking DDPMScheduler's defaults: linear betas from 0.0001 to 0.02 in 1000 \
             steps, and a network that predicts epsilon",
            args.source.display()
        );
    }
    let fourier = model.network.time_embedding_type == TimeEmbeddingType::Fourier;
    if fourier {
        tracing::warn!(
            "this network takes ln(t), so that t = 0 must be left out: sample it in half as many steps as it has timesteps \
             at most, with the usual spacing"
        );
    }
    let network = NetworkConfig::Unet2d(model.network);
    let classes = classes(&network, model.class_names);
    let [channels, height, width] = model.image_shape;
    let weights = model.weights.len();
    let description = ModelDescription {
        network,
        classes,
        schedule: model.schedule,
        prediction_type: model.prediction_type,
        edm: None,
        image_shape: model.image_shape,
        data_range: DATA_RANGE,
    };
    RunDir::adopt(&args.run_dir, description, model.weights)?;
    let path = args.run_dir.display();
    println!(
        "imported {weights} tensors into {path}: images of {width}×{height}, {channels} channel(s)"
    );
    let flags = match &model.scheduler {
        Some(scheduler) => sampling_flags(scheduler),
        None if fourier => " --steps 100".to_owned(),
        None => String::new(),
    };
    println!("next: {} --run {path}{flags} --num 16 --out pictures", runs::program("sample"));
    Ok(ExitCode::SUCCESS)
}

/// What makes `diffusion sample` do as a scheduler does, as far as it can.
fn sampling_flags(scheduler: &Scheduler) -> String {
    let config = scheduler.config();
    let is = |value: &Option<String>, wanted: &str| value.as_deref() == Some(wanted);
    let (sampler, steps) = match scheduler.class() {
        SchedulerClass::Ddim => ("ddim", 50),
        SchedulerClass::DpmSolverMultistep if is(&config.algorithm_type, "sde-dpmsolver++") => {
            ("dpmpp-2m-sde", 20)
        }
        SchedulerClass::DpmSolverMultistep if is(&config.solver_type, "heun") => {
            ("dpmpp-2m-heun", 20)
        }
        SchedulerClass::DpmSolverMultistep => ("dpmpp-2m", 20),
        SchedulerClass::Euler => ("euler", 50),
        SchedulerClass::EulerAncestral => ("euler-ancestral", 50),
        SchedulerClass::Heun => ("heun", 25),
        SchedulerClass::UniPc => ("unipc", 20),
        SchedulerClass::Lms => ("lms", 50),
        SchedulerClass::Pndm => ("pndm", 50),
        SchedulerClass::Ddpm | SchedulerClass::EdmEuler | SchedulerClass::EdmDpmSolverMultistep => {
            ("ddpm", 1000)
        }
    };
    let steps = steps.min(scheduler.schedule_config().num_train_timesteps);
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

/// The classes of a network, by the names of its pipeline or by number.
fn classes(network: &NetworkConfig, names: Vec<String>) -> Vec<ModelClass> {
    if names.is_empty() {
        return ModelClass::numbered(network.classes());
    }
    names.into_iter().map(|name| ModelClass { name, pictures: 0 }).collect()
}
