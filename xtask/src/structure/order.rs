//! The order of the crates, and the check that dependencies follow it.

use crate::workspace::{Crate, Kind};

/// The crates from top to bottom. A crate may only depend on crates below it. Planned crates are
/// included.
const ORDER: [&str; 24] = [
    // Tools of the repository.
    "xtask",
    "diffusion-bench",
    "diffusion-tests",
    "diffusion-docs",
    // Programs.
    "diffusion-cli",
    "diffusion-serve",
    // Libraries.
    "diffusion",
    "diffusion-report",
    "diffusion-train",
    "diffusion-interop",
    "diffusion-eval",
    "diffusion-model",
    "diffusion-hub",
    "diffusion-data",
    "diffusion-picture",
    "diffusion-sample",
    "diffusion-unet",
    "diffusion-nn",
    "diffusion-process",
    "diffusion-kernels",
    "diffusion-schedule",
    "diffusion-files",
    "diffusion-random",
    "diffusion-assets",
];

/// Development dependencies that may point upwards: from, to, and the reason.
const ALLOWED: [(&str, &str, &str); 1] = [(
    "diffusion-cli",
    "diffusion-docs",
    "tests of the program run the tour, and cargo builds a program only for tests of its own \
     package",
)];

/// The position of a crate in [`ORDER`]: 0 is the top, their number an unknown crate.
pub(super) fn position(name: &str) -> usize {
    ORDER.iter().position(|other| *other == name).unwrap_or(ORDER.len())
}

/// The errors in the dependencies between `crates`, one sentence each.
pub(super) fn problems(crates: &[Crate]) -> Vec<String> {
    let edges = edges(crates);
    let unknown = crates.iter().filter(|c| !ORDER.contains(&c.name.as_str())).map(|c| {
        format!(
            "{} is not in ORDER: add it in xtask/src/structure/order.rs, \
             above all crates that it depends on",
            c.name
        )
    });
    let upward = edges.iter().filter(|edge| {
        [edge.from, edge.to].iter().all(|name| ORDER.contains(name))
            && position(edge.from) >= position(edge.to)
    });
    let upward =
        upward.map(|Edge { from, to }| format!("{from} depends on {to}, which is above it"));
    let cycle =
        cycle(&edges).map(|path| format!("dependencies form a cycle: {}", path.join(" → ")));
    unknown.chain(upward).chain(cycle).collect()
}

/// A dependency between two crates of the workspace.
#[derive(Clone, Copy)]
struct Edge<'a> {
    from: &'a str,
    to: &'a str,
}

/// All dependencies within the workspace except the allowed ones.
fn edges(crates: &[Crate]) -> Vec<Edge<'_>> {
    let is_allowed = |from: &str, to: &str, kind: Kind| {
        kind == Kind::Dev && ALLOWED.iter().any(|allowed| (allowed.0, allowed.1) == (from, to))
    };
    let mut edges = Vec::new();
    for package in crates {
        for dependency in package.dependencies.iter().filter(|d| d.in_workspace) {
            // A crate may depend on itself to turn a feature on for its own tests.
            let itself = dependency.kind == Kind::Dev && dependency.name == package.name;
            if !itself && !is_allowed(&package.name, &dependency.name, dependency.kind) {
                edges.push(Edge { from: &package.name, to: &dependency.name });
            }
        }
    }
    edges
}

/// The names on a cycle, with the first one repeated at the end. None if there is no cycle.
fn cycle<'a>(edges: &[Edge<'a>]) -> Option<Vec<&'a str>> {
    // Remove edges to crates without dependencies, repeatedly. Each edge that remains leads to a
    // cycle.
    let mut remaining = edges.to_vec();
    loop {
        let inner: Vec<Edge<'a>> = remaining
            .iter()
            .filter(|edge| remaining.iter().any(|other| other.from == edge.to))
            .copied()
            .collect();
        if inner.len() == remaining.len() {
            break;
        }
        remaining = inner;
    }
    let mut path = vec![remaining.first()?.from];
    loop {
        let last = path[path.len() - 1];
        let next = remaining.iter().find(|edge| edge.from == last)?.to;
        let begin = path.iter().position(|name| *name == next);
        path.push(next);
        if let Some(begin) = begin {
            return Some(path.split_off(begin));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workspace::{Dependency, Publication};

    fn package(name: &str, dependencies: &[(&str, Kind)]) -> Crate {
        let dependency = |&(name, kind): &(&str, Kind)| Dependency {
            name: name.to_owned(),
            identifier: name.replace('-', "_"),
            kind,
            in_workspace: true,
        };
        let dependencies = dependencies.iter().map(dependency).collect();
        Crate {
            name: name.to_owned(),
            folder: "nowhere".into(),
            dependencies,
            publication: Publication::default(),
        }
    }

    #[test]
    fn downward_dependencies_are_allowed() {
        let crates = [
            package(
                "diffusion-cli",
                &[("diffusion-train", Kind::Normal), ("diffusion-docs", Kind::Dev)],
            ),
            package("diffusion-train", &[("diffusion-random", Kind::Normal)]),
            package("diffusion-random", &[]),
            package("diffusion-docs", &[]),
        ];
        assert!(problems(&crates).is_empty());
    }

    #[test]
    fn upward_dependencies_are_named_for_tests_too() {
        let crates = [
            package("diffusion-data", &[("diffusion-train", Kind::Normal)]),
            package("diffusion-unet", &[("diffusion-sample", Kind::Dev)]),
            package("diffusion-cli", &[("diffusion-docs", Kind::Normal)]),
        ];
        let expected = [
            "diffusion-data depends on diffusion-train, which is above it",
            "diffusion-unet depends on diffusion-sample, which is above it",
            "diffusion-cli depends on diffusion-docs, which is above it",
        ];
        assert_eq!(problems(&crates), expected, "exceptions for tests do not apply to the program");
    }

    #[test]
    fn a_crate_may_depend_on_itself_for_its_tests_only() {
        let itself = |kind| problems(&[package("diffusion-data", &[("diffusion-data", kind)])]);
        assert_eq!(itself(Kind::Dev), Vec::<String>::new());
        assert_ne!(itself(Kind::Normal), Vec::<String>::new());
    }

    #[test]
    fn cycles_are_named_from_crate_to_crate() {
        let crates = [
            package("diffusion-cli", &[("diffusion-unet", Kind::Normal)]),
            package(
                "diffusion-unet",
                &[("diffusion-nn", Kind::Normal), ("diffusion-random", Kind::Normal)],
            ),
            package("diffusion-nn", &[("diffusion-kernels", Kind::Normal)]),
            package("diffusion-kernels", &[("diffusion-unet", Kind::Dev)]),
        ];
        let expected = [
            "diffusion-kernels depends on diffusion-unet, which is above it",
            "dependencies form a cycle: \
             diffusion-unet → diffusion-nn → diffusion-kernels → diffusion-unet",
        ];
        assert_eq!(problems(&crates), expected);
    }

    #[test]
    fn an_unknown_crate_is_an_error_that_says_where_to_add_it() {
        let crates = [package("diffusion-new", &[("diffusion-cli", Kind::Normal)])];
        let expected = "diffusion-new is not in ORDER: add it in xtask/src/structure/order.rs, \
                        above all crates that it depends on";
        assert_eq!(problems(&crates), [expected]);
    }
}
