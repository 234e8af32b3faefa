//! The example of the README compiles, runs, and equals the example program.

use std::fs;
use std::path::Path;

#[path = "../examples/digits.rs"]
mod digits;

fn workspace() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."))
}

#[test]
fn the_example_saves_sixteen_pictures() {
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(folder.path().join("assets")).unwrap();
    let model = "assets/digits.safetensors";
    fs::copy(workspace().join(model), folder.path().join(model)).unwrap();
    std::env::set_current_dir(folder.path()).unwrap();
    digits::main().unwrap();
    let pictures: Vec<_> = (0..16).map(|i| format!("sevens/{i:06}.png")).collect();
    for path in &pictures {
        let picture = diffusion::picture::Picture::read_png(Path::new(path)).unwrap();
        assert_eq!((picture.width, picture.height), (28, 28), "{path}");
    }
    assert_eq!(fs::read_dir("sevens").unwrap().count(), 16);
    std::env::set_current_dir(workspace()).unwrap();
}

/// The README opens the run of its first command instead of the shipped model. Everything else is
/// equal, in at most six lines.
#[test]
fn the_readme_shows_the_example() {
    let lines = |text: &str| -> Vec<String> {
        let code = text.lines().filter(|line| !line.is_empty() && !line.starts_with("//!"));
        code.map(str::to_owned).collect()
    };
    let example = include_str!("../examples/digits.rs")
        .replace("assets/digits.safetensors", "runs/mnist-1")
        .replace("pub(crate) fn main", "fn main");
    let readme = fs::read_to_string(workspace().join("README.md")).unwrap();
    let block = readme.split("```rust,no_run\n").nth(1).unwrap().split("```").next().unwrap();
    assert_eq!(lines(block), lines(&example));
    assert!(lines(block).len() <= 6, "{block}");
}
