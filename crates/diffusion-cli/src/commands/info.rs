//! `diffusion info`.

use std::path::PathBuf;
use std::process::ExitCode;

use candle_core::Device;
use diffusion_interop::SchedulerMethod;
use diffusion_model::{EdmConfig, ModelClass, ModelDescription, Objective};
use diffusion_nn::count_parameters;
use diffusion_process::PredictionType;
use diffusion_schedule::{NoiseSchedule, ScheduleConfig};
use diffusion_train::{Checkpoint, DEFAULT_PRESET, TrainConfig};
use diffusion_unet::NetworkConfig;

use super::quantity;
use crate::args::runs::{self, ModelArgs};

/// Describe this program and a model
///
/// Prints the version, the device and the number of threads, then the model: its classes with their
/// numbers of training pictures, network, number of parameters, prediction type and noise schedule.
/// Without --run, --checkpoint or --preset, it describes the newest run in runs/. If there
/// is none, it describes the default preset.
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  diffusion info\n  diffusion info --preset tutorial\n  \
                        diffusion info --checkpoint runs/mnist-1/checkpoints/step-0000100")]
pub(crate) struct InfoArgs {
    #[command(flatten)]
    model: ModelArgs,
    /// Describe the model that a preset trains: mnist, digits-attn, colour-32, cifar10 or tutorial
    #[arg(long, value_name = "NAME", conflicts_with_all = ["run", "checkpoint"])]
    preset: Option<String>,
}

pub(crate) fn run(args: &InfoArgs, device: &Device) -> anyhow::Result<ExitCode> {
    println!(
        "diffusion {}, {} with {} threads",
        env!("CARGO_PKG_VERSION"),
        crate::session::device::name(device),
        rayon::current_num_threads()
    );
    match (&args.preset, checkpoint(args)?) {
        (None, Some(path)) => {
            let state = Checkpoint::read_state(&path)?;
            println!("checkpoint       {}", path.display());
            println!("trained          {} steps in {:.0} s", state.step, state.elapsed_seconds);
            let objective = state.model.objective()?;
            let learned_variance = state.model.learned_variance();
            let ModelDescription { network, schedule, classes, image_shape: [c, h, w], .. } =
                state.model;
            println!("images           {w}×{h}, {}", quantity(c, "channel", "channels"));
            describe_classes(&classes);
            describe_network(&network)?;
            describe_objective(&objective, &schedule, learned_variance)?;
            if let Some(method) = SchedulerMethod::of_checkpoint(&path)? {
                println!("sampled by       {} of diffusers", method.scheduler.class().name());
            }
        }
        (preset, _) => {
            let name = preset.as_deref().unwrap_or(DEFAULT_PRESET);
            let config = TrainConfig::preset(name)?;
            println!("preset           {name}");
            describe_network(&config.network)?;
            describe_objective(&config.objective()?, &config.schedule, config.learned_variance)?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn checkpoint(args: &InfoArgs) -> anyhow::Result<Option<PathBuf>> {
    if args.preset.is_some() {
        return Ok(None);
    }
    match args.model.named()? {
        Some(path) => Ok(Some(path)),
        None => Ok(runs::latest().map(|run| run.latest_checkpoint()).transpose()?),
    }
}

/// Prints the first classes, with their numbers of training pictures if these are known.
fn describe_classes(classes: &[ModelClass]) {
    const SHOWN: usize = 20;
    let described = classes.iter().take(SHOWN).map(|class| match class.pictures {
        0 => class.name.clone(),
        pictures => format!("{} ({pictures})", class.name),
    });
    let described: Vec<String> = described.collect();
    if !described.is_empty() {
        let more = if classes.len() > SHOWN { ", …" } else { "" };
        println!("classes          {}: {}{more}", classes.len(), described.join(", "));
    }
}

fn describe_network(config: &NetworkConfig) -> anyhow::Result<()> {
    let parameters = count_parameters(|vb| config.build(vb))?;
    let json = serde_json::to_value(config)?;
    let fields: Vec<String> = json
        .as_object()
        .into_iter()
        .flatten()
        .filter(|(key, value)| *key != "kind" && !value.is_null())
        .map(|(key, value)| format!("{key} {value}"))
        .collect();
    println!(
        "network          {} ({})",
        json["kind"].as_str().unwrap_or_default(),
        fields.join(", ")
    );
    println!("parameters       {parameters}");
    Ok(())
}

fn describe_objective(
    objective: &Objective,
    schedule: &ScheduleConfig,
    learned_variance: bool,
) -> anyhow::Result<()> {
    println!("process          {}", objective.name());
    match objective {
        Objective::Diffusion { schedule: tables, prediction_type } => {
            println!("prediction_type  {}", serde_name(prediction_type)?);
            if learned_variance {
                println!("variance         learned");
            }
            describe_schedule(schedule, tables)
        }
        Objective::Flow => {
            println!("prediction_type  {}", serde_name(&PredictionType::Flow)?);
            Ok(())
        }
        Objective::Edm(EdmConfig { sigma_data, p_mean, p_std }) => {
            println!("noise levels     ln sigma ~ N({p_mean}, {p_std}²), sigma_data {sigma_data}");
            Ok(())
        }
    }
}

fn describe_schedule(config: &ScheduleConfig, schedule: &NoiseSchedule) -> anyhow::Result<()> {
    println!(
        "schedule         {}, {} steps, ends at {:.1} dB (alpha_cumprod {:.2e})",
        serde_name(&config.beta_schedule)?,
        schedule.len(),
        schedule.terminal_snr_db(),
        schedule.alphas_cumprod()[schedule.len() - 1]
    );
    Ok(())
}

/// The name of a unit variant in files.
fn serde_name(value: &impl serde::Serialize) -> anyhow::Result<String> {
    Ok(serde_json::to_value(value)?.as_str().unwrap_or_default().to_owned())
}
