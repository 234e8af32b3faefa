//! Checks that measured figures state where they come from.

use std::path::Path;

use anyhow::Result;

use crate::page::Page;
use crate::tour::Problem;

/// The pages whose figures no test reproduces.
const PAGES: [&str; 3] = ["README.md", "docs/recipe.md", "docs/control.md"];

/// Checks that measured figures state their date, machine and command.
///
/// In README.md, docs/recipe.md and docs/control.md of the repository at `root`, a paragraph that
/// begins with "Record of DATE, MACHINE, COMMAND" must follow each table of figures and each chart.
/// The date is written as 2026-11-27 and the command as code.
///
/// # Errors
/// If a page cannot be read.
pub fn check_records(root: &Path) -> Result<Vec<Problem>> {
    let mut problems = Vec::new();
    for page in PAGES {
        problems.extend(missing_records(&Page::read(&root.join(page))?));
    }
    Ok(problems)
}

fn missing_records(page: &Page) -> Vec<Problem> {
    let mut problems = Vec::new();
    for (at, (line, text)) in page.prose.iter().enumerate() {
        let next = page.prose.get(at + 1).map_or("", |(_, text)| text);
        let what = if is_row(text) && !is_row(next) && has_figures(&table_to(&page.prose[..=at])) {
            "this table has figures"
        } else if text.starts_with("![")
            && text.contains("assets/figures/")
            && text.ends_with(".svg)")
        {
            "this chart shows figures"
        } else {
            continue;
        };
        if !is_record(&paragraph_after(&page.prose[at + 1..])) {
            let what = format!(
                "{what}; the paragraph below it must begin with `Record of DATE, MACHINE, COMMAND`"
            );
            problems.push(Problem { page: page.path.clone(), line: line + 1, what });
        }
    }
    problems
}

fn is_row(line: &str) -> bool {
    line.starts_with('|')
}

/// The rows of the table at the end of `lines`, without its head.
fn table_to(lines: &[(usize, String)]) -> Vec<&str> {
    let rows = lines.iter().rev().map(|(_, line)| line.as_str()).take_while(|line| is_row(line));
    let mut rows: Vec<&str> = rows.collect();
    rows.truncate(rows.len().saturating_sub(2));
    rows
}

/// Whether a cell after the first column begins with a number.
fn has_figures(rows: &[&str]) -> bool {
    let begins_with_number = |cell: &str| {
        let word = cell.trim_start_matches([' ', '*']).split([' ', '*']).next().unwrap_or_default();
        word.replace(',', "").parse::<f64>().is_ok_and(f64::is_finite)
    };
    rows.iter().any(|row| row.split('|').skip(2).any(begins_with_number))
}

/// The first paragraph of `lines`, as one line.
fn paragraph_after(lines: &[(usize, String)]) -> String {
    let lines = lines.iter().map(|(_, line)| line.trim()).skip_while(|line| line.is_empty());
    lines.take_while(|line| !line.is_empty()).collect::<Vec<_>>().join(" ")
}

fn is_record(paragraph: &str) -> bool {
    let parts = paragraph.strip_prefix("Record of ").and_then(|rest| {
        let (date, rest) = rest.split_once(", ")?;
        let (machine, command) = rest.split_once(", `")?;
        Some((date, machine, command.split_once('`')?.0))
    });
    parts.is_some_and(|(date, machine, command)| {
        let form: String = date.chars().map(|c| if c.is_ascii_digit() { '0' } else { c }).collect();
        form == "0000-00-00" && !machine.is_empty() && !command.is_empty()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines_of_problems(text: &str) -> Vec<usize> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("page.md");
        std::fs::write(&path, text).unwrap();
        missing_records(&Page::read(&path).unwrap())
            .into_iter()
            .map(|problem| problem.line)
            .collect()
    }

    #[test]
    fn tables_with_figures_and_charts_need_a_record() {
        let table = "# Page\n\n| work | time |\n|---|---|\n| step | **110** ms |\n";
        assert_eq!(lines_of_problems(table), [5]);
        assert_eq!(lines_of_problems(&format!("{table}\nIt is fast.\n")), [5]);
        let chart = "![A curve](assets/figures/curve.svg)\n\nIt falls.\n";
        assert_eq!(lines_of_problems(chart), [1]);
        let record =
            "Record of 2026-11-24, two cores of a Zen 4 machine,\n`cargo xtask bench`. More.\n";
        assert!(
            lines_of_problems(&format!("{table}\n{record}\n{chart}").replace("It falls.", record))
                .is_empty()
        );
        for wrong in [
            "Record of November 2026, two cores, `cargo xtask bench`",
            "Record of 2026-11-24, `cargo xtask bench`",
            "Record of 2026-11-24, two cores, the benchmark",
        ] {
            assert_eq!(lines_of_problems(&format!("{table}\n{wrong}\n")), [5], "{wrong}");
        }
    }

    #[test]
    fn tables_without_figures_need_no_record() {
        let words = "| key | values |\n|---|---|\n| `a` | `0.1`, or the 35.7 M-parameter network |\n| 200 | many |\n";
        assert!(lines_of_problems(words).is_empty());
    }

    #[test]
    fn every_figure_of_this_repository_has_a_record() {
        let problems = check_records(&Path::new(env!("CARGO_MANIFEST_DIR")).join("..")).unwrap();
        let problems: Vec<String> = problems.iter().map(ToString::to_string).collect();
        assert!(problems.is_empty(), "{}", problems.join("\n"));
    }
}
