//! Following the tour from the first command to the last.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::page::{Page, Shown};

/// What to do about what has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Report it.
    Check,
    /// Report it, and copy the pictures that the commands draw into the tour.
    Redraw,
    /// Put the new output and pictures into the chapters.
    Accept,
}

/// Something that the tour says and that is not so.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The page.
    pub page: PathBuf,
    /// Counted from 1.
    pub line: usize,
    /// What is wrong.
    pub what: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.page.display(), self.line, self.what)
    }
}

/// The folder of the pictures, beside the chapters.
const PICTURES: &str = "pictures";
/// Stands for any lines.
const ANY: &str = "…";

/// Runs every command of the chapters in `docs`, in the order of their names, in a folder of their own with the program at
/// `program`; returns what is not as it is printed.
///
/// # Errors
/// A command that fails; what the system refuses.
pub fn follow(docs: &Path, program: &Path, mode: Mode) -> Result<Vec<Problem>> {
    let place = tempfile::tempdir()?;
    let mut problems = Vec::new();
    let chapters = chapters(docs)?;
    for page in &chapters {
        let mut outputs = Vec::new();
        for shown in &page.commands {
            let actual = run(program, shown, page, place.path())?;
            if !agree(&shown.output, &actual, shown.tolerance) {
                let problem = format!("`{}` now says:\n{}", shown.arguments, actual.join("\n"));
                problems.push(problem_at(page, shown.line, problem));
            }
            let keep = shown.output.iter().any(|line| line == ANY);
            outputs.push(if keep { shown.output.clone() } else { actual });
        }
        problems.extend(unsupported_numbers(page, &outputs));
        for (line, _, target) in page.links() {
            if let Some(name) = target.strip_prefix("pictures/") {
                let (drawn, kept) = (place.path().join(name), docs.join(PICTURES).join(name));
                problems.extend(
                    picture_problem(&drawn, &kept, mode)?.map(|what| problem_at(page, line, what)),
                );
            }
        }
        if mode == Mode::Accept {
            fs::write(&page.path, page.with_outputs(&outputs))?;
        }
    }
    problems.extend(strangers(docs, &chapters)?);
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

/// The lines on standard output.
fn run(program: &Path, shown: &Shown, page: &Page, place: &Path) -> Result<Vec<String>> {
    let output = Command::new(program)
        .args(shown.arguments.split_whitespace())
        .current_dir(place)
        .env("CI", "true")
        .env("DIFFUSION_CACHE", place.join("cache"))
        .env_remove("CARGO_MANIFEST_DIR")
        .output()
        .with_context(|| format!("cannot start {}", program.display()))?;
    if !output.status.success() {
        bail!(
            "{}:{}: `diffusion {}` failed:\n{}",
            page.path.display(),
            shown.line + 1,
            shown.arguments,
            String::from_utf8_lossy(&output.stderr)
        );
    }
    Ok(String::from_utf8_lossy(&output.stdout)
        .lines()
        .map(|line| line.trim_end().to_owned())
        .collect())
}

/// Whether output is what was printed, [`ANY`] standing for any lines.
fn agree(printed: &[String], actual: &[String], tolerance: f64) -> bool {
    match printed.split_first() {
        None => actual.is_empty(),
        Some((first, rest)) if first == ANY => {
            (0..=actual.len()).any(|skip| agree(rest, &actual[skip..], tolerance))
        }
        Some((first, rest)) => actual.split_first().is_some_and(|(line, others)| {
            same(first, line, tolerance) && agree(rest, others, tolerance)
        }),
    }
}

/// Whether two lines say the same: word for word, but for decimals, which may differ a little.
fn same(printed: &str, actual: &str, tolerance: f64) -> bool {
    let words = |line: &str| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
    let (printed, actual) = (words(printed), words(actual));
    printed.len() == actual.len()
        && printed.iter().zip(&actual).all(|(a, b)| a == b || near(a, b, tolerance))
}

/// The number that a word is, without what stands around it, and one unit of its last digit.
fn number(word: &str) -> Option<(f64, f64)> {
    let word = word.trim_matches(|c: char| ",;()".contains(c)).replace(',', "");
    let value: f64 = word.parse().ok().filter(|value: &f64| value.is_finite())?;
    let (digits, power) = word.split_once(['e', 'E']).unwrap_or((&word, "0"));
    let decimals = digits.split_once('.').map_or(0, |(_, part)| part.len());
    Some((value, 10f64.powi(power.parse::<i32>().ok()? - i32::try_from(decimals).ok()?)))
}

/// Whether two decimals are one but for their last digit, or by `tolerance` of the one that is printed. Whole numbers are counts, and
/// never near.
fn near(printed: &str, actual: &str, tolerance: f64) -> bool {
    match (number(printed), number(actual)) {
        (Some((a, unit)), Some((b, _))) if printed.contains('.') => {
            (a - b).abs() <= (tolerance * a.abs()).max(1.001 * unit)
        }
        _ => false,
    }
}

/// Numbers of the prose that no output and no command of the page has, rounded or not.
fn unsupported_numbers(page: &Page, outputs: &[Vec<String>]) -> Vec<Problem> {
    let known: Vec<f64> = outputs
        .iter()
        .flatten()
        .chain(page.commands.iter().map(|shown| &shown.arguments))
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
            problem_at(page, line, format!("{text} stands in no output or command of this chapter"))
        })
        .collect()
}

/// A picture of the tour must be one that its commands draw, of the same size.
fn picture_problem(drawn: &Path, kept: &Path, mode: Mode) -> Result<Option<String>> {
    let name = kept.file_name().unwrap_or_default().to_string_lossy();
    let Ok(new) = fs::read(drawn) else {
        return Ok(Some(format!("no command before it draws {name}")));
    };
    if mode != Mode::Check {
        if let Some(folder) = kept.parent() {
            fs::create_dir_all(folder)?;
        }
        fs::write(kept, &new)?;
        return Ok(None);
    }
    let Ok(old) = fs::read(kept) else { return Ok(Some(format!("{name} is missing"))) };
    // Width and height stand at bytes 16 to 24 of a PNG and 6 to 10 of a GIF.
    let size = |bytes: &[u8]| {
        if bytes.starts_with(b"GIF") { bytes.get(6..10) } else { bytes.get(16..24) }
            .map(<[u8]>::to_vec)
    };
    Ok((size(&old) != size(&new)).then(|| format!("{name} has another size now; draw it anew")))
}

/// Pictures that no chapter shows.
fn strangers(docs: &Path, chapters: &[Page]) -> Result<Vec<Problem>> {
    let shown: Vec<String> =
        chapters.iter().flat_map(Page::links).map(|(_, _, target)| target).collect();
    let mut strangers = Vec::new();
    for entry in fs::read_dir(docs.join(PICTURES))? {
        let path = entry?.path();
        let target =
            format!("{PICTURES}/{}", path.file_name().unwrap_or_default().to_string_lossy());
        if !shown.contains(&target) {
            strangers.push(Problem {
                page: path,
                line: 1,
                what: "no chapter shows this picture".to_owned(),
            });
        }
    }
    Ok(strangers)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(text: &str) -> Vec<String> {
        text.lines().map(str::to_owned).collect()
    }

    #[test]
    fn decimals_may_differ_a_little_and_counts_and_words_may_not() {
        let exactly = |a, b| same(a, b, 0.0);
        assert!(exactly("loss 0.1234 at 250", "loss  0.1235 at 250"), "a unit of the last digit");
        assert!(!exactly("loss 0.1234", "loss 0.1236") && !exactly("loss 0.12", "gain 0.12"));
        assert!(!exactly("a 1", "a 1 2") && !exactly("at 250", "at 251"));
        assert!(exactly("2.43e-9", "2.44e-9") && !exactly("2.43e-9", "2.43e-8"));
        assert!(!exactly("520,193 parameters", "520,194 parameters"));
        let roughly = |a, b| same(a, b, 0.1);
        assert!(roughly("loss 0.1234", "loss 0.1300") && !roughly("loss 0.1234", "loss 0.1400"));
        assert!(!roughly("at 250", "at 251"));
    }

    #[test]
    fn dots_stand_for_any_lines() {
        assert!(agree(&lines("a\n…\nc"), &lines("a\nb\nb\nc"), 0.0));
        assert!(agree(&lines("…"), &[], 0.0) && agree(&lines("a\n…"), &lines("a"), 0.0));
        assert!(!agree(&lines("a\n…\nc"), &lines("a\nb"), 0.0) && !agree(&[], &lines("a"), 0.0));
    }

    #[test]
    fn a_number_of_the_prose_must_be_one_of_an_output_or_its_rounding() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("1.md");
        fs::write(&path, "It is 0.13, or 0.1319, not 0.14, in 2020, at 259, of 3.\n").unwrap();
        let page = Page::read(&path).unwrap();
        let problems = unsupported_numbers(&page, &[lines("alpha 0.1319 -8.2")]);
        assert_eq!(
            problems.iter().map(|p| p.what.as_str()).collect::<Vec<_>>(),
            [
                "0.14 stands in no output or command of this chapter",
                "259 stands in no output or command of this chapter",
            ]
        );
    }
}
