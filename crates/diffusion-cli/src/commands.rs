//! One file a command.

pub(crate) mod data;
pub(crate) mod edit;
pub(crate) mod evaluate;
pub(crate) mod export;
pub(crate) mod import;
pub(crate) mod info;
pub(crate) mod model;
pub(crate) mod sample;
pub(crate) mod schedule;
pub(crate) mod train;
pub(crate) mod train_classifier;

use std::path::{Path, PathBuf};

use anyhow::Context;
use diffusion_schedule::NoiseSchedule;

/// Sampling starts from pure noise, so the last step of training should be nearly that.
const TERMINAL_SNR_LIMIT_DB: f64 = -30.0;

/// Warns of a schedule that stops short of noise.
fn warn_of_terminal_snr(schedule: &NoiseSchedule) {
    let db = schedule.terminal_snr_db();
    if db > TERMINAL_SNR_LIMIT_DB {
        tracing::warn!(
            "the schedule ends at a signal-to-noise ratio of {db:.1} dB (alpha_cumprod {:.3}), but sampling starts from \
             pure noise, which the model never sees; raise beta_end to {:.3} (1000/T times DDPM's), or set \
             rescale_betas_zero_snr with prediction_type v_prediction",
            schedule.alphas_cumprod()[schedule.len() - 1],
            0.02 * 1000.0 / schedule.len() as f64,
        );
    }
}

/// Bytes as KiB or MiB.
fn bytes(count: usize) -> String {
    const KIB: f64 = 1024.0;
    match count as f64 {
        b if b < KIB * KIB => format!("{:.1} KiB", b / KIB),
        b if b < KIB * KIB * KIB => format!("{:.2} MiB", b / KIB / KIB),
        b => format!("{:.2} GiB", b / KIB / KIB / KIB),
    }
}

fn make_folder(path: &Path) -> anyhow::Result<()> {
    std::fs::create_dir_all(path)
        .with_context(|| format!("cannot make the folder {}", path.display()))
}

/// The number of a generated image by its file's name, as 7 of 000007.png.
fn image_number(path: &Path) -> Option<usize> {
    let number = path.file_name()?.to_str()?.strip_suffix(".png")?;
    (number.len() >= 6).then(|| number.parse().ok())?
}

/// Says where images of an earlier call lie in `out` that those of this one do not replace: in each of `folders`, those with a number of as
/// many as come there or more.
fn warn_of_images_beyond(out: &Path, folders: &[(PathBuf, usize)]) -> anyhow::Result<()> {
    let mut others = 0;
    for (folder, images) in folders.iter().filter(|(folder, _)| folder.is_dir()) {
        let entries = std::fs::read_dir(folder).with_context(|| folder.display().to_string())?;
        let numbers = entries.filter_map(|entry| image_number(&entry.ok()?.path()));
        others += numbers.filter(|number| number >= images).count();
    }
    if others > 0 {
        tracing::warn!(
            "{} holds {others} other images from before, which stay there",
            out.display()
        );
    }
    Ok(())
}
