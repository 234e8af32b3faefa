//! The commands, one file each.

pub(crate) mod data;
pub(crate) mod edit;
pub(crate) mod evaluate;
pub(crate) mod export;
mod fit;
pub(crate) mod import;
pub(crate) mod info;
pub(crate) mod manual;
pub(crate) mod model;
pub(crate) mod sample;
pub(crate) mod schedule;
pub(crate) mod train;
pub(crate) mod train_classifier;
pub(crate) mod train_judge;

use std::path::{Path, PathBuf};

use anyhow::Context;
use diffusion_schedule::NoiseSchedule;

/// The signal-to-noise ratio of the last timestep should be at most this: sampling starts from pure
/// noise.
const TERMINAL_SNR_LIMIT_DB: f64 = -30.0;

/// Warns if the last timestep of `schedule` is not close to pure noise.
fn warn_of_terminal_snr(schedule: &NoiseSchedule) {
    let db = schedule.terminal_snr_db();
    if db > TERMINAL_SNR_LIMIT_DB {
        let beta_end = 0.02 * 1000.0 / schedule.len() as f64;
        let advice = if beta_end < 1.0 {
            format!("raise beta_end to {beta_end:.3} (1000/T times DDPM's 0.02)")
        } else {
            "choose beta_schedule squaredcos_cap_v2".to_owned()
        };
        tracing::warn!(
            "the schedule ends at a signal-to-noise ratio of {db:.1} dB (alpha_cumprod {:.3}), but \
             sampling starts from pure noise, which the model never sees in training; {advice}, or \
             set rescale_betas_zero_snr with prediction_type v_prediction",
            schedule.alphas_cumprod()[schedule.len() - 1],
        );
    }
}

/// Formats a number of bytes in KiB, MiB or GiB.
fn bytes(count: usize) -> String {
    const KIB: f64 = 1024.0;
    match count as f64 {
        b if b < KIB * KIB => format!("{:.1} KiB", b / KIB),
        b if b < KIB * KIB * KIB => format!("{:.2} MiB", b / KIB / KIB),
        b => format!("{:.2} GiB", b / KIB / KIB / KIB),
    }
}

/// A number with its noun.
fn quantity(count: usize, one: &str, many: &str) -> String {
    format!("{count} {}", if count == 1 { one } else { many })
}

fn make_folder(path: &Path) -> anyhow::Result<()> {
    std::fs::create_dir_all(path)
        .with_context(|| format!("cannot make the folder {}", path.display()))
}

/// The number in the file name of a generated image: 7 for `000007.png`.
fn image_number(path: &Path) -> Option<usize> {
    let number = path.file_name()?.to_str()?.strip_suffix(".png")?;
    (number.len() >= 6).then(|| number.parse().ok())?
}

/// Warns about images of an earlier call in `out` that this call does not replace.
///
/// Each of `folders` comes with the number of images that this call writes to it; images with that
/// number or a higher one are from before.
fn warn_of_images_beyond(out: &Path, folders: &[(PathBuf, usize)]) -> anyhow::Result<()> {
    let mut others = 0;
    for (folder, images) in folders.iter().filter(|(folder, _)| folder.is_dir()) {
        let entries = std::fs::read_dir(folder).with_context(|| folder.display().to_string())?;
        let numbers = entries.filter_map(|entry| image_number(&entry.ok()?.path()));
        others += numbers.filter(|number| number >= images).count();
    }
    if others > 0 {
        tracing::warn!(
            "{} contains {others} other images from before; they are kept",
            out.display()
        );
    }
    Ok(())
}
