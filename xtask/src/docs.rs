//! `cargo xtask docs`: the guided tour, followed.

use anyhow::{Result, ensure};
use clap::Args;
use diffusion_docs::{Mode, check_links, follow};

use crate::check::{built_program, cargo, workspace_root};

/// Follow the guided tour: run its commands, draw its pictures anew, compare what it quotes, check every link
///
/// Fails when a quoted number has changed or a link leads nowhere. Takes a few minutes, most of them for the training of the
/// third chapter.
#[derive(Debug, Args)]
pub(crate) struct DocsArgs {
    /// Put the new output and the new numbers of lines into the chapters
    #[arg(long)]
    accept: bool,
}

pub(crate) fn run(args: &DocsArgs) -> Result<()> {
    cargo(&["build", "-p", "diffusion-cli"], &[])?;
    let root = workspace_root();
    let mode = if args.accept { Mode::Accept } else { Mode::Redraw };
    let mut problems = follow(&root.join("docs"), &built_program("diffusion")?, mode)?;
    problems.extend(check_links(&root, args.accept)?);
    for problem in &problems {
        println!("{problem}");
    }
    ensure!(problems.is_empty(), "{} things are not as the documentation says", problems.len());
    println!("every command works as printed, every link leads somewhere");
    Ok(())
}
