//! The order of the crates, and the check that dependencies follow it.

use super::workspace::{Crate, Kind};

/// The crates from top to bottom. A crate may depend on crates below it only. Crates that are
/// planned have their place already.
const FLOORS: [&str; 23] = [
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
];

/// Development dependencies that may point upwards: from, to, and why.
const ALLOWED: [(&str, &str, &str); 1] = [(
    "diffusion-cli",
    "diffusion-docs",
    "tests of the program follow the tour, and cargo builds a program for tests of its own package only",
)];

/// The position of a crate, 0 for the top; below all others where it has none.
pub(super) fn floor(name: &str) -> usize {
    FLOORS.iter().position(|other| *other == name).unwrap_or(FLOORS.len())
}

/// What is wrong with the dependencies between `crates`, a sentence each.
pub(super) fn problems(crates: &[Crate]) -> Vec<String> {
    let edges = edges(crates);
    let unknown = crates.iter().filter(|one| !FLOORS.contains(&one.name.as_str())).map(|one| {
        format!(
            "{} has no floor: add it to FLOORS in xtask/src/structure/floors.rs, \
             above all that it depends on",
            one.name
        )
    });
    let upward = edges.iter().filter(|edge| {
        [edge.from, edge.to].iter().all(|name| FLOORS.contains(name))
            && floor(edge.from) >= floor(edge.to)
    });
    let upward =
        upward.map(|Edge { from, to }| format!("{from} depends on {to}, which stands above it"));
    let cycle =
        cycle(&edges).map(|path| format!("dependencies form a circle: {}", path.join(" → ")));
    unknown.chain(upward).chain(cycle).collect()
}

/// A dependency between two crates of the workspace.
#[derive(Clone, Copy)]
struct Edge<'a> {
    from: &'a str,
    to: &'a str,
}

/// All dependencies within the workspace but for the allowed ones.
fn edges(crates: &[Crate]) -> Vec<Edge<'_>> {
    let is_allowed = |from: &str, to: &str, kind: Kind| {
        kind == Kind::Dev && ALLOWED.iter().any(|allowed| (allowed.0, allowed.1) == (from, to))
    };
    let mut edges = Vec::new();
    for one in crates {
        for dependency in one.dependencies.iter().filter(|d| d.in_workspace) {
            // A crate that turns a feature on for its own tests is on no circle.
            let itself = dependency.kind == Kind::Dev && dependency.name == one.name;
            if !itself && !is_allowed(&one.name, &dependency.name, dependency.kind) {
                edges.push(Edge { from: &one.name, to: &dependency.name });
            }
        }
    }
    edges
}

/// The names on a circle, the first one again at the end; none if there is no circle.
fn cycle<'a>(edges: &[Edge<'a>]) -> Option<Vec<&'a str>> {
    // Crates that nothing remaining depends on are on no circle; what stays in the end depends on a circle.
    let mut remaining = edges.to_vec();
    loop {
        let kept: Vec<Edge<'a>> = remaining
            .iter()
            .filter(|edge| remaining.iter().any(|other| other.from == edge.to))
            .copied()
            .collect();
        if kept.len() == remaining.len() {
            break;
        }
        remaining = kept;
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
    use super::super::workspace::Dependency;
    use super::*;

    fn one(name: &str, dependencies: &[(&str, Kind)]) -> Crate {
        let dependency = |&(name, kind): &(&str, Kind)| Dependency {
            name: name.to_owned(),
            identifier: name.replace('-', "_"),
            kind,
            in_workspace: true,
        };
        let dependencies = dependencies.iter().map(dependency).collect();
        Crate { name: name.to_owned(), folder: "nowhere".into(), dependencies }
    }

    #[test]
    fn downward_dependencies_are_fine() {
        let crates = [
            one(
                "diffusion-cli",
                &[("diffusion-train", Kind::Normal), ("diffusion-docs", Kind::Dev)],
            ),
            one("diffusion-train", &[("diffusion-random", Kind::Normal)]),
            one("diffusion-random", &[]),
            one("diffusion-docs", &[]),
        ];
        assert!(problems(&crates).is_empty());
    }

    #[test]
    fn upward_dependencies_are_named_for_tests_too() {
        let crates = [
            one("diffusion-data", &[("diffusion-train", Kind::Normal)]),
            one("diffusion-unet", &[("diffusion-sample", Kind::Dev)]),
            one("diffusion-cli", &[("diffusion-docs", Kind::Normal)]),
        ];
        let expected = [
            "diffusion-data depends on diffusion-train, which stands above it",
            "diffusion-unet depends on diffusion-sample, which stands above it",
            "diffusion-cli depends on diffusion-docs, which stands above it",
        ];
        assert_eq!(problems(&crates), expected, "an exception for tests is none for the program");
    }

    #[test]
    fn a_crate_may_depend_on_itself_for_its_tests_only() {
        let itself = |kind| problems(&[one("diffusion-data", &[("diffusion-data", kind)])]);
        assert_eq!(itself(Kind::Dev), Vec::<String>::new());
        assert_ne!(itself(Kind::Normal), Vec::<String>::new());
    }

    #[test]
    fn circles_are_named_from_crate_to_crate() {
        let crates = [
            one("diffusion-cli", &[("diffusion-unet", Kind::Normal)]),
            one(
                "diffusion-unet",
                &[("diffusion-nn", Kind::Normal), ("diffusion-random", Kind::Normal)],
            ),
            one("diffusion-nn", &[("diffusion-kernels", Kind::Normal)]),
            one("diffusion-kernels", &[("diffusion-unet", Kind::Dev)]),
        ];
        let expected = [
            "diffusion-kernels depends on diffusion-unet, which stands above it",
            "dependencies form a circle: diffusion-unet → diffusion-nn → diffusion-kernels → diffusion-unet",
        ];
        assert_eq!(problems(&crates), expected);
    }

    #[test]
    fn a_crate_without_a_floor_is_an_error_that_says_where_to_add_it() {
        let crates = [one("diffusion-new", &[("diffusion-cli", Kind::Normal)])];
        let expected = "diffusion-new has no floor: add it to FLOORS in \
                        xtask/src/structure/floors.rs, above all that it depends on";
        assert_eq!(problems(&crates), [expected]);
    }
}
