//! `diffusion data pack`.

use std::path::PathBuf;
use std::process::ExitCode;

use diffusion_data::pack;

use crate::args::data;
use crate::session::interrupt;

/// Pack pictures into one portable file
///
/// Picture files are copied unchanged; raw pixels become PNG files. Classes become the folders of a
/// tar archive, or the column `label` of a parquet file in the format of the Hugging Face hub.
/// Damaged pictures are left out and listed.
#[derive(clap::Args)]
#[command(
    after_help = "Examples:\n  diffusion data pack photos photos.tar\n  diffusion data pack hf:OWNER/NAME set.parquet"
)]
pub(crate) struct PackArgs {
    /// Pictures to pack: any source that `train --data` accepts
    source: PathBuf,
    /// Write to this file, which must not exist; its name must end in .tar or .parquet
    out: PathBuf,
    /// Fail if more than N pictures are damaged; at least 0
    #[arg(long, value_name = "N", default_value_t = 100)]
    max_bad: usize,
}

pub(super) fn run(args: &PackArgs, quiet: bool) -> anyhow::Result<ExitCode> {
    interrupt::listen()?;
    let source = data::open(Some(&data::resolve(&args.source)?))?;
    let mut progress = data::PreparationProgress::new(&source, quiet);
    let packed = pack(&source, &args.out, args.max_bad, &mut |event| progress.show(event))?;
    drop(progress);
    data::report_damaged(&packed.damaged);
    println!(
        "{}: {} pictures, {} classes",
        args.out.display(),
        packed.count,
        source.classes().len()
    );
    Ok(ExitCode::SUCCESS)
}
