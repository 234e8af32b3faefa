//! `diffusion import`.

use std::path::PathBuf;
use std::process::ExitCode;

use diffusion_interop::{ImportedModel, OpenAiOptions, Scheduler, SchedulerClass};
use diffusion_train::{DATA_RANGE, ModelDescription, RunDir};
use diffusion_unet::{NetworkConfig, TimeEmbeddingType};

use crate::runs;
use crate::usage::bail_usage;

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
    /// The schedule of an OpenAI model
    #[arg(long, value_name = "SCHEDULE", default_value = "linear")]
    schedule: Schedule,
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

#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Schedule {
    Linear,
    Cosine,
}

fn read(args: &ImportArgs) -> anyhow::Result<ImportedModel> {
    let side = args.size.map(|side| side as usize);
    if !args.source.is_file() {
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
    Ok(ImportedModel::read_openai(&args.source, side, args.schedule == Schedule::Cosine, &options)?)
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
    if model.network.time_embedding_type == TimeEmbeddingType::Fourier {
        tracing::warn!(
            "this network takes ln(t): sample it in fewer steps than all, so that t = 0 is left out"
        );
    }
    let [channels, height, width] = model.image_shape;
    let weights = model.weights.len();
    let description = ModelDescription {
        network: NetworkConfig::Unet2d(model.network),
        schedule: model.schedule,
        prediction_type: model.prediction_type,
        edm: None,
        image_shape: model.image_shape,
        data_range: DATA_RANGE,
    };
    RunDir::adopt(&args.run_dir, description, model.weights)?;
    let path = args.run_dir.display();
    println!("imported {weights} tensors into {path}: images of {width}×{height}, {channels} channel(s)");
    let flags = model.scheduler.as_ref().map_or_else(String::new, sampling_flags);
    println!("next: {} --run {path}{flags} --num 16 --out pictures", runs::program("sample"));
    Ok(ExitCode::SUCCESS)
}

/// What makes `diffusion sample` do as a scheduler does, as far as it can.
fn sampling_flags(scheduler: &Scheduler) -> String {
    let config = scheduler.config();
    let sampler = match scheduler.class() {
        SchedulerClass::Ddim => " --sampler ddim",
        SchedulerClass::DpmSolverMultistep => " --sampler dpmpp-2m --steps 20",
        SchedulerClass::Euler => " --sampler euler --steps 50",
        SchedulerClass::EulerAncestral => " --sampler euler-ancestral --steps 50",
        SchedulerClass::Heun => " --sampler heun --steps 25",
        SchedulerClass::UniPc => " --sampler unipc --steps 20",
        SchedulerClass::Lms => " --sampler lms --steps 50",
        SchedulerClass::Pndm => " --sampler pndm --steps 50",
        SchedulerClass::Ddpm | SchedulerClass::EdmEuler | SchedulerClass::EdmDpmSolverMultistep => "",
    };
    let large = config.variance_type.as_deref() == Some("fixed_large");
    let unclipped = config.clip_sample == Some(false);
    [sampler, if large { " --variance fixed-large" } else { "" }, if unclipped { " --no-clip" } else { "" }]
        .concat()
}
