//! Finds dependencies that no source file uses.

use std::path::Path;

use anyhow::Result;

use super::sources::rust_files;
use crate::workspace::{Crate, Dependency, Kind};

/// Dependencies that need not appear in a source file: the crate, the dependency, and its purpose.
const ALLOWED: [(&str, &str, &str); 1] = [(
    "diffusion-tests",
    "diffusion",
    "the code of the README, which is compiled as documentation of that crate",
)];

/// The unused dependencies of `crates`, one sentence each.
pub(super) fn problems(crates: &[Crate]) -> Result<Vec<String>> {
    let mut problems = Vec::new();
    for package in crates {
        let files = rust_files(&package.folder)?;
        for dependency in &package.dependencies {
            let is_allowed = ALLOWED.iter().any(|allowed| {
                (allowed.0, allowed.1) == (package.name.as_str(), dependency.name.as_str())
            });
            let mut users = files
                .iter()
                .filter(|(path, _)| is_available(dependency.kind, &package.folder, path));
            if !is_allowed && !users.any(|(_, text)| names(text, dependency)) {
                problems.push(format!(
                    "{} does not use {}: remove it from {}, \
                     or list it with a reason in xtask/src/structure/unused.rs",
                    package.name,
                    dependency.name,
                    package.folder.join("Cargo.toml").display()
                ));
            }
        }
    }
    Ok(problems)
}

/// Whether the file at `path` in the crate's `folder` can use a dependency of this kind.
fn is_available(kind: Kind, folder: &Path, path: &Path) -> bool {
    match kind {
        Kind::Normal => path.starts_with(folder.join("src")),
        Kind::Dev => path != folder.join("build.rs"),
        Kind::Build => path == folder.join("build.rs"),
    }
}

/// Whether the source uses the dependency: at the beginning of a path, in a `use`, or in the
/// example of a comment.
fn names(text: &str, dependency: &Dependency) -> bool {
    let name = dependency.identifier.as_str();
    text.match_indices(name).any(|(at, _)| {
        let (before, after) = (&text[..at], &text[at + name.len()..]);
        let begins = !before.ends_with(|c: char| c.is_alphanumeric() || "_:.".contains(c));
        let is_imported = ["use ", "extern crate "].iter().any(|keyword| before.ends_with(keyword));
        let ends_import = after.starts_with([';', ' ']);
        begins && (after.starts_with("::") || is_imported && ends_import)
    })
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::workspace::Publication;

    fn dependency(name: &str, kind: Kind) -> Dependency {
        Dependency {
            name: name.to_owned(),
            identifier: name.replace('-', "_"),
            kind,
            in_workspace: false,
        }
    }

    #[test]
    fn a_name_counts_as_a_path_or_an_import_only() {
        let is_named = |text| names(text, &dependency("some-zip", Kind::Normal));
        for text in [
            "use some_zip::Zip;",
            "use some_zip;",
            "pub use some_zip as other;",
            "f(some_zip::g())",
        ] {
            assert!(is_named(text), "{text}");
        }
        for text in [
            "a.some_zip()",
            "let some_zip = 1;",
            "std::some_zip::f()",
            "use awesome_zip::a;",
            "some_zipper::a",
        ] {
            assert!(!is_named(text), "{text}");
        }
    }

    #[test]
    fn unused_dependencies_are_found_by_kind() {
        let folder = tempfile::tempdir().unwrap();
        for (name, text) in
            [("src", "use library::A;\n"), ("tests", "use library::A;\nuse only_tested::B;\n")]
        {
            fs::create_dir_all(folder.path().join(name)).unwrap();
            fs::write(folder.path().join(name).join("a.rs"), text).unwrap();
        }
        let dependencies = [
            dependency("library", Kind::Normal),
            dependency("only-tested", Kind::Normal),
            dependency("only-tested", Kind::Dev),
            dependency("unused", Kind::Dev),
            dependency("library", Kind::Build),
        ];
        let package = Crate {
            name: "one".to_owned(),
            folder: folder.path().to_owned(),
            dependencies: dependencies.into(),
            publication: Publication::default(),
        };
        let problems = problems(&[package]).unwrap();
        let named: Vec<&str> = problems
            .iter()
            .filter_map(|problem| problem.strip_prefix("one does not use ")?.split(':').next())
            .collect();
        assert_eq!(named, ["only-tested", "unused", "library"]);
    }
}
