//! `cargo xtask package`: whether every crate can be published.

use std::fmt::Write;
use std::path::Path;

use anyhow::{Context, Result, ensure};

use crate::cargo::{cargo, workspace_root};
use crate::workspace::{self, Crate};

/// Check that every crate can be published, and package them all
///
/// Checks the description, keywords, categories, docs.rs metadata, licence files and README of each
/// crate. Then runs `cargo package --workspace`, which builds each crate from its package. The
/// README of a crate is the head of its src/lib.rs (or src/main.rs) without rustdoc's links.
#[derive(Debug, Default, clap::Args)]
pub(crate) struct PackageArgs {
    /// Write the README of each crate from the head of its source
    #[arg(long)]
    write: bool,
    /// Do not build the crates from their packages
    #[arg(long)]
    no_verify: bool,
}

pub(crate) fn run(args: &PackageArgs) -> Result<()> {
    let (mut problems, mut published) = (Vec::new(), 0);
    for package in workspace::read()? {
        if !package.is_published() {
            problems.extend(missing_reason(&package)?);
            continue;
        }
        published += 1;
        let readme = readme(&package)?;
        let path =
            package.folder.join(package.publication.readme.as_deref().unwrap_or("README.md"));
        // Here the README describes the folder.
        let is_generated = package.name != "diffusion-assets";
        if args.write && is_generated {
            std::fs::write(&path, &readme).with_context(|| path.display().to_string())?;
        }
        problems.extend(missing(&package));
        if is_generated && std::fs::read_to_string(&path).ok().as_ref() != Some(&readme) {
            problems.push(format!(
                "{}: README.md differs from the head of its source: cargo xtask package --write",
                package.name
            ));
        }
    }
    for problem in &problems {
        println!("{problem}");
    }
    ensure!(problems.is_empty(), "{} things are missing for publishing", problems.len());
    println!("{published} crates have all that crates.io and docs.rs ask for");
    let mut command = vec!["package", "--workspace", "--allow-dirty", "--quiet"];
    if args.no_verify {
        command.push("--no-verify");
        return cargo(&command, &[]);
    }
    // In a known folder, cargo would find the sources of an earlier package with the same version.
    let target = workspace_root().join("target");
    std::fs::create_dir_all(&target)?;
    let target = tempfile::tempdir_in(target)?;
    cargo(&command, &[("CARGO_TARGET_DIR", target.path().to_string_lossy().into_owned())])
}

/// A crate that is not published says why, in the line above `publish = false`.
fn missing_reason(package: &Crate) -> Result<Option<String>> {
    let manifest = std::fs::read_to_string(package.folder.join("Cargo.toml"))?;
    let before = manifest.lines().take_while(|line| *line != "publish = false").last();
    let has_reason = before.is_some_and(|line| line.starts_with('#'));
    Ok((!has_reason)
        .then(|| format!("{}: say above `publish = false` why it is not published", package.name)))
}

/// What the crate lacks of all that crates.io and docs.rs show.
fn missing(package: &Crate) -> Vec<String> {
    let Crate { folder, publication: about, .. } = package;
    let docs_rs = |m: &serde_json::Value| m.pointer("/docs/rs").is_some();
    // docs.rs shows libraries only.
    let is_program = !folder.join("src/lib.rs").is_file();
    let readme = about.readme.as_deref().unwrap_or("README.md");
    let has = [
        ("description", about.description.is_some()),
        ("keywords", !about.keywords.is_empty()),
        ("categories", !about.categories.is_empty()),
        ("license", about.license.is_some()),
        ("documentation", is_program || about.documentation.is_some()),
        ("[package.metadata.docs.rs]", is_program || about.metadata.as_ref().is_some_and(docs_rs)),
        ("README", folder.join(readme).is_file()),
        ("LICENSE-MIT", is_licence(folder, "LICENSE-MIT")),
        ("LICENSE-APACHE", is_licence(folder, "LICENSE-APACHE")),
    ];
    let lacking = has.iter().filter(|(_, is_there)| !is_there);
    lacking.map(|(what, _)| format!("{} has no {what}", package.name)).collect()
}

/// Whether the crate's licence file is that of the repository.
fn is_licence(folder: &Path, name: &str) -> bool {
    let read = |folder: &Path| std::fs::read(folder.join(name)).ok();
    read(folder).is_some() && read(folder) == read(&workspace_root())
}

/// The README of a crate: its name, the head of its source, its licence.
fn readme(package: &Crate) -> Result<String> {
    let source = ["src/lib.rs", "src/main.rs"].map(|name| package.folder.join(name));
    let source = source.into_iter().find(|path| path.is_file()).context(package.name.clone())?;
    let text = std::fs::read_to_string(&source)?;
    let mut readme = format!("# {}\n\n{}", package.name, flat(&text));
    let licence = match package.publication.license.as_deref() {
        None | Some("MIT OR Apache-2.0") => "MIT or Apache-2.0, at your option".to_owned(),
        Some(licence) => format!("`{licence}`.\nThe manifest says which part has which licence"),
    };
    let _ = write!(
        readme,
        "\n## Licence\n\n{licence}.\n\nThis crate is a part of the toolkit `diffusion`.\n"
    );
    Ok(readme)
}

/// The head of a source file as Markdown that needs no rustdoc: links to items become code, and the
/// hidden lines of examples go.
fn flat(source: &str) -> String {
    let mut is_example = false;
    let mut flat = String::new();
    for line in source.lines().take_while(|line| line.starts_with("//!")) {
        let line = line.trim_start_matches("//!");
        let line = line.strip_prefix(' ').unwrap_or(line);
        if line.starts_with("```") {
            is_example = !is_example;
            let is_rust = ["```", "```no_run", "```rust,no_run", "```rust"].contains(&line.trim());
            let opening = if is_rust { "```rust" } else { line };
            flat.push_str(if is_example { opening } else { line });
        } else if !is_example {
            // The name of the crate is the only heading of the first level.
            flat.push_str(if line.starts_with("# ") { "#" } else { "" });
            flat.push_str(&without_links(line));
        } else if line == "#" || line.starts_with("# ") {
            continue;
        } else {
            flat.push_str(line);
        }
        flat.push('\n');
    }
    flat
}

/// Links of rustdoc to items as code; links to web pages stay.
fn without_links(line: &str) -> String {
    let (mut text, mut rest) = (String::new(), line);
    while let Some((before, after)) = rest.split_once("[`") {
        let Some((name, after)) = after.split_once("`]") else { break };
        let target = after.strip_prefix('(').and_then(|after| after.split_once(')'));
        let _ = write!(text, "{before}`{name}`");
        rest = target.map_or(after, |(_, after)| after);
    }
    text + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_readme_has_no_links_of_rustdoc_and_no_hidden_lines() {
        let source = "//! Makes [`Foo`] of [`bar()`](crate::bar).\n//!\n//! ```\n//! # hidden();\n\
                      //! shown();\n//! ```\n\nuse x;\n//! not the head\n";
        assert_eq!(flat(source), "Makes `Foo` of `bar()`.\n\n```rust\nshown();\n```\n");
    }

    #[test]
    fn links_to_web_pages_and_brackets_stay() {
        let line = "values in \\[−1, 1\\], see [candle](https://github.com)";
        assert_eq!(without_links(line), line);
        assert_eq!(without_links("a [`b` c"), "a [`b` c");
    }
}
