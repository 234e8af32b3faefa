//! Parses a chapter: commands with their output, prose, links and numbers.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// A command and its printed output.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct PrintedCommand {
    /// The line of the command in the page, counted from 0.
    pub(crate) line: usize,
    /// The text after `$ diffusion `.
    pub(crate) arguments: String,
    /// The lines below the command.
    pub(crate) output: Vec<String>,
    /// The share by which decimals of the output may differ: 0.1 for `console 10%`.
    pub(crate) tolerance: f64,
}

/// A Markdown page.
#[derive(Clone, Debug)]
pub(crate) struct Page {
    pub(crate) path: PathBuf,
    pub(crate) lines: Vec<String>,
    pub(crate) commands: Vec<PrintedCommand>,
    /// The lines outside fenced blocks, with their numbers counted from 0.
    pub(crate) prose: Vec<(usize, String)>,
}

/// The beginning of a line with a command.
const PROMPT: &str = "$ diffusion ";

impl Page {
    pub(crate) fn read(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
        Ok(Self::parse(path, &text))
    }

    fn parse(path: &Path, text: &str) -> Self {
        let lines: Vec<String> = text.lines().map(str::to_owned).collect();
        let (mut commands, mut prose) = (Vec::<PrintedCommand>::new(), Vec::new());
        let mut fence: Option<Option<f64>> = None;
        for (number, line) in lines.iter().enumerate() {
            match (fence, line.strip_prefix("```")) {
                (None, Some(kind)) => fence = Some(tolerance(kind.trim())),
                (Some(_), Some(_)) => fence = None,
                (None, None) => prose.push((number, line.clone())),
                (Some(None), None) => {}
                (Some(Some(tolerance)), None) => match line.strip_prefix(PROMPT) {
                    Some(arguments) => {
                        let arguments = arguments.trim().to_owned();
                        commands.push(PrintedCommand {
                            line: number,
                            arguments,
                            output: Vec::new(),
                            tolerance,
                        });
                    }
                    None => {
                        if let Some(command) = commands.last_mut() {
                            command.output.push(line.clone());
                        }
                    }
                },
            }
        }
        Self { path: path.to_owned(), lines, commands, prose }
    }

    /// The text of the page with `outputs`, one per command, as the printed output.
    pub(crate) fn with_outputs(&self, outputs: &[Vec<String>]) -> String {
        let mut lines = self.lines.clone();
        for (command, output) in self.commands.iter().zip(outputs).rev() {
            let first = command.line + 1;
            lines.splice(first..first + command.output.len(), output.iter().cloned());
        }
        lines.join("\n") + "\n"
    }

    /// The links and pictures in the prose: line counted from 0, text and target.
    pub(crate) fn links(&self) -> Vec<(usize, String, String)> {
        let mut links = Vec::new();
        for (number, line) in &self.prose {
            for (before, target) in split_at_targets(line).0 {
                let text = before.rfind('[').map_or("", |open| &before[open + 1..]);
                links.push((*number, text.to_owned(), target.to_owned()));
            }
        }
        links
    }

    /// The numbers in the prose that an output must contain: the line counted from 0, and the
    /// number as text.
    ///
    /// These are decimals, and whole numbers of at least three digits that are not years. Code,
    /// targets of links and quoted lines, which hold the formulas, are left out.
    pub(crate) fn numbers(&self) -> Vec<(usize, String)> {
        let mut numbers = Vec::new();
        for (number, line) in self.prose.iter().filter(|(_, line)| !line.starts_with('>')) {
            let without_code: String = line.split('`').step_by(2).collect::<Vec<_>>().join(" ");
            let (links, rest) = split_at_targets(&without_code);
            let text: Vec<&str> =
                links.into_iter().map(|(before, _)| before).chain([rest]).collect();
            let text = text.join(" ");
            let words = text
                .split(|c: char| !(c.is_ascii_digit() || c == '.'))
                .map(|word| word.trim_matches('.'));
            numbers.extend(
                words.filter(|word| looks_measured(word)).map(|word| (*number, word.to_owned())),
            );
        }
        numbers
    }
}

/// Splits a line at the targets of its links: the text before each target with the target, and the
/// rest after the last one.
fn split_at_targets(line: &str) -> (Vec<(&str, &str)>, &str) {
    let mut links = Vec::new();
    let mut rest = line;
    while let Some((before, after)) = rest.split_once("](") {
        let Some((target, remaining)) = after.split_once(')') else { return (links, before) };
        links.push((before, target));
        rest = remaining;
    }
    (links, rest)
}

/// The tolerance of a fenced block: 0 for `console`, 0.1 for `console 10%`. `None` if the block has
/// no commands.
fn tolerance(kind: &str) -> Option<f64> {
    let rest = kind.strip_prefix("console")?.trim();
    let percent = if rest.is_empty() { "0" } else { rest.strip_suffix('%')? };
    percent.parse::<f64>().ok().map(|percent| percent / 100.0)
}

/// Whether a number looks measured: a decimal, or a whole number from 100 on that is not a year.
fn looks_measured(word: &str) -> bool {
    match word.split_once('.') {
        Some((_, decimals)) => !decimals.contains('.'),
        None => {
            word.len() > 2
                && word.parse::<u32>().is_ok_and(|number| !(1900..2100).contains(&number))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "# A page 1\n\nAt the end 0.13 is left, `0.5` is code, see [`fn f`](../a/b.rs#L2.5).\n\n\
                        ```console\n$ diffusion one --two\nfirst 0.132\n$ diffusion three\n```\n![A picture](p/x.png)\n";

    #[test]
    fn commands_links_and_numbers_are_parsed() {
        let page = Page::parse(Path::new("a.md"), TEXT);
        let commands: Vec<_> =
            page.commands.iter().map(|c| (c.line, c.arguments.as_str(), c.output.len())).collect();
        assert_eq!(commands, [(5, "one --two", 1), (7, "three", 0)]);
        let targets: Vec<_> =
            page.links().into_iter().map(|(_, text, target)| (text, target)).collect();
        let expected = [("`fn f`", "../a/b.rs#L2.5"), ("A picture", "p/x.png")];
        assert_eq!(targets, expected.map(|(a, b)| (a.to_owned(), b.to_owned())));
        assert_eq!(page.numbers(), [(2, "0.13".to_owned())]);
        let other = page.with_outputs(&[
            vec!["second".to_owned(), "third".to_owned()],
            vec!["fourth".to_owned()],
        ]);
        assert!(
            other.contains("$ diffusion one --two\nsecond\nthird\n$ diffusion three\nfourth\n```"),
            "{other}"
        );
    }
}
