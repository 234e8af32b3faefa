//! `cargo xtask docs`: the guided tour, followed.

use anyhow::{Result, ensure};
use clap::Args;
use diffusion_docs::{Mode, check_links, check_records, follow};

use crate::cargo::{built_program, cargo, workspace_root};
use crate::recipe::compare_tables;

/// Follow the guided tour: run its commands, draw its pictures anew, compare what it quotes, check every link
///
/// Fails when a quoted number has changed or a link leads nowhere; when a table of the README or of
/// docs/recipe.md differs from the records in assets/figures; and when a figure there or in
/// docs/control.md does not say where it comes from. Takes a few minutes, most of them for the
/// training of the third chapter.
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
    problems.extend(check_records(&root)?);
    let mut problems: Vec<String> = problems.iter().map(ToString::to_string).collect();
    let tables = compare_tables()?;
    problems.extend(tables.problems);
    for problem in &problems {
        println!("{problem}");
    }
    ensure!(problems.is_empty(), "{} things are not as the documentation says", problems.len());
    println!("every command works as printed, every link leads somewhere");
    println!("{} figures of tables agree with assets/figures", tables.cells);
    Ok(())
}
