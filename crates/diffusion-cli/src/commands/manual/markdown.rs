//! All commands as one Markdown page.

use std::fmt::Write;

use clap::builder::PossibleValue;
use clap::{Arg, Command};

/// How the page begins.
const HEAD: &str = "# Commands\n\n\
    Written by `diffusion man --markdown` from the help texts of the program; a test compares them.\n";

/// The width of the page's lines.
const COLUMNS: usize = 100;

/// The page of `program` and all of its commands, in the order of `--help`.
pub(super) fn page(mut program: Command) -> String {
    program.build();
    let mut page = HEAD.to_owned();
    section(&mut page, &program, &options(&program, |_| true));
    commands(&mut page, &program);
    page
}

/// The commands below `parent`, each with the ones below it.
fn commands(page: &mut String, parent: &Command) {
    // Clap adds a command `help` to every command that has others.
    for command in parent.get_subcommands().filter(|command| command.get_name() != "help") {
        section(page, command, &options(command, |arg| !arg.is_global_set()));
        commands(page, command);
    }
}

/// A command: name, description, usage, examples and arguments.
fn section(page: &mut String, command: &Command, arguments: &str) {
    let name = command.get_bin_name().unwrap_or(command.get_name());
    let about = command.get_long_about().or(command.get_about()).map(ToString::to_string);
    let usage = command.clone().render_usage().to_string();
    let usage = usage.trim_start_matches("Usage: ");
    let _ = write!(page, "\n## {name}\n\n{}\n", paragraphs(&about.unwrap_or_default(), "", ""));
    let _ = write!(page, "```text\n{usage}\n```\n");
    for block in command.get_after_help().map(ToString::to_string).unwrap_or_default().split("\n\n")
    {
        // Each block has a title, such as "Examples:", and indented lines.
        let Some((title, lines)) = block.split_once('\n') else { continue };
        let language = if title.starts_with("Example") { "sh" } else { "text" };
        let lines: Vec<&str> =
            lines.lines().map(|line| line.strip_prefix("  ").unwrap_or(line)).collect();
        let _ = write!(page, "\n{title}\n\n```{language}\n{}\n```\n", lines.join("\n"));
    }
    page.push_str(arguments);
}

/// The list of the arguments that `is_listed` chooses; positional ones first, as in `--help`.
fn options(command: &Command, is_listed: fn(&Arg) -> bool) -> String {
    let is_own = |arg: &&Arg| {
        !arg.is_hide_set()
            && is_listed(arg)
            && !["help", "version"].contains(&arg.get_id().as_str())
    };
    let (positional, flags): (Vec<&Arg>, Vec<&Arg>) =
        command.get_arguments().filter(is_own).partition(|arg| arg.is_positional());
    let items: String = positional.into_iter().chain(flags).map(item).collect();
    if items.is_empty() { items } else { format!("\n{items}") }
}

/// An argument as an item of a list: its form, its help, its values and its default.
fn item(arg: &Arg) -> String {
    let short = arg.get_short().map(|short| format!("`-{short}`, ")).unwrap_or_default();
    let form = arg.to_string().replace("...", "");
    let help = arg.get_long_help().or(arg.get_help()).map(ToString::to_string).unwrap_or_default();
    let (values, has_help) = values(arg);
    let (first, more) = help.split_once("\n\n").unwrap_or((&help, ""));
    let mut first = ended(first);
    if !values.is_empty() && !has_help {
        let names: Vec<String> = values.iter().map(|(name, _)| format!("`{name}`")).collect();
        let _ = write!(first, " Values: {}.", names.join(", "));
    }
    let defaults: Vec<_> = arg.get_default_values().iter().map(|v| v.to_string_lossy()).collect();
    if arg.get_action().takes_values() && !defaults.is_empty() {
        let _ = write!(first, " Default: `{}`.", defaults.join(" "));
    }
    let mut item = paragraphs(&first, &format!("- {short}`{form}`: "), "  ");
    if has_help {
        for (name, help) in values {
            item.push_str(&paragraphs(&help, &format!("  - `{name}`: "), "    "));
        }
    }
    if !more.is_empty() {
        let _ = write!(item, "\n{}", paragraphs(more, "  ", "  "));
    }
    item
}

/// The possible values of an argument with their help, and whether there is any.
fn values(arg: &Arg) -> (Vec<(String, String)>, bool) {
    if !arg.get_action().takes_values() || arg.is_hide_possible_values_set() {
        return (Vec::new(), false);
    }
    let values = arg.get_possible_values().into_iter().filter(|value| !value.is_hide_set());
    let help = |value: &PossibleValue| value.get_help().map(ToString::to_string);
    let values: Vec<_> = values
        .map(|value| (value.get_name().to_owned(), help(&value).unwrap_or_default()))
        .collect();
    let has_help = values.iter().any(|(_, help)| !help.is_empty());
    (values, has_help)
}

/// `text` with a full stop at its end.
fn ended(text: &str) -> String {
    let is_ended = text.ends_with(['.', ':', '!', ']']);
    if is_ended { text.to_owned() } else { format!("{text}.") }
}

/// The paragraphs of a help text in lines of at most [`COLUMNS`]: the first line after `first`, the
/// others after `indent`. Ends with a line break.
fn paragraphs(text: &str, first: &str, indent: &str) -> String {
    let mut lines = first.to_owned();
    for (number, paragraph) in text.trim().split("\n\n").enumerate() {
        if number > 0 {
            let _ = write!(lines, "\n{indent}");
        }
        wrap(&mut lines, &escaped(paragraph), indent);
    }
    lines
}

/// `text` with backslashes before the signs of Markdown, except in code.
fn escaped(text: &str) -> String {
    let escape = |text: &str| text.replace('<', "\\<").replace('*', "\\*").replace('[', "\\[");
    let parts = text.split('`').enumerate();
    let parts: Vec<String> =
        parts.map(|(i, part)| if i % 2 == 0 { escape(part) } else { part.to_owned() }).collect();
    parts.join("`")
}

/// Appends a paragraph and a line break to `lines`.
fn wrap(lines: &mut String, paragraph: &str, indent: &str) {
    let width = |lines: &str| lines.rsplit('\n').next().unwrap_or_default().chars().count();
    let mut is_first = true;
    for word in paragraph.split_whitespace() {
        if is_first {
            lines.push_str(word);
        } else if width(lines) + 1 + word.chars().count() > COLUMNS {
            let _ = write!(lines, "\n{indent}{word}");
        } else {
            let _ = write!(lines, " {word}");
        }
        is_first = false;
    }
    lines.push('\n');
}

#[cfg(all(test, feature = "hub"))]
mod tests {
    use clap::CommandFactory;

    #[test]
    fn the_page_in_the_repository_is_what_clap_says() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/commands.md");
        let written = std::fs::read_to_string(path).unwrap();
        let page = super::page(crate::Cli::command());
        let differing = page.lines().zip(written.lines()).find(|(now, then)| now != then);
        assert!(
            page == written,
            "docs/commands.md is out of date at {differing:?}: \
             cargo run -p diffusion-cli -- man --markdown > docs/commands.md"
        );
    }
}
