//! `cargo xtask structure`: prints the size of each crate, and checks that dependencies point
//! downwards only.

mod order;
mod sources;
mod table;
mod unused;

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use serde::Serialize;

use crate::workspace::{self, Crate, Kind};
use sources::Sources;

/// Print the size of each crate, and check the dependencies between crates.
///
/// Fails if a dependency points upwards or forms a cycle, if a crate has no place in the order of
/// crates, if no source file uses a dependency, or if the table in ARCHITECTURE.md is out of date.
/// The order is in xtask/src/structure/order.rs. Long files and full folders are only listed.
///
/// Columns: "code" is lines of Rust in src outside test modules. "tests" is lines of test modules,
/// and of the folders tests, benches and examples. "direct" counts dependencies on other crates of
/// the workspace, "all" every crate that a build with default features needs. "public" counts
/// functions, types, traits, constants and macros declared `pub`.
#[derive(Debug, Default, clap::Args)]
pub(crate) struct StructureArgs {
    /// Also write the figures to this JSON file
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Write the table of dependencies into ARCHITECTURE.md
    #[arg(long)]
    accept: bool,
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
    crates.sort_by_key(|package| order::position(&package.name));
    let figures = crates.iter().map(figures).collect::<Result<Vec<_>>>()?;
    print_figures(&figures);
    if let Some(path) = &args.json {
        let text = serde_json::to_string_pretty(&figures)? + "\n";
        std::fs::write(path, text).with_context(|| format!("--json {}", path.display()))?;
    }
    let mut problems = order::problems(&crates);
    problems.extend(unused::problems(&crates)?);
    let published: Vec<&str> =
        crates.iter().filter(|c| c.is_published()).map(|c| c.name.as_str()).collect();
    problems.extend(table::problems(&figures, &published, args.accept)?);
    for problem in &problems {
        println!("{problem}");
    }
    ensure!(problems.is_empty(), "the structure has {} problems", problems.len());
    println!("all dependencies point downwards and are used");
    Ok(())
}

fn figures(package: &Crate) -> Result<Figures> {
    let is_direct = |d: &&workspace::Dependency| d.in_workspace && d.kind == Kind::Normal;
    Ok(Figures {
        name: package.name.clone(),
        direct_dependencies: package.dependencies.iter().filter(is_direct).count(),
        all_dependencies: table::all_dependencies(&package.name)?.len(),
        sources: Sources::read(&package.folder, SHOWN)?,
    })
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
    rows.push(row("total", lines, [String::new(), String::new()], sum(|s| s.public)));
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

/// The rows as aligned columns: the first aligned left, the others right.
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
    fn names_are_aligned_left_and_numbers_right() {
        let rows = [["crate", "code"], ["diffusion", "7"]].map(|row| row.map(str::to_owned));
        assert_eq!(table(&rows), "crate      code\ndiffusion     7\n");
    }
}
