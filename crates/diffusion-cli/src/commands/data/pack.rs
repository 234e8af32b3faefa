//! `diffusion data pack`.

use std::path::PathBuf;
use std::process::ExitCode;

use diffusion_data::pack;

use crate::args::data;
use crate::session::interrupt;

/// Write the pictures of a folder, an archive or another source to one portable file
///
/// Pictures are taken over as they are; classes become folders of a tar archive, or the column label of a parquet file as
/// the Hugging Face hub has them. Damaged pictures are left out and named.
#[derive(clap::Args)]
#[command(
    after_help = "Examples:\n  diffusion data pack photos photos.tar\n  diffusion data pack hf:OWNER/NAME set.parquet"
)]
pub(crate) struct PackArgs {
    /// The pictures: whatever --data of train understands
    source: PathBuf,
    /// The file to write, ending in .tar or .parquet
    out: PathBuf,
    /// Leave out up to N damaged pictures before giving up
    #[arg(long, value_name = "N", default_value_t = 100)]
    max_bad: usize,
}

pub(super) fn run(args: &PackArgs, quiet: bool) -> anyhow::Result<ExitCode> {
    interrupt::listen()?;
    let source = data::open(Some(&data::resolve(&args.source)?))?;
    let mut progress = data::Preparing::new(&source, quiet);
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
