//! The crates of the workspace and what their manifests depend on.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::Deserialize;

use crate::cargo::cargo_output;

/// What a dependency is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Normal,
    Dev,
    Build,
}

/// A line of `[dependencies]`, `[dev-dependencies]` or `[build-dependencies]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Dependency {
    /// The name of the package.
    pub(crate) name: String,
    /// The name in the source code, with underscores.
    pub(crate) identifier: String,
    pub(crate) kind: Kind,
    pub(crate) in_workspace: bool,
}

/// A crate of the workspace.
#[derive(Clone, Debug)]
pub(crate) struct Crate {
    pub(crate) name: String,
    pub(crate) folder: PathBuf,
    pub(crate) dependencies: Vec<Dependency>,
    pub(crate) publication: Publication,
}

impl Crate {
    /// Whether the crate may go to crates.io.
    pub(crate) fn is_published(&self) -> bool {
        !self.publication.publish.as_ref().is_some_and(Vec::is_empty)
    }
}

/// What a manifest says for crates.io and docs.rs.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Publication {
    pub(crate) description: Option<String>,
    pub(crate) keywords: Vec<String>,
    pub(crate) categories: Vec<String>,
    pub(crate) license: Option<String>,
    pub(crate) documentation: Option<String>,
    pub(crate) readme: Option<String>,
    pub(crate) metadata: Option<serde_json::Value>,
    /// The registries; `None` are all, an empty list is none.
    publish: Option<Vec<String>>,
}

/// What is read of the output of `cargo metadata`.
#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
}

#[derive(Deserialize)]
struct Package {
    name: String,
    manifest_path: PathBuf,
    dependencies: Vec<Entry>,
    #[serde(flatten)]
    publication: Publication,
}

#[derive(Deserialize)]
struct Entry {
    name: String,
    rename: Option<String>,
    kind: Option<String>,
    path: Option<PathBuf>,
}

/// All crates of the workspace.
pub(crate) fn read() -> Result<Vec<Crate>> {
    parse(&cargo_output(&["metadata", "--format-version", "1", "--no-deps"], &[])?)
}

fn parse(json: &str) -> Result<Vec<Crate>> {
    let metadata: Metadata = serde_json::from_str(json).context("the output of cargo metadata")?;
    Ok(metadata.packages.into_iter().map(Crate::from).collect())
}

impl From<Package> for Crate {
    fn from(package: Package) -> Self {
        let folder = package.manifest_path.parent().unwrap_or(Path::new(".")).to_owned();
        let dependencies = package.dependencies.into_iter().map(Dependency::from).collect();
        Self { name: package.name, folder, dependencies, publication: package.publication }
    }
}

impl From<Entry> for Dependency {
    fn from(entry: Entry) -> Self {
        let kind = match entry.kind.as_deref() {
            Some("dev") => Kind::Dev,
            Some("build") => Kind::Build,
            _ => Kind::Normal,
        };
        let identifier = entry.rename.as_ref().unwrap_or(&entry.name).replace('-', "_");
        Self { name: entry.name, identifier, kind, in_workspace: entry.path.is_some() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_renames_and_paths_are_read() {
        let json = r#"{"packages": [{"name": "a", "manifest_path": "/w/a/Cargo.toml", "dependencies": [
            {"name": "b-c", "rename": null, "kind": null, "path": "/w/b-c"},
            {"name": "d", "rename": "other-d", "kind": "dev"},
            {"name": "e", "rename": null, "kind": "build"}]}]}"#;
        let crates = parse(json).unwrap();
        assert_eq!((crates[0].name.as_str(), crates[0].folder.as_path()), ("a", Path::new("/w/a")));
        let dependency = |name: &str, identifier: &str, kind, in_workspace| {
            let (name, identifier) = (name.to_owned(), identifier.to_owned());
            Dependency { name, identifier, kind, in_workspace }
        };
        let expected = [
            dependency("b-c", "b_c", Kind::Normal, true),
            dependency("d", "other_d", Kind::Dev, false),
            dependency("e", "e", Kind::Build, false),
        ];
        assert_eq!(crates[0].dependencies, expected);
    }
}
