//! `cargo xtask structure`: what the crates measure, and whether dependencies point downwards only.

mod floors;
mod sources;
mod unused;
mod workspace;

use std::collections::BTreeSet;
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use serde::Serialize;

use crate::cargo::cargo_output;
use sources::Sources;
use workspace::{Crate, Kind};

/// Print what each crate measures, and check the dependencies between crates.
///
/// Fails on a dependency that points upwards or closes a circle, on a crate without a floor, and on
/// a dependency that no source file uses. The order of the floors is in
/// xtask/src/structure/floors.rs. Long files and full folders are shown, not forbidden.
///
/// "code" and "tests" are lines of Rust in src without and with test modules, and in tests, benches
/// and examples. "direct" counts dependencies on other crates of the workspace, "all" every crate
/// that a build of this one needs with its default features. "public" counts functions, types,
/// traits, constants and macros declared `pub`.
#[derive(Debug, Default, clap::Args)]
pub(crate) struct StructureArgs {
    /// Also write the figures to this file
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// The figures of a crate.
#[derive(Serialize)]
struct Figures {
    name: String,
    direct_dependencies: usize,
    all_dependencies: usize,
    #[serde(flatten)]
    sources: Sources,
}

/// How many of the longest files and fullest folders are shown.
const SHOWN: usize = 3;

pub(crate) fn run(args: &StructureArgs) -> Result<()> {
    let mut crates = workspace::read()?;
    crates.sort_by_key(|one| floors::floor(&one.name));
    let figures = crates.iter().map(figures).collect::<Result<Vec<_>>>()?;
    print_figures(&figures);
    if let Some(path) = &args.json {
        let text = serde_json::to_string_pretty(&figures)? + "\n";
        std::fs::write(path, text).with_context(|| format!("--json {}", path.display()))?;
    }
    let mut problems = floors::problems(&crates);
    problems.extend(unused::problems(&crates)?);
    for problem in &problems {
        println!("{problem}");
    }
    ensure!(problems.is_empty(), "the structure has {} problems", problems.len());
    println!("every dependency points downwards and is used");
    Ok(())
}

fn figures(one: &Crate) -> Result<Figures> {
    let is_direct = |d: &&workspace::Dependency| d.in_workspace && d.kind == Kind::Normal;
    Ok(Figures {
        name: one.name.clone(),
        direct_dependencies: one.dependencies.iter().filter(is_direct).count(),
        all_dependencies: all_dependencies(&one.name)?,
        sources: Sources::read(&one.folder, SHOWN)?,
    })
}

/// How many crates a build of the crate `name` needs on this machine, with its default features.
fn all_dependencies(name: &str) -> Result<usize> {
    let tree =
        cargo_output(&["tree", "-p", name, "-e", "normal", "--prefix", "none", "--format", "{p}"])?;
    let crates: BTreeSet<&str> = tree.lines().map(|line| line.trim_end_matches(" (*)")).collect();
    Ok(crates.len().saturating_sub(1))
}

fn print_figures(figures: &[Figures]) {
    let mut rows = vec![["crate", "code", "tests", "direct", "all", "public"].map(str::to_owned)];
    let row = |name: &str, sources: [usize; 2], dependencies: [String; 2], public: usize| {
        let [direct, all] = dependencies;
        [
            name.to_owned(),
            sources[0].to_string(),
            sources[1].to_string(),
            direct,
            all,
            public.to_string(),
        ]
    };
    rows.extend(figures.iter().map(|f| {
        let dependencies =
            [f.direct_dependencies, f.all_dependencies].map(|count| count.to_string());
        row(&f.name, [f.sources.code, f.sources.tests], dependencies, f.sources.public)
    }));
    let sum = |of: fn(&Sources) -> usize| figures.iter().map(|f| of(&f.sources)).sum::<usize>();
    let lines = [sum(|s| s.code), sum(|s| s.tests)];
    rows.push(row("together", lines, [String::new(), String::new()], sum(|s| s.public)));
    print!("{}", table(&rows));

    let listed = |entries: &[(String, usize)]| {
        let entries: Vec<String> =
            entries.iter().map(|(name, count)| format!("{name} {count}")).collect();
        entries.join(", ")
    };
    println!("\nlongest files, in lines, and fullest folders, in files");
    for Figures { name, sources, .. } in figures {
        println!(
            "{name}\n  {}\n  {}",
            listed(&sources.longest_files),
            listed(&sources.fullest_folders)
        );
    }
    println!();
}

/// Columns of equal width: the first to the left, numbers to the right.
fn table<const N: usize>(rows: &[[String; N]]) -> String {
    let width = |column: usize| rows.iter().map(|row| row[column].len()).max().unwrap_or(0);
    let line = |row: &[String; N]| {
        let numbers = (1..N).map(|column| format!("  {:>1$}", row[column], width(column)));
        format!("{:<1$}{2}\n", row[0], width(0), numbers.collect::<String>())
    };
    rows.iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_stand_on_the_left_and_numbers_on_the_right() {
        let rows = [["crate", "code"], ["diffusion", "7"]].map(|row| row.map(str::to_owned));
        assert_eq!(table(&rows), "crate      code\ndiffusion     7\n");
    }
}
