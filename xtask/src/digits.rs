//! `cargo xtask digits`: writes the MNIST digits that ship with the program.

use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};
use diffusion_data::{ImageDataset, idx, mnist};

/// How many digits of each class ship.
const PER_CLASS: usize = 1000;

#[derive(clap::Args)]
pub(crate) struct DigitsArgs {
    /// Folder with MNIST's files, as written by `cargo xtask download mnist`
    #[arg(long, default_value = "data/mnist")]
    from: PathBuf,
}

/// All 60,000 training digits of MNIST, read from the folder `from`.
pub(crate) fn training_digits(from: &Path) -> anyhow::Result<ImageDataset> {
    ensure!(
        from.is_dir(),
        "--from {}: no such folder; `cargo xtask download mnist` creates data/mnist",
        from.display()
    );
    Ok(mnist::load_train(from)?)
}

/// Writes the first [`PER_CLASS`] training digits of each class to assets/mnist, in the order of
/// MNIST's file.
pub(crate) fn run(args: &DigitsArgs) -> anyhow::Result<()> {
    let out = crate::cargo::workspace_root().join("assets/mnist");
    let dataset = training_digits(&args.from)?;
    let (images, labels) = mnist::class_balanced_subset(&dataset, PER_CLASS)?;
    for (name, array) in
        [("train-10k-images-idx3-ubyte.gz", images), ("train-10k-labels-idx1-ubyte.gz", labels)]
    {
        let path = out.join(name);
        std::fs::write(&path, idx::to_gzipped_bytes(&array))
            .with_context(|| path.display().to_string())?;
        println!("{}: {:?}", path.display(), array.dims);
    }
    Ok(())
}
