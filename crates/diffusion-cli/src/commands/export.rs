//! `diffusion export`.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::bail;
use candle_core::Device;
use diffusion_files::read_tensors;
use diffusion_interop::ExportedModel;
use diffusion_model::{ModelState, Weights};

use crate::args::one_of;
use crate::args::runs::ModelArgs;

/// Write a model as a folder that Python's diffusers loads by DDPMPipeline.from_pretrained
///
/// Networks of kind unet2d can be exported. The scheduler is a DDPMScheduler with the run's schedule.
#[derive(clap::Args)]
#[command(after_help = "Example:\n  diffusion export --run runs/digits-attn-1 --out digits-attn")]
pub(crate) struct ExportArgs {
    #[command(flatten)]
    model: ModelArgs,
    /// The weights: their moving average or those of the last step
    #[arg(long, value_name = "WEIGHTS", default_value = "ema", value_parser = one_of(&Weights::ALL, Weights::name))]
    weights: Weights,
    /// The new folder
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
}

pub(crate) fn run(args: &ExportArgs) -> anyhow::Result<ExitCode> {
    let checkpoint = args.model.checkpoint()?;
    let model = ModelState::read(&checkpoint)?.model;
    if model.edm.is_some() {
        bail!(
            "{}: it was trained with EDM's preconditioning, which DDPMPipeline does not know; nothing was written",
            checkpoint.display()
        );
    }
    let weights = read_tensors(&checkpoint.join(args.weights.file()), &Device::Cpu)?;
    let class_names: Vec<String> = model.classes.into_iter().map(|class| class.name).collect();
    let exported = ExportedModel {
        network: &model.network,
        weights: &weights,
        image_shape: model.image_shape,
        schedule: &model.schedule,
        prediction_type: model.prediction_type,
        class_names: &class_names,
    };
    exported.write(&args.out)?;
    let has_classes = !class_names.is_empty();
    if has_classes {
        tracing::warn!(
            "the network wants to be told classes; load it as UNet2DModel, DDPMPipeline tells none"
        );
    }
    let out = args.out.display();
    println!("exported {} to {out}", checkpoint.display());
    if !has_classes {
        let steps = model.schedule.num_train_timesteps;
        println!(
            "in Python: diffusers.DDPMPipeline.from_pretrained(\"{out}\")(num_inference_steps={steps})"
        );
    }
    Ok(ExitCode::SUCCESS)
}
