//! What `--data` means.

use std::path::{Path, PathBuf};

use diffusion_data::{ImageDataset, mnist};

use crate::usage::bail_usage;

/// 10,000 digits of MNIST's training set; `assets/mnist/README.md` says which, and under what licence.
const IMAGES: &[u8] = include_bytes!("../../../assets/mnist/train-10k-images-idx3-ubyte.gz");
const LABELS: &[u8] = include_bytes!("../../../assets/mnist/train-10k-labels-idx1-ubyte.gz");

/// Where `cargo xtask download NAME` puts things.
const DOWNLOADS: &str = "data";

/// Turns the argument into a path: as it is if that exists, else as the name of a downloaded set.
pub(crate) fn resolve(argument: &Path) -> anyhow::Result<PathBuf> {
    let downloaded = Path::new(DOWNLOADS).join(argument);
    if argument.exists() {
        Ok(std::path::absolute(argument)?)
    } else if downloaded.exists() {
        Ok(std::path::absolute(downloaded)?)
    } else {
        bail_usage!(
            "--data {}: there is no such file or folder; leave --data out for the digits that come with the program, \
             or fetch all of MNIST by `cargo xtask download mnist`",
            argument.display()
        )
    }
}

/// Reads the pictures at `path`, or the embedded digits.
pub(crate) fn load(path: Option<&Path>, size: Option<usize>) -> anyhow::Result<ImageDataset> {
    let dataset = match path {
        Some(path) => mnist::load_train(path)?,
        None => mnist::from_bytes(IMAGES, LABELS)?,
    };
    Ok(match size {
        Some(size) => dataset.resized(size)?,
        None => dataset,
    })
}

/// One line about a data set.
pub(crate) fn describe(path: Option<&Path>, dataset: &ImageDataset) -> String {
    let name = path.map_or_else(|| "the embedded digits".to_owned(), |path| path.display().to_string());
    let [channels, height, width] = dataset.image_shape();
    let colour = if channels == 1 { "grey" } else { "RGB" };
    format!("{} {colour} pictures of {width}×{height} from {name}", dataset.len())
}
