//! `cargo xtask docs`: checks the guided tour and the tables of the documentation.

use anyhow::{Result, ensure};
use clap::Args;
use diffusion_docs::{Mode, check_links, check_records, run_tour};

use crate::cargo::{built_program, cargo, workspace_root};
use crate::recipe::compare_tables;

/// Check the guided tour: run its commands, redraw its pictures, compare its output, check links
///
/// Fails if a quoted number has changed, if a link is broken, if a table of the README or of
/// docs/recipe.md differs from the records in assets/figures, or if a figure there or in
/// docs/control.md does not state its source. Takes a few minutes, most of them for the training of
/// chapter 3.
#[derive(Debug, Args)]
pub(crate) struct DocsArgs {
    /// Write the new output and the new line numbers into the chapters
    #[arg(long)]
    accept: bool,
}

pub(crate) fn run(args: &DocsArgs) -> Result<()> {
    cargo(&["build", "-p", "diffusion-cli"], &[])?;
    let root = workspace_root();
    let mode = if args.accept { Mode::Accept } else { Mode::Redraw };
    let mut problems = run_tour(&root.join("docs"), &built_program("diffusion")?, mode)?;
    problems.extend(check_links(&root, args.accept)?);
    problems.extend(check_records(&root)?);
    let mut problems: Vec<String> = problems.iter().map(ToString::to_string).collect();
    let tables = compare_tables()?;
    problems.extend(tables.problems);
    for problem in &problems {
        println!("{problem}");
    }
    ensure!(problems.is_empty(), "the documentation has {} errors", problems.len());
    println!("every command prints what the tour quotes, and every link works");
    println!("{} cells of tables agree with assets/figures", tables.cells);
    Ok(())
}
