//! Links to files, to lines of code and to headings.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use walkdir::WalkDir;

use crate::page::Page;
use crate::tour::Problem;

/// Endings of files that a path in code, like `crates/a/src/b.rs`, may name.
const NAMED: [&str; 6] = [".rs", ".toml", ".md", ".png", ".svg", ".py"];

/// Follows every link in the Markdown files of the repository at `root` that leads into it: the file must exist, the heading too,
/// and the line of `file.rs#L12` must hold the code that is the link's text. Paths of several parts that stand as code must
/// exist. With `mend`, numbers of lines are set right where the code stands elsewhere in the file.
///
/// # Errors
/// What the system refuses.
pub fn check_links(root: &Path, mend: bool) -> Result<Vec<Problem>> {
    let mut problems = Vec::new();
    for path in markdown(root) {
        let page = Page::read(&path)?;
        let folder = path.parent().unwrap_or(root);
        let mut text = page.lines.join("\n") + "\n";
        for (line, name, target) in page.links() {
            if target.contains("://") || target.starts_with("mailto:") {
                continue;
            }
            match check_link(&path, folder, &name, &target)? {
                Finding::Fine => {}
                Finding::Elsewhere(right) if mend => {
                    text =
                        text.replace(&format!("[{name}]({target})"), &format!("[{name}]({right})"));
                }
                Finding::Elsewhere(right) => {
                    let what = format!("{name} no longer stands at {target}; it is at {right}");
                    problems.push(Problem { page: path.clone(), line: line + 1, what });
                }
                Finding::Broken(what) => {
                    problems.push(Problem { page: path.clone(), line: line + 1, what })
                }
            }
        }
        for (line, prose) in &page.prose {
            for code in prose.split('`').skip(1).step_by(2).filter(|code| is_path(code)) {
                if !root.join(code).exists() && !folder.join(code).exists() {
                    let what = format!("there is no {code}");
                    problems.push(Problem { page: path.clone(), line: line + 1, what });
                }
            }
        }
        if mend && text != page.lines.join("\n") + "\n" {
            fs::write(&path, text)?;
        }
    }
    Ok(problems)
}

fn markdown(root: &Path) -> Vec<PathBuf> {
    let hidden = |name: &str| name.starts_with('.') || ["target", "runs", "data"].contains(&name);
    let walk = WalkDir::new(root).sort_by_file_name().into_iter();
    walk.filter_entry(|entry| entry.depth() == 0 || !hidden(&entry.file_name().to_string_lossy()))
        .filter_map(|entry| Some(entry.ok()?.into_path()))
        .filter(|path| path.extension().is_some_and(|ending| ending == "md"))
        .collect()
}

enum Finding {
    Fine,
    /// The target that would be right.
    Elsewhere(String),
    Broken(String),
}

fn check_link(page: &Path, folder: &Path, name: &str, target: &str) -> Result<Finding> {
    let (file, place) = target.split_once('#').unwrap_or((target, ""));
    let path = if file.is_empty() { page.to_owned() } else { folder.join(file) };
    if !path.exists() {
        return Ok(Finding::Broken(format!("{target} does not exist")));
    }
    if place.is_empty() {
        return Ok(Finding::Fine);
    }
    let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
    let Some(line) = place.strip_prefix('L').and_then(|number| number.parse::<usize>().ok()) else {
        let found = text
            .lines()
            .filter(|line| line.starts_with('#'))
            .any(|heading| anchor(heading) == place);
        return Ok(if found {
            Finding::Fine
        } else {
            Finding::Broken(format!("{target} has no such heading"))
        });
    };
    let code = name.trim_matches('`');
    let holds = |line: &str| line.contains(code);
    if line > 0 && text.lines().nth(line - 1).is_some_and(holds) {
        return Ok(Finding::Fine);
    }
    Ok(match text.lines().position(holds) {
        Some(at) => Finding::Elsewhere(format!("{file}#L{}", at + 1)),
        None => Finding::Broken(format!("`{code}` does not stand in {file}")),
    })
}

/// A heading as browsers of repositories name it.
fn anchor(heading: &str) -> String {
    let kept = heading.trim_start_matches('#').trim().to_lowercase();
    kept.chars()
        .filter(|c| c.is_alphanumeric() || " -_".contains(*c))
        .map(|c| if c == ' ' { '-' } else { c })
        .collect()
}

/// Whether code is a path in this repository, and no pattern or example of one.
fn is_path(code: &str) -> bool {
    let plain = code.chars().all(|c| c.is_ascii_alphanumeric() || "/._-".contains(c));
    let rooms = ["crates/", "docs/", "xtask/", "tests/", "bench/", "assets/"];
    plain
        && rooms.iter().any(|room| code.starts_with(room))
        && NAMED.iter().any(|ending| code.ends_with(ending))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn broken_links_are_found_and_moved_lines_are_mended() {
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
                "`fn two` no longer stands at ../crates/a.rs#L1; it is at ../crates/a.rs#L2",
                "none.md does not exist",
                "#nowhere has no such heading",
                "`gone` does not stand in ../crates/a.rs",
                "there is no crates/b.rs",
            ]
        );
        assert_eq!(check_links(root.path(), true).unwrap().len(), 4);
        assert!(fs::read_to_string(root.path().join("docs/page.md")).unwrap().contains("a.rs#L2"));
    }
}
