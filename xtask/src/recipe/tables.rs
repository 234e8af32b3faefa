//! Compares the tables of the README and docs/recipe.md with the records in assets/figures.

use std::fs;

use anyhow::{Context, Result};
use diffusion_eval::mean_and_deviation;
use serde_json::Value;

use super::record::{Outcome, read_record};
use crate::cargo::workspace_root;

/// The largest difference between a printed and a recorded number, in units of the last digit. A
/// little more than half, for numbers that were rounded twice.
const TOLERANCE: f64 = 0.56;

/// The result of the comparison.
pub(crate) struct TableComparison {
    /// The number of compared cells.
    pub(crate) cells: usize,
    /// The cells that differ from the record, one sentence each.
    pub(crate) problems: Vec<String>,
}

/// Compares all tables that the records cover.
///
/// # Errors
///
/// If a page or a record cannot be read, or if a page lacks a table.
pub(crate) fn compare_tables() -> Result<TableComparison> {
    let root = workspace_root();
    let read = |name: &str| fs::read_to_string(root.join(name)).with_context(|| name.to_owned());
    let (readme, recipe) = (read("README.md")?, read("docs/recipe.md")?);
    let search = read_record(&root.join("assets/figures/recipe.jsonl"))?;
    let curve: Vec<Value> = serde_json::from_str(&read("assets/figures/curve.json")?)
        .context("assets/figures/curve.json")?;
    let mut comparison = TableComparison { cells: 0, problems: Vec::new() };
    comparison.search(rows(&recipe, "| row | steps | s/step |")?, &search);
    comparison.five_minutes(rows(&recipe, "| row | steps | Fréchet distance |")?, &search);
    comparison.samplers(rows(&recipe, "| sampler | 5 steps | 10 |")?, &search);
    comparison.columns_by_minutes(rows(&recipe, "| | default, 1 min |")?, &curve);
    comparison.rows_by_minutes(rows(&recipe, "| | Fréchet distance |")?, &curve);
    comparison.summary(rows(&readme, "| training | Fréchet distance |")?, &curve);
    Ok(comparison)
}

/// The cells of a table.
type Rows<'a> = Vec<Vec<&'a str>>;

/// The rows below the table head of `page` that begins with `head`.
fn rows<'a>(page: &'a str, head: &str) -> Result<Rows<'a>> {
    let mut lines = page.lines().skip_while(|line| !line.starts_with(head));
    lines.next().with_context(|| format!("expected a table with the head `{head}`"))?;
    let cells = |line: &'a str| line.trim_matches('|').split('|').map(str::trim).collect();
    Ok(lines.skip(1).take_while(|line| line.starts_with('|')).map(cells).collect())
}

/// The outcomes of one row with one sampler for all seeds.
fn outcomes<'a>(
    search: &'a [Outcome],
    base_steps: u64,
    row: &str,
    sampler: &str,
) -> Vec<&'a Outcome> {
    let matches = |o: &&Outcome| o.base_steps == base_steps && o.row == row && o.sampler == sampler;
    search.iter().filter(matches).collect()
}

/// The mean of a figure and, for more than one seed, its standard deviation.
fn spread(outcomes: &[&Outcome], figure: fn(&Outcome) -> f64) -> Vec<f64> {
    let (mean, deviation) =
        mean_and_deviation(&outcomes.iter().map(|o| figure(o)).collect::<Vec<_>>());
    [Some(mean), deviation].into_iter().flatten().collect()
}

/// The text between the first backticks of a cell.
fn code(cell: &str) -> &str {
    cell.split('`').nth(1).unwrap_or_default()
}

/// The default recipe's point for the number of minutes at the start of `minutes`.
fn point<'a>(curve: &'a [Value], minutes: &str) -> Option<&'a Value> {
    let minutes: f64 = minutes.split_whitespace().next()?.parse().ok()?;
    curve.iter().find(|point| point["recipe"] == "default" && point["minutes"] == minutes)
}

/// A figure, by its name in the tables.
fn figure(figures: &Value, name: &str) -> Option<f64> {
    match name {
        "Fréchet distance" => figures["frechet_distance"].as_f64(),
        "classified confidently" => figures["sure"].as_f64(),
        "smallest class" => {
            let shares = figures["class_shares"].as_array()?;
            shares.iter().filter_map(Value::as_f64).min_by(f64::total_cmp)
        }
        name => figures[name].as_f64(),
    }
}

impl TableComparison {
    /// Compares the numbers of a cell with the recorded values. Percentages are recorded as shares.
    fn cell(&mut self, place: &str, cell: &str, recorded: &[f64]) {
        self.cells += 1;
        let scale = if cell.contains('%') { 100.0 } else { 1.0 };
        let printed: Vec<&str> =
            cell.trim_matches('*').split([' ', '±', '%']).filter(|word| !word.is_empty()).collect();
        let agrees = |(printed, recorded): (&&str, &f64)| {
            let digits = printed.split_once('.').map_or(0, |(_, decimals)| decimals.len());
            let unit = 0.1f64.powi(i32::try_from(digits).unwrap_or(i32::MAX));
            printed
                .parse::<f64>()
                .is_ok_and(|value| (value - recorded * scale).abs() <= TOLERANCE * unit)
        };
        if printed.len() != recorded.len() || !printed.iter().zip(recorded).all(agrees) {
            self.problems.push(format!("{place}: the table has {cell}, the record {recorded:?}"));
        }
    }

    fn search(&mut self, rows: Rows<'_>, search: &[Outcome]) {
        let mut name = "";
        for cells in rows {
            let guidance = cells[0].strip_prefix("the same, guidance of ");
            if guidance.is_none() {
                name = code(cells[0]);
            }
            let sampler =
                format!("dpmpp-2m-sde:15{}", guidance.map(|g| format!("@{g}")).unwrap_or_default());
            let runs = outcomes(search, 400, name, &sampler);
            let Some(first) = runs.first() else {
                self.problems.push(format!("docs/recipe.md, {}: not in the record", cells[0]));
                continue;
            };
            let place = |column: &str| format!("docs/recipe.md, {name} by {sampler}, {column}");
            if guidance.is_none() {
                self.cell(&place("steps"), cells[1], &[first.steps as f64]);
                self.cell(&place("s/step"), cells[2], &[first.seconds_per_step]);
                self.cell(&place("loss"), cells[3], &spread(&runs, |o| o.loss)[..1]);
            }
            self.cell(&place("Fréchet distance"), cells[4], &spread(&runs, |o| o.frechet_distance));
            self.cell(&place("classified confidently"), cells[5], &spread(&runs, |o| o.sure));
            self.cell(&place("smallest class"), cells[6], &spread(&runs, |o| o.smallest_class));
            self.cell(&place("recall"), cells[7], &spread(&runs, |o| o.recall));
            self.cell(&place("coverage"), cells[8], &spread(&runs, |o| o.coverage));
        }
    }

    fn five_minutes(&mut self, rows: Rows<'_>, search: &[Outcome]) {
        for cells in rows {
            let runs = outcomes(search, 4271, code(cells[0]), "dpmpp-2m-sde:15@1.1");
            let place = format!("docs/recipe.md, five minutes of {}", cells[0]);
            self.cell(&place, cells[1], &spread(&runs, |o| o.steps as f64));
            self.cell(&place, cells[2], &spread(&runs, |o| o.frechet_distance));
            self.cell(&place, cells[3], &spread(&runs, |o| o.sure));
            self.cell(&place, cells[4], &spread(&runs, |o| o.recall));
            self.cell(&place, cells[5], &spread(&runs, |o| o.coverage));
        }
    }

    fn samplers(&mut self, rows: Rows<'_>, search: &[Outcome]) {
        for cells in rows {
            for (steps, cell) in
                [5, 10, 15, 20, 50].into_iter().zip(&cells[1..]).filter(|(_, c)| !c.is_empty())
            {
                let sampler = format!("{}:{steps}@1.1", code(cells[0]));
                let runs = outcomes(search, 4271, "conditional", &sampler);
                self.cell(
                    &format!("docs/recipe.md, five minutes sampled by {sampler}"),
                    cell,
                    &spread(&runs, |o| o.frechet_distance),
                );
            }
        }
    }

    fn columns_by_minutes(&mut self, rows: Rows<'_>, curve: &[Value]) {
        let tutorial = curve.iter().filter(|point| point["recipe"] == "tutorial");
        let tutorial = tutorial.max_by_key(|point| point["steps"].as_u64());
        let points =
            [point(curve, "1"), point(curve, "2"), point(curve, "5"), point(curve, "30"), tutorial];
        for cells in rows {
            for (column, (point, cell)) in points.iter().zip(&cells[1..]).enumerate() {
                let place = format!("docs/recipe.md, {} in column {}", cells[0], column + 2);
                let figures = point.map(|point| &point["of_1000"]);
                let value = figures.and_then(|figures| figure(figures, cells[0]));
                match (value, *cell) {
                    (None, "none") => {
                        let copies = point.and_then(|point| point["copies"].as_f64());
                        self.cell(&place, "0", copies.as_slice());
                    }
                    (value, cell) => self.cell(&place, cell, value.as_slice()),
                }
            }
        }
    }

    fn rows_by_minutes(&mut self, rows: Rows<'_>, curve: &[Value]) {
        let names = [
            "Fréchet distance",
            "classified confidently",
            "smallest class",
            "precision",
            "recall",
            "coverage",
        ];
        for cells in rows {
            let Some(training) = cells[0].strip_prefix("default, ") else { continue };
            let figures = point(curve, training).map(|point| {
                if training.contains("class frequencies") {
                    &point["in_the_proportions_of_mnist"]
                } else {
                    &point["of_all"]
                }
            });
            for (name, cell) in names.into_iter().zip(&cells[1..]) {
                let value = figures.and_then(|figures| figure(figures, name));
                self.cell(&format!("docs/recipe.md, {}, {name}", cells[0]), cell, value.as_slice());
            }
        }
    }

    fn summary(&mut self, rows: Rows<'_>, curve: &[Value]) {
        for cells in rows {
            let Some(point) = point(curve, cells[0]) else { continue };
            let columns = [
                (&point["of_all"], "Fréchet distance"),
                (&point["in_the_proportions_of_mnist"], "Fréchet distance"),
                (&point["of_all"], "classified confidently"),
            ];
            for ((figures, name), cell) in columns.into_iter().zip(&cells[1..]) {
                let value = figure(figures, name);
                if value.is_some() || !cell.is_empty() {
                    self.cell(&format!("README.md, {}, {name}", cells[0]), cell, value.as_slice());
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tables_agree_with_the_records() {
        let TableComparison { cells, problems } = compare_tables().unwrap();
        assert!(problems.is_empty(), "{}", problems.join("\n"));
        assert_eq!(cells, 330, "cells that the records cover");
    }

    #[test]
    fn a_cell_agrees_with_its_record_up_to_the_last_digit() {
        let agree = |cell: &str, recorded: &[f64]| {
            let mut comparison = TableComparison { cells: 0, problems: Vec::new() };
            comparison.cell("here", cell, recorded);
            comparison.problems.is_empty()
        };
        assert!(agree("21.42 ± 4.70", &[21.424, 4.697]) && agree("**0.17**", &[0.1749]));
        assert!(agree("98.1 ± 0.5 %", &[0.9813, 0.0049]) && agree("4271", &[4271.0]));
        assert!(!agree("21.42 ± 4.70", &[21.424, 4.68]) && !agree("21.42", &[21.42, 4.7]));
        assert!(!agree("0.17", &[0.176]) && !agree("", &[0.17]) && !agree("4271", &[4272.0]));
    }
}
