//! Links to files, to lines of code and to headings.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use walkdir::WalkDir;

use crate::page::Page;
use crate::tour::Problem;

/// The endings of paths in code that are checked, such as `crates/a/src/b.rs`.
const PATH_ENDINGS: [&str; 6] = [".rs", ".toml", ".md", ".png", ".svg", ".py"];

/// Checks every link within the repository at `root` in its Markdown files.
///
/// The linked file and heading must exist, and the line of a target `file.rs#L12` must contain the
/// code that is the link's text. Paths in code, such as `crates/a/src/b.rs`, must exist too. Links
/// to web pages are not checked. With `fix`, a wrong line number is corrected in the file if the
/// code is on another line.
///
/// # Errors
/// If a Markdown file or a linked text file cannot be read, or a corrected file cannot be written.
pub fn check_links(root: &Path, fix: bool) -> Result<Vec<Problem>> {
    let mut problems = Vec::new();
    for path in markdown_files(root) {
        let page = Page::read(&path)?;
        let folder = path.parent().unwrap_or(root);
        let mut text = page.lines.join("\n") + "\n";
        for (line, name, target) in page.links() {
            if target.contains("://") || target.starts_with("mailto:") {
                continue;
            }
            match check_link(&path, folder, &name, &target)? {
                LinkState::Valid => {}
                LinkState::Moved(right) if fix => {
                    text =
                        text.replace(&format!("[{name}]({target})"), &format!("[{name}]({right})"));
                }
                LinkState::Moved(right) => {
                    let what = format!("{name} is not at {target}; the right target is {right}");
                    problems.push(Problem { page: path.clone(), line: line + 1, what });
                }
                LinkState::Broken(what) => {
                    problems.push(Problem { page: path.clone(), line: line + 1, what });
                }
            }
        }
        for (line, prose) in &page.prose {
            for code in prose.split('`').skip(1).step_by(2).filter(|code| is_path(code)) {
                if !root.join(code).exists() && !folder.join(code).exists() {
                    let what = format!("{code} does not exist");
                    problems.push(Problem { page: path.clone(), line: line + 1, what });
                }
            }
        }
        if fix && text != page.lines.join("\n") + "\n" {
            fs::write(&path, text)?;
        }
    }
    Ok(problems)
}

fn markdown_files(root: &Path) -> Vec<PathBuf> {
    let skipped = |name: &str| name.starts_with('.') || ["target", "runs", "data"].contains(&name);
    let walk = WalkDir::new(root).sort_by_file_name().into_iter();
    walk.filter_entry(|entry| entry.depth() == 0 || !skipped(&entry.file_name().to_string_lossy()))
        .filter_map(|entry| Some(entry.ok()?.into_path()))
        .filter(|path| path.extension().is_some_and(|ending| ending == "md"))
        .collect()
}

enum LinkState {
    Valid,
    /// The code is on another line; the right target.
    Moved(String),
    /// What is wrong.
    Broken(String),
}

fn check_link(page: &Path, folder: &Path, name: &str, target: &str) -> Result<LinkState> {
    let (file, place) = target.split_once('#').unwrap_or((target, ""));
    let path = if file.is_empty() { page.to_owned() } else { folder.join(file) };
    if !path.exists() {
        return Ok(LinkState::Broken(format!("{target} does not exist")));
    }
    if place.is_empty() {
        return Ok(LinkState::Valid);
    }
    let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
    let Some(line) = place.strip_prefix('L').and_then(|number| number.parse::<usize>().ok()) else {
        let found = text
            .lines()
            .filter(|line| line.starts_with('#'))
            .any(|heading| anchor(heading) == place);
        return Ok(if found {
            LinkState::Valid
        } else {
            LinkState::Broken(format!("{target} has no such heading"))
        });
    };
    let code = name.trim_matches('`');
    let contains_code = |line: &str| line.contains(code);
    if line > 0 && text.lines().nth(line - 1).is_some_and(contains_code) {
        return Ok(LinkState::Valid);
    }
    Ok(match text.lines().position(contains_code) {
        Some(at) => LinkState::Moved(format!("{file}#L{}", at + 1)),
        None => LinkState::Broken(format!("{file} does not contain `{code}`")),
    })
}

/// The anchor of a heading, as code hosting sites such as GitHub form it.
fn anchor(heading: &str) -> String {
    let text = heading.trim_start_matches('#').trim().to_lowercase();
    text.chars()
        .filter(|c| c.is_alphanumeric() || " -_".contains(*c))
        .map(|c| if c == ' ' { '-' } else { c })
        .collect()
}

/// Whether `code` is a path in this repository and not a pattern.
fn is_path(code: &str) -> bool {
    let plain = code.chars().all(|c| c.is_ascii_alphanumeric() || "/._-".contains(c));
    let folders = ["crates/", "docs/", "xtask/", "tests/", "bench/", "assets/"];
    plain
        && folders.iter().any(|folder| code.starts_with(folder))
        && PATH_ENDINGS.iter().any(|ending| code.ends_with(ending))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn broken_links_are_found_and_moved_lines_are_corrected() {
        let root = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| {
            let path = root.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        write("crates/a.rs", "one\nfn two() {}\n");
        write(
            "docs/page.md",
            "# The head: one\n[`fn two`](../crates/a.rs#L1) [x](none.md) [y](#the-head-one) [z](#nowhere)\n\
             [`gone`](../crates/a.rs#L1) `crates/b.rs` https://a.b [w](https://c.d)\n",
        );
        let problems = check_links(root.path(), false).unwrap();
        let whats: Vec<&str> = problems.iter().map(|problem| problem.what.as_str()).collect();
        assert_eq!(
            whats,
            [
                "`fn two` is not at ../crates/a.rs#L1; the right target is ../crates/a.rs#L2",
                "none.md does not exist",
                "#nowhere has no such heading",
                "../crates/a.rs does not contain `gone`",
                "crates/b.rs does not exist",
            ]
        );
        assert_eq!(check_links(root.path(), true).unwrap().len(), 4);
        assert!(fs::read_to_string(root.path().join("docs/page.md")).unwrap().contains("a.rs#L2"));
    }
}
