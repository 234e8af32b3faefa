//! Runs all commands of the tour and compares their results with the printed ones.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::page::{Page, PrintedCommand};

/// What [`run_tour`] does about differences.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Reports them.
    Check,
    /// Reports differences of the output, and replaces the pictures by those of the commands.
    Redraw,
    /// As [`Redraw`](Self::Redraw), and replaces the printed output, except output with a line `…`.
    Accept,
}

/// A place where a page differs from the program or the repository.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The path of the page, or of an unused picture.
    pub page: PathBuf,
    /// The line, counted from 1.
    pub line: usize,
    /// What is wrong.
    pub what: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.page.display(), self.line, self.what)
    }
}

/// The folder of the pictures, next to the chapters.
const PICTURES: &str = "pictures";
/// A line that stands for any number of lines.
const ANY_LINES: &str = "…";

/// Runs every command of the chapters in the folder `docs` with the program at `program`, and
/// returns the differences from the printed output and pictures.
///
/// Chapters are the Markdown files whose names begin with a digit, in the order of their names. All
/// commands run in one temporary folder.
///
/// # Errors
/// - If a command cannot be started or fails.
/// - If a chapter or a picture cannot be read or written.
pub fn run_tour(docs: &Path, program: &Path, mode: Mode) -> Result<Vec<Problem>> {
    let work = tempfile::tempdir()?;
    let mut problems = Vec::new();
    let chapters = chapters(docs)?;
    for page in &chapters {
        let mut outputs = Vec::new();
        for command in &page.commands {
            let actual = run(program, command, page, work.path())?;
            if !outputs_match(&command.output, &actual, command.tolerance) {
                let problem = format!(
                    "the output of `diffusion {}` has changed; it is now:\n{}",
                    command.arguments,
                    actual.join("\n")
                );
                problems.push(problem_at(page, command.line, problem));
            }
            let has_ellipsis = command.output.iter().any(|line| line == ANY_LINES);
            outputs.push(if has_ellipsis { command.output.clone() } else { actual });
        }
        problems.extend(unsupported_numbers(page, &outputs));
        for (line, _, target) in page.links() {
            if let Some(name) = target.strip_prefix("pictures/") {
                let (new, old) = (work.path().join(name), docs.join(PICTURES).join(name));
                problems.extend(
                    picture_problem(&new, &old, mode)?.map(|what| problem_at(page, line, what)),
                );
            }
        }
        if mode == Mode::Accept {
            fs::write(&page.path, page.with_outputs(&outputs))?;
        }
    }
    problems.extend(unused_pictures(docs, &chapters)?);
    Ok(problems)
}

fn chapters(docs: &Path) -> Result<Vec<Page>> {
    let mut paths: Vec<PathBuf> = fs::read_dir(docs)?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.extension().is_some_and(|ending| ending == "md"))
        .filter(|path| {
            path.file_name().is_some_and(|name| name.as_encoded_bytes()[0].is_ascii_digit())
        })
        .collect();
    paths.sort();
    paths.iter().map(|path| Page::read(path)).collect()
}

fn problem_at(page: &Page, line: usize, what: String) -> Problem {
    Problem { page: page.path.clone(), line: line + 1, what }
}

/// Runs a command in the folder `work` and returns the lines of its standard output.
fn run(program: &Path, command: &PrintedCommand, page: &Page, work: &Path) -> Result<Vec<String>> {
    let output = Command::new(program)
        .args(command.arguments.split_whitespace())
        .current_dir(work)
        .env("CI", "true")
        .env("DIFFUSION_CACHE", work.join("cache"))
        .env_remove("CARGO_MANIFEST_DIR")
        .output()
        .with_context(|| format!("cannot start {}", program.display()))?;
    if !output.status.success() {
        bail!(
            "{}:{}: `diffusion {}` failed:\n{}",
            page.path.display(),
            command.line + 1,
            command.arguments,
            String::from_utf8_lossy(&output.stderr)
        );
    }
    Ok(String::from_utf8_lossy(&output.stdout)
        .lines()
        .map(|line| line.trim_end().to_owned())
        .collect())
}

/// Whether the actual output matches the printed one, where [`ANY_LINES`] matches any lines.
fn outputs_match(printed: &[String], actual: &[String], tolerance: f64) -> bool {
    match printed.split_first() {
        None => actual.is_empty(),
        Some((first, rest)) if first == ANY_LINES => {
            (0..=actual.len()).any(|skip| outputs_match(rest, &actual[skip..], tolerance))
        }
        Some((first, rest)) => actual.split_first().is_some_and(|(line, others)| {
            lines_match(first, line, tolerance) && outputs_match(rest, others, tolerance)
        }),
    }
}

/// Whether two lines have equal words, except that decimals may differ a little.
fn lines_match(printed: &str, actual: &str, tolerance: f64) -> bool {
    let words = |line: &str| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
    let (printed, actual) = (words(printed), words(actual));
    printed.len() == actual.len()
        && printed.iter().zip(&actual).all(|(a, b)| a == b || decimals_match(a, b, tolerance))
}

/// The value of a number without its punctuation, and one unit of its last digit.
fn number(word: &str) -> Option<(f64, f64)> {
    let word = word.trim_matches(|c: char| ",;()".contains(c)).replace(',', "");
    let value: f64 = word.parse().ok().filter(|value: &f64| value.is_finite())?;
    let (digits, power) = word.split_once(['e', 'E']).unwrap_or((&word, "0"));
    let decimals = digits.split_once('.').map_or(0, |(_, part)| part.len());
    Some((value, 10f64.powi(power.parse::<i32>().ok()? - i32::try_from(decimals).ok()?)))
}

/// Whether two decimals differ by at most one unit of the last digit, or by the share `tolerance`
/// of the printed one. Whole numbers are counts and must be equal.
fn decimals_match(printed: &str, actual: &str, tolerance: f64) -> bool {
    match (number(printed), number(actual)) {
        (Some((a, unit)), Some((b, _))) if printed.contains('.') => {
            (a - b).abs() <= (tolerance * a.abs()).max(1.001 * unit)
        }
        _ => false,
    }
}

/// The numbers in the prose that are in no output and no command of the page, rounded or not.
fn unsupported_numbers(page: &Page, outputs: &[Vec<String>]) -> Vec<Problem> {
    let known: Vec<f64> = outputs
        .iter()
        .flatten()
        .chain(page.commands.iter().map(|command| &command.arguments))
        .flat_map(|line| line.split([' ', ',']))
        .filter_map(|word| number(word).map(|(value, _)| value.abs()))
        .collect();
    let supported = |text: &str| {
        number(text).is_none_or(|(value, unit)| {
            known.iter().any(|known| (known - value).abs() <= 0.501 * unit)
        })
    };
    let unsupported = page.numbers().into_iter().filter(|(_, text)| !supported(text));
    unsupported
        .map(|(line, text)| {
            problem_at(page, line, format!("{text} is in no output and no command of this chapter"))
        })
        .collect()
}

/// Checks that a command wrote the picture `new`, and that `old`, the copy in the tour, has the
/// same size. Except with [`Mode::Check`], `new` replaces `old`.
fn picture_problem(new: &Path, old: &Path, mode: Mode) -> Result<Option<String>> {
    let name = old.file_name().unwrap_or_default().to_string_lossy();
    let Ok(new_bytes) = fs::read(new) else {
        return Ok(Some(format!("no command of this or an earlier chapter writes {name}")));
    };
    if mode != Mode::Check {
        if let Some(folder) = old.parent() {
            fs::create_dir_all(folder)?;
        }
        fs::write(old, new_bytes)?;
        return Ok(None);
    }
    let Ok(old_bytes) = fs::read(old) else { return Ok(Some(format!("{name} is missing"))) };
    // Width and height are in bytes 16 to 24 of a PNG and 6 to 10 of a GIF.
    let size = |bytes: &[u8]| {
        if bytes.starts_with(b"GIF") { bytes.get(6..10) } else { bytes.get(16..24) }
            .map(<[u8]>::to_vec)
    };
    Ok((size(&old_bytes) != size(&new_bytes))
        .then(|| format!("the command now writes {name} with another size; redraw the picture")))
}

/// The pictures that no chapter shows.
fn unused_pictures(docs: &Path, chapters: &[Page]) -> Result<Vec<Problem>> {
    let shown: Vec<String> =
        chapters.iter().flat_map(Page::links).map(|(_, _, target)| target).collect();
    let mut unused = Vec::new();
    for entry in fs::read_dir(docs.join(PICTURES))? {
        let path = entry?.path();
        let target =
            format!("{PICTURES}/{}", path.file_name().unwrap_or_default().to_string_lossy());
        if !shown.contains(&target) {
            unused.push(Problem {
                page: path,
                line: 1,
                what: "no chapter shows this picture".to_owned(),
            });
        }
    }
    Ok(unused)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(text: &str) -> Vec<String> {
        text.lines().map(str::to_owned).collect()
    }

    #[test]
    fn decimals_may_differ_a_little_but_counts_and_words_may_not() {
        let exactly = |a, b| lines_match(a, b, 0.0);
        assert!(exactly("loss 0.1234 at 250", "loss  0.1235 at 250"), "a unit of the last digit");
        assert!(!exactly("loss 0.1234", "loss 0.1236") && !exactly("loss 0.12", "gain 0.12"));
        assert!(!exactly("a 1", "a 1 2") && !exactly("at 250", "at 251"));
        assert!(exactly("2.43e-9", "2.44e-9") && !exactly("2.43e-9", "2.43e-8"));
        assert!(!exactly("520,193 parameters", "520,194 parameters"));
        let roughly = |a, b| lines_match(a, b, 0.1);
        assert!(roughly("loss 0.1234", "loss 0.1300") && !roughly("loss 0.1234", "loss 0.1400"));
        assert!(!roughly("at 250", "at 251"));
    }

    #[test]
    fn an_ellipsis_matches_any_lines() {
        assert!(outputs_match(&lines("a\n…\nc"), &lines("a\nb\nb\nc"), 0.0));
        assert!(
            outputs_match(&lines("…"), &[], 0.0) && outputs_match(&lines("a\n…"), &lines("a"), 0.0)
        );
        assert!(
            !outputs_match(&lines("a\n…\nc"), &lines("a\nb"), 0.0)
                && !outputs_match(&[], &lines("a"), 0.0)
        );
    }

    #[test]
    fn a_number_of_the_prose_must_be_in_an_output_or_its_rounding() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("1.md");
        fs::write(&path, "It is 0.13, or 0.1319, not 0.14, in 2020, at 259, of 3.\n").unwrap();
        let page = Page::read(&path).unwrap();
        let problems = unsupported_numbers(&page, &[lines("alpha 0.1319 -8.2")]);
        assert_eq!(
            problems.iter().map(|p| p.what.as_str()).collect::<Vec<_>>(),
            [
                "0.14 is in no output and no command of this chapter",
                "259 is in no output and no command of this chapter",
            ]
        );
    }
}
