//! `diffusion export`.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::bail;
use candle_core::Device;
use diffusion_files::read_tensors;
use diffusion_interop::{ExportedModel, Scheduler};
use diffusion_model::{ModelState, Weights};

use crate::args::one_of;
use crate::args::runs::ModelArgs;

/// Export a model as a folder that Python's diffusers loads with DDPMPipeline.from_pretrained
///
/// Only networks of kind unet2d can be exported. The folder contains the scheduler with which the
/// run was imported, unchanged, or else a DDPMScheduler with its schedule and prediction type.
/// A class-conditional network must be loaded as a UNet2DModel, because DDPMPipeline passes no
/// classes. Models with EDM preconditioning cannot be exported.
#[derive(clap::Args)]
#[command(after_help = "Example:\n  diffusion export --run runs/digits-attn-1 --out digits-attn")]
pub(crate) struct ExportArgs {
    #[command(flatten)]
    model: ModelArgs,
    /// Weights of the checkpoint: their moving average (ema) or those of the last training step
    /// (raw)
    #[arg(long, value_name = "WEIGHTS", default_value = "ema", value_parser = one_of(&Weights::ALL, Weights::name))]
    weights: Weights,
    /// Output folder, new or empty
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
}

pub(crate) fn run(args: &ExportArgs) -> anyhow::Result<ExitCode> {
    let checkpoint = args.model.checkpoint()?;
    let model = ModelState::read(&checkpoint)?.model;
    if model.edm.is_some() {
        bail!(
            "{}: the model was trained with EDM's preconditioning, which DDPMPipeline does not \
             support; nothing was written",
            checkpoint.display()
        );
    }
    let weights = read_tensors(&checkpoint.join(args.weights.file()), &Device::Cpu)?;
    let class_names: Vec<String> = model.classes.into_iter().map(|class| class.name).collect();
    let file = checkpoint.join(ModelState::SCHEDULER);
    let scheduler = if file.is_file() { Some(Scheduler::read(&file)?.1) } else { None };
    let exported = ExportedModel {
        network: &model.network,
        weights: &weights,
        image_shape: model.image_shape,
        schedule: &model.schedule,
        prediction_type: model.prediction_type,
        class_names: &class_names,
        scheduler: scheduler.as_deref(),
    };
    exported.write(&args.out)?;
    let has_classes = !class_names.is_empty();
    if has_classes {
        tracing::warn!(
            "the network is class-conditional; load it as UNet2DModel, because DDPMPipeline passes \
             no classes"
        );
    }
    let out = args.out.display();
    println!("exported {} to {out}", checkpoint.display());
    if !has_classes {
        let (pipeline, steps) = match &scheduler {
            Some(text) => {
                let scheduler = Scheduler::from_json(text)?;
                (scheduler.class().pipeline(), scheduler.default_steps())
            }
            None => ("DDPMPipeline", model.schedule.num_train_timesteps),
        };
        println!(
            "in Python: diffusers.{pipeline}.from_pretrained(\"{out}\")(num_inference_steps={steps})"
        );
    }
    Ok(ExitCode::SUCCESS)
}
