//! The table of dependencies in ARCHITECTURE.md, and what the facade must not need.

use std::collections::BTreeSet;

use anyhow::{Context, Result};

use super::Figures;
use crate::cargo::{cargo_output, workspace_root};

/// Where the table begins in ARCHITECTURE.md.
const MARK: &str = "<!-- dependencies -->\n";
/// Crates that the facade must not need with its default features: an HTTP client, data formats and
/// picture decoders. Zip is not among them, because candle-core needs it.
const HEAVY: [&str; 6] = ["diffusion-data", "diffusion-hub", "image", "parquet", "tokio", "ureq"];
/// The platform whose dependencies are counted, so that the table is the same on every machine.
const PLATFORM: &str = "x86_64-unknown-linux-gnu";

/// The names of all crates that a build of the crate `name` needs with its default features.
pub(super) fn all_dependencies(name: &str) -> Result<BTreeSet<String>> {
    let format = ["--prefix", "none", "--format", "{p}"];
    let mut args = vec!["tree", "-p", name, "-e", "normal", "--target", PLATFORM];
    args.extend(format);
    let tree = cargo_output(&args, &[])?;
    // "name v1.0.0 (path) (*)"; two versions of one crate count twice.
    let crates = tree.lines().map(|line| line.split(" (").next().unwrap_or(line).to_owned());
    Ok(crates.filter(|one| one.split(' ').next() != Some(name)).collect())
}

/// Finds what is wrong with the table and with the dependencies of the facade. With `accept`, the
/// table is written instead of compared.
pub(super) fn problems(
    figures: &[Figures],
    published: &[&str],
    accept: bool,
) -> Result<Vec<String>> {
    let path = workspace_root().join("ARCHITECTURE.md");
    let text = std::fs::read_to_string(&path).with_context(|| path.display().to_string())?;
    let figures = figures.iter().filter(|one| published.contains(&one.name.as_str()));
    let expected = table(figures);
    let (head, rest) = text.split_once(MARK).context("ARCHITECTURE.md has no table")?;
    // Behind the mark, an empty line and the table.
    let rest = rest.trim_start_matches('\n');
    let is_row = |line: &&str| line.starts_with('|');
    let length = rest.split_inclusive('\n').take_while(is_row).map(str::len).sum();
    let (written, tail) = rest.split_at(length);
    let mut problems = Vec::new();
    if accept {
        std::fs::write(&path, format!("{head}{MARK}\n{expected}\n{}", tail.trim_start()))?;
    } else if written != expected {
        let differing = expected.lines().find(|line| !written.contains(line)).unwrap_or_default();
        problems.push(format!(
            "the dependencies in ARCHITECTURE.md are out of date at `{differing}`: \
             cargo xtask structure --accept"
        ));
    }
    let facade = all_dependencies("diffusion")?;
    let heavy =
        HEAVY.iter().filter(|name| facade.iter().any(|one| one.split(' ').next() == Some(**name)));
    problems.extend(
        heavy.map(|name| format!("the crate diffusion needs {name} with its default features")),
    );
    Ok(problems)
}

fn table<'a>(figures: impl Iterator<Item = &'a Figures>) -> String {
    let rows = figures.map(|one| {
        format!("| `{}` | {} | {} |\n", one.name, one.direct_dependencies, one.all_dependencies)
    });
    "| crate | direct | all |\n|---|---|---|\n".to_owned() + &rows.collect::<String>()
}
