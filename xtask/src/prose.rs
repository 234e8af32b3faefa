//! `cargo xtask prose`: whether the repository's text keeps to plain English.

use std::path::Path;

use anyhow::{Context, Result, ensure};

use crate::cargo::workspace_root;

/// Phrases that hide the subject, invent a word, or leave the reader to look elsewhere, and what to
/// write instead. They are found as whole words, in any case.
const PHRASES: [(&str, &str); 22] = [
    ("is wanted", "expected, must be, needs"),
    ("are wanted", "expected, must be, need"),
    ("as there", "the thing itself"),
    ("in particular", "unconditional, for classes; else the thing itself"),
    ("is told", "is conditioned on, gets"),
    ("are told", "are conditioned on, get"),
    ("untold", "unconditional"),
    ("nobody", "the subject: which user, which process"),
    ("for people", "human-readable"),
    ("unasked", "by default"),
    ("unless told otherwise", "by default"),
    ("slip of the finger", "must be at most"),
    ("what the system refuses", "an I/O error of the operating system"),
    ("the lesson", "the tutorial, named once"),
    (", say,", "for example"),
    (", say:", "for example"),
    (", say.", "for example"),
    ("to be had", "available"),
    ("learnt by heart", "memorised"),
    ("quiet minutes", "an idle machine"),
    ("way back to noise", "inversion"),
    ("knows nothing", "baseline, for predictors"),
];

/// Openings of a list of errors that send the reader elsewhere.
const ELSEWHERE: [&str; 3] = ["# errors see ", "# errors as ", "# errors those of the "];

/// The most columns of a line of prose or of a comment.
const COLUMNS: usize = 100;
/// The most words of a sentence of the README.
const WORDS: usize = 30;

/// Check the English of the repository: phrases, widths and long sentences
///
/// Looks for unclear phrases in Markdown, comments and texts of the program, for lines of prose over
/// 100 columns, and for sentences of README.md over 30 words.
#[derive(Debug, Default, clap::Args)]
pub(crate) struct ProseArgs {}

pub(crate) fn run(_: &ProseArgs) -> Result<()> {
    let root = workspace_root();
    let mut problems = Vec::new();
    let mut files = 0;
    for path in sources(&root)? {
        let text = std::fs::read_to_string(root.join(&path))
            .with_context(|| format!("cannot read {path}"))?;
        files += 1;
        let extension = path.rsplit('.').next().unwrap_or_default();
        problems.extend(phrases(&text).map(|problem| format!("{path}:{problem}")));
        problems.extend(wide_lines(&text, extension).map(|problem| format!("{path}:{problem}")));
        if path == "README.md" {
            problems.extend(long_sentences(&text).map(|problem| format!("{path}: {problem}")));
        }
    }
    for problem in &problems {
        println!("{problem}");
    }
    ensure!(problems.is_empty(), "{} places are not plain English", problems.len());
    println!("the text of {files} files is plain");
    Ok(())
}

/// The files below the folder `root` that hold text: their paths in it, with slashes.
fn sources(root: &Path) -> Result<Vec<String>> {
    // This file holds the phrases, and the font's licence is somebody else's text.
    let exceptions = ["xtask/src/prose.rs", "crates/diffusion-report/font/README.md"];
    let mut paths = Vec::new();
    let mut folders = vec![String::new()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(root.join(&folder))? {
            let entry = entry?;
            let path = format!("{folder}{}", entry.file_name().to_string_lossy());
            let is_text = [".rs", ".md", ".toml", ".py"].iter().any(|end| path.ends_with(end));
            if entry.file_type()?.is_dir() {
                let is_output = ["target", "runs", "data"].contains(&path.as_str());
                folders.extend((!is_output && !path.starts_with('.')).then(|| path + "/"));
            } else if is_text && !exceptions.contains(&path.as_str()) {
                paths.push(path);
            }
        }
    }
    paths.sort();
    Ok(paths)
}

/// The unclear phrases of a text, also those that a line break divides: a line number and a sentence
/// each.
fn phrases(text: &str) -> impl Iterator<Item = String> + use<> {
    let (joined, starts) = join(text);
    let line = move |position: usize| starts.partition_point(|start| *start <= position);
    let is_whole = |at: usize, phrase: &str| {
        let is_word = |c: Option<char>| c.is_some_and(char::is_alphanumeric);
        let starts_word = phrase.starts_with(char::is_alphanumeric);
        let ends_word = phrase.ends_with(char::is_alphanumeric);
        let begins_inside = starts_word && is_word(joined[..at].chars().next_back());
        let ends_inside = ends_word && is_word(joined[at + phrase.len()..].chars().next());
        !begins_inside && !ends_inside
    };
    let mut found = Vec::new();
    for (phrase, instead) in PHRASES {
        let places = joined.match_indices(phrase).filter(|(at, _)| is_whole(*at, phrase));
        found.extend(places.map(|(at, _)| (line(at), phrase, instead)));
    }
    for phrase in ELSEWHERE {
        let places = joined.match_indices(phrase);
        found.extend(places.map(|(at, _)| (line(at), phrase, "the errors themselves")));
    }
    found.sort_unstable();
    found
        .into_iter()
        .map(|(line, phrase, instead)| format!("{line}: `{}`; write: {instead}", phrase.trim()))
}

/// The text as one line in lower case, without the marks of comments, and where in it each line
/// begins.
fn join(text: &str) -> (String, Vec<usize>) {
    let (mut joined, mut starts) = (String::new(), Vec::new());
    for line in text.lines() {
        starts.push(joined.len());
        let line = line.trim();
        let marks = ["///", "//!", "//"];
        let text = marks.iter().find_map(|mark| line.strip_prefix(mark)).unwrap_or(line).trim();
        let line = text.to_lowercase();
        joined.push_str(line.trim_end_matches('\\').trim_end());
        if !line.is_empty() {
            joined.push(' ');
        }
    }
    (joined, starts)
}

/// Lines of prose that are wider than [`COLUMNS`]: of Markdown outside tables, code, links and
/// pictures, and comments of sources.
fn wide_lines(text: &str, extension: &str) -> impl Iterator<Item = String> + use<> {
    let mut is_code = false;
    let mut wide = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let start = line.trim_start();
        let is_prose = match extension {
            "md" => {
                is_code ^= start.starts_with("```");
                !is_code && !start.starts_with(['|', '!', '[', '<']) && !start.contains("](")
            }
            "rs" => start.starts_with("//") && !start.contains("https://") && !start.contains("| "),
            _ => false,
        };
        if is_prose && line.chars().count() > COLUMNS {
            wide.push(format!(
                "{}: {} columns, more than {COLUMNS}",
                number + 1,
                line.chars().count()
            ));
        }
    }
    wide.into_iter()
}

/// The sentences of Markdown that have more than [`WORDS`] words.
fn long_sentences(text: &str) -> impl Iterator<Item = String> + use<> {
    let sentences = sentences(text);
    sentences.into_iter().filter_map(|sentence| {
        let words = sentence.split_whitespace().count();
        (words > WORDS).then(|| format!("{words} words, more than {WORDS}: {sentence}"))
    })
}

/// The sentences of Markdown: of its paragraphs, items and table cells, without code blocks.
fn sentences(text: &str) -> Vec<String> {
    let mut blocks = vec![String::new()];
    let mut is_code = false;
    for line in text.lines() {
        let line = line.trim();
        if line.starts_with("```") {
            is_code = !is_code;
        }
        if is_code || line.is_empty() || line.starts_with("```") {
            blocks.push(String::new());
        } else if line.starts_with('|') {
            blocks.extend(line.split('|').map(str::to_owned));
            blocks.push(String::new());
        } else {
            if line.starts_with(['-', '*', '#', '!']) {
                blocks.push(String::new());
            }
            if let Some(block) = blocks.last_mut() {
                block.push_str(line);
                block.push(' ');
            }
        }
    }
    let ends = [". ", "? ", "! "];
    let mut sentences = Vec::new();
    for block in &blocks {
        let mut rest = block.as_str();
        while let Some(end) = ends.iter().filter_map(|end| rest.find(end)).min() {
            sentences.push(rest[..=end].trim().to_owned());
            rest = &rest[end + 2..];
        }
        sentences.push(rest.trim().to_owned());
    }
    sentences
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_phrase_is_found_in_comments_strings_and_over_line_breaks() {
        let text =
            "/// A number is\n/// wanted here.\nlet x = \"a \\\n    slip of the \\\n  finger\";\n";
        let found: Vec<String> = phrases(text).collect();
        assert_eq!(found.len(), 2, "{found:?}");
        assert!(found[0].starts_with("1: `is wanted`"), "{found:?}");
        assert!(found[1].starts_with("4: `slip of the finger`"), "{found:?}");
        assert_eq!(phrases("A number from 0 to 1 is expected.").count(), 0);
        assert_eq!(phrases("/// Nobody knows.\n\"unasked\"\n").count(), 2);
        assert_eq!(phrases("the lessons of busybody, as there are").count(), 1);
    }

    #[test]
    fn errors_that_send_the_reader_elsewhere_are_found() {
        assert_eq!(phrases("    /// # Errors\n    ///\n    /// See [`HubError`].\n").count(), 1);
        assert_eq!(phrases("    /// # Errors\n    /// If `width` is 0.\n").count(), 0);
    }

    #[test]
    fn wide_prose_is_found_and_wide_tables_and_code_are_not() {
        let wide = "x ".repeat(60);
        assert_eq!(wide_lines(&format!("{wide}\n"), "md").count(), 1);
        assert_eq!(wide_lines(&format!("| {wide} |\n```\n{wide}\n```\n"), "md").count(), 0);
        assert_eq!(wide_lines(&format!("// {wide}\nlet x = \"{wide}\";\n"), "rs").count(), 1);
    }

    #[test]
    fn a_sentence_may_go_over_lines_but_not_over_paragraphs() {
        let text = "One two\nthree. Four\n\nfive\n\n| six | seven eight |\n";
        let mut sentences = sentences(text);
        sentences.retain(|sentence| !sentence.is_empty());
        assert_eq!(sentences, ["One two three.", "Four", "five", "six", "seven eight"]);
    }
}
