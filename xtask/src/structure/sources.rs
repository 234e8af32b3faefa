//! Counts the lines, public items and files of a crate's Rust sources.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::Serialize;

/// The sizes of one crate's sources.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub(super) struct Sources {
    /// Lines in src outside test modules.
    pub(super) code: usize,
    /// Lines of test modules in src, and lines in tests, benches and examples.
    pub(super) tests: usize,
    /// Public items in src.
    pub(super) public: usize,
    /// Files and their numbers of lines, the longest first.
    pub(super) longest_files: Vec<(String, usize)>,
    /// Folders and the number of files directly in them, the fullest first.
    pub(super) fullest_folders: Vec<(String, usize)>,
}

/// The folders of a crate that have Rust files.
const FOLDERS: [&str; 4] = ["src", "tests", "benches", "examples"];

/// The Rust files of the crate in `folder`, including its build script, with their texts.
pub(super) fn rust_files(folder: &Path) -> Result<Vec<(PathBuf, String)>> {
    let mut files = Vec::new();
    for name in FOLDERS {
        collect(&folder.join(name), &mut files)?;
    }
    files.extend(Some(folder.join("build.rs")).filter(|script| script.is_file()));
    let read = |path: PathBuf| {
        let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
        Ok((path, text))
    };
    files.into_iter().map(read).collect()
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    if !folder.is_dir() {
        return Ok(());
    }
    for entry in fs::read_dir(folder).with_context(|| folder.display().to_string())? {
        let path = entry?.path();
        if path.is_dir() {
            collect(&path, files)?;
        } else if path.extension().is_some_and(|ending| ending == "rs") {
            files.push(path);
        }
    }
    Ok(())
}

impl Sources {
    /// Measures the crate in `folder`. Lists the `shown` longest files and fullest folders.
    pub(super) fn read(folder: &Path, shown: usize) -> Result<Self> {
        let [mut code, mut tests, mut public] = [0; 3];
        let mut lengths = Vec::new();
        let mut counts = BTreeMap::<String, usize>::new();
        for (path, text) in rust_files(folder)? {
            let within = path.strip_prefix(folder).unwrap_or(&path);
            let split = if within.starts_with("src") { code_lines(within, &text) } else { 0 };
            let length = text.lines().count();
            code += split;
            tests += length - split;
            public += text.lines().take(split).filter(|line| is_public_item(line)).count();
            lengths.push((name(within), length));
            *counts.entry(within.parent().map(name).unwrap_or_default()).or_default() += 1;
        }
        let (longest_files, fullest_folders) =
            (first(lengths, shown), first(counts.into_iter().collect(), shown));
        Ok(Self { code, tests, public, longest_files, fullest_folders })
    }
}

/// A path with slashes on every system.
fn name(path: &Path) -> String {
    path.iter().map(|part| part.to_string_lossy()).collect::<Vec<_>>().join("/")
}

/// The entries with the largest counts.
fn first(mut entries: Vec<(String, usize)>, shown: usize) -> Vec<(String, usize)> {
    entries.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
    entries.truncate(shown);
    entries
}

/// The number of lines of a file in src before its test module, which must be last.
fn code_lines(path: &Path, text: &str) -> usize {
    if path.iter().any(|part| part == "tests" || part == "tests.rs") {
        return 0;
    }
    let lines: Vec<&str> = text.lines().collect();
    let is_test_module =
        |pair: &[&str]| pair[0] == "#[cfg(test)]" && pair[1].starts_with("mod tests {");
    lines.windows(2).position(is_test_module).unwrap_or(lines.len())
}

/// Whether a line declares a public function, type, trait, constant or macro.
fn is_public_item(line: &str) -> bool {
    const ITEMS: [&str; 11] = [
        "fn", "async", "unsafe", "extern", "struct", "enum", "union", "trait", "type", "const",
        "static",
    ];
    let line = line.trim_start();
    let word = line.strip_prefix("pub ").and_then(|rest| rest.split_whitespace().next());
    line == "#[macro_export]" || word.is_some_and(|word| ITEMS.contains(&word))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_items_files_and_folders_are_counted() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| {
            let path = folder.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        let library = "pub mod a;\npub use a::A;\npub(crate) fn b() {}\npub const fn c() {}\n\n\
                       #[cfg(test)]\nmod tests {\n    pub fn d() {}\n}\n";
        write("src/lib.rs", library);
        write(
            "src/part/a.rs",
            "pub struct A {\n    pub field: u8,\n}\nimpl A {\n    pub fn of() {}\n}\n",
        );
        write("src/part/b.rs", "#[macro_export]\nmacro_rules! b { () => {} }\n");
        write("src/part/tests.rs", "pub fn e() {}\n");
        write("src/tests/more.rs", "pub fn e() {}\n");
        write("tests/whole.rs", "pub fn f() {}\n");
        write("src/notes.md", "pub fn g() {}\n");
        let entry = |name: &str, count| (name.to_owned(), count);
        let expected = Sources {
            code: 5 + 6 + 2,
            tests: 4 + 1 + 1 + 1,
            public: 4,
            longest_files: vec![entry("src/lib.rs", 9), entry("src/part/a.rs", 6)],
            fullest_folders: vec![entry("src/part", 3), entry("src", 1)],
        };
        assert_eq!(Sources::read(folder.path(), 2).unwrap(), expected);
    }
}
