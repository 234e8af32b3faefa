//! `cargo xtask train-judge`: trains the classifier whose features are used to judge digits.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use candle_core::{DType, Device};
use diffusion_data::{ImageDataset, mnist};
use diffusion_eval::{Judge, JudgeDescription, JudgeNetworkConfig, Reference};
use diffusion_train::{JudgeTraining, judge_accuracy, train_judge};

use crate::cargo::workspace_root;
use crate::digits::training_digits;

/// Train the digit classifier of `diffusion evaluate samples`: assets/digit-judge.safetensors.
///
/// It learns from all 60,000 training digits of MNIST. The test digits give its accuracy and the
/// reference set. With --for-search, it learns from five sixths of the training digits, chosen by a
/// hash, and the other sixth is the reference set. Recipes are chosen with that judge, so that the
/// shipped judge and the test digits have no part in the choice.
#[derive(clap::Args)]
pub(crate) struct TrainJudgeArgs {
    /// Folder with MNIST's files, as written by `cargo xtask download mnist`
    #[arg(long, value_name = "DIR", default_value = "data/mnist")]
    from: PathBuf,
    /// Train the judge of the recipe search
    #[arg(long)]
    for_search: bool,
    /// Epochs of the training
    #[arg(long, value_name = "N", default_value = "8", value_parser = clap::value_parser!(u64).range(1..))]
    epochs: u64,
    /// Write the judge to this file [default: assets/digit-judge.safetensors, or
    /// target/recipe/judge.safetensors with --for-search]
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

/// The batch size.
const BATCH: usize = 128;

/// The path of the recipe search's judge in the workspace.
pub(crate) const SEARCH_JUDGE: &str = "target/recipe/judge.safetensors";

pub(crate) fn run(args: &TrainJudgeArgs) -> Result<()> {
    let default = if args.for_search { SEARCH_JUDGE } else { "assets/digit-judge.safetensors" };
    let out = args.out.clone().unwrap_or_else(|| workspace_root().join(default));
    train(&args.from, args.for_search, args.epochs, &out)
}

/// The judge and its reference images.
pub(crate) fn with_reference(judge: Judge) -> Result<(Judge, Reference)> {
    let reference = judge.reference().cloned().context("the judge has no reference images")?;
    Ok((judge, reference))
}

/// The training digits and the reference digits, with the name of the latter.
fn digits(from: &Path, for_search: bool) -> Result<(ImageDataset, ImageDataset, String)> {
    let train = training_digits(from)?;
    if !for_search {
        return Ok((train, mnist::load_test(from)?, "10,000 test digits of MNIST".to_owned()));
    }
    // A sixth, chosen by a hash: about 10,000 digits.
    let (train, reference) = train.split(1.0 / 6.0)?;
    let name = format!("{} training digits of MNIST", reference.len());
    Ok((train, reference, name))
}

fn train(from: &Path, for_search: bool, epochs: u64, out: &Path) -> Result<()> {
    let (train, reference, reference_name) = digits(from, for_search)?;
    let network = JudgeNetworkConfig::of_digits();
    ensure!(
        train.image_shape() == network.image_shape,
        "{}: expected grey images of 28×28 pixels",
        from.display()
    );
    println!("{} training digits, {} reference digits", train.len(), reference.len());
    let steps = train.len() / BATCH;
    let config = JudgeTraining {
        network: Some(network),
        batch_size: BATCH,
        steps: Some(epochs * steps as u64),
        max_minutes: None,
        seed: u64::from(for_search),
        ..JudgeTraining::default()
    };
    let device = Device::Cpu;
    let judge = train_judge(&config, "digits", &train, None, &device, &mut |step| {
        if step.step.is_multiple_of(steps as u64) {
            println!("epoch {}: loss {:.4}", step.step / steps as u64, step.loss);
        }
        ControlFlow::Continue(())
    })?;
    // The file has the weights in half precision, and the features of the rounded network.
    let rounded = judge.weights().into_iter();
    let rounded = rounded.map(|(name, weight)| Ok((name, weight.to_dtype(DType::F16)?)));
    let rounded = rounded.collect::<candle_core::Result<BTreeMap<_, _>>>()?;
    let mut description = JudgeDescription {
        name: if for_search { "judge of the search" } else { "digit judge" }.to_owned(),
        held_out: reference.len(),
        ..judge.description().clone()
    };
    let build = |description: &JudgeDescription| {
        Judge::new(description.clone(), rounded.clone(), out, &device)
    };
    let accuracy = judge_accuracy(&build(&description)?, &reference, &device)?;
    println!("accuracy on {} reference digits: {:.2} %", reference.len(), accuracy * 100.0);
    description.accuracy = Some(accuracy);
    let judge = build(&description)?;
    let all: Vec<usize> = (0..reference.len()).collect();
    let features = judge.judge(&reference.images(&all, &device)?)?.features;
    if let Some(folder) = out.parent() {
        std::fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
    }
    judge.with_reference(&reference_name, &features)?.write(out)?;
    Judge::read(out, &device)?;
    println!("{}: {} bytes", out.display(), std::fs::metadata(out)?.len());
    Ok(())
}
