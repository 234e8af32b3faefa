//! `diffusion man` and `diffusion completions`: what clap knows of the commands, for other readers.

mod markdown;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use clap::Command;
use clap_complete::Shell;

use super::make_folder;
use crate::session::usage::bail_usage;

/// Print the completion script of a shell
///
/// With it, the Tab key completes commands, flags and values. Write the script to the place where
/// the shell looks for completions, and start a new shell.
#[derive(clap::Args)]
#[command(
    after_help = "Examples:\n  diffusion completions bash > ~/.local/share/bash-completion/completions/diffusion\n  \
                        diffusion completions zsh > \"${fpath[1]}/_diffusion\"\n  \
                        diffusion completions fish > ~/.config/fish/completions/diffusion.fish\n  \
                        diffusion completions powershell >> $PROFILE"
)]
pub(crate) struct CompletionsArgs {
    /// The shell that the script is for
    #[arg(value_name = "SHELL")]
    shell: Shell,
}

/// Print the manual page of the program or of one command
///
/// The page is in roff, the format of `man`. With --markdown, all commands are printed as one
/// Markdown page: the file docs/commands.md of the repository.
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  diffusion man | man -l -\n  \
                        diffusion man edit inpaint | man -l -\n  \
                        diffusion man --out ~/.local/share/man/man1")]
pub(crate) struct ManArgs {
    /// The command that the page is about [default: the program]
    #[arg(value_name = "COMMAND")]
    command: Vec<String>,
    /// Write the pages of all commands to this folder instead: diffusion.1, diffusion-train.1, …
    #[arg(long, value_name = "DIR", conflicts_with_all = ["command", "markdown"])]
    out: Option<PathBuf>,
    /// Print all commands as one Markdown page instead
    #[arg(long, conflicts_with = "command")]
    markdown: bool,
}

/// Prints the completion script of `program`.
pub(crate) fn completions(args: &CompletionsArgs, mut program: Command) -> ExitCode {
    let name = program.get_name().to_owned();
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut program, name, &mut script);
    print!("{}", String::from_utf8_lossy(&script));
    ExitCode::SUCCESS
}

/// Prints or writes the manual of `program`.
pub(crate) fn man(args: &ManArgs, program: Command) -> anyhow::Result<ExitCode> {
    if let Some(folder) = &args.out {
        make_folder(folder)?;
        clap_mangen::generate_to(program, folder)
            .with_context(|| format!("--out {}", folder.display()))?;
    } else if args.markdown {
        print!("{}", markdown::page(program));
    } else {
        let mut page = Vec::new();
        clap_mangen::Man::new(find(program, &args.command)?).render(&mut page)?;
        print!("{}", String::from_utf8_lossy(&page));
    }
    Ok(ExitCode::SUCCESS)
}

/// The command that `path` names below `program`.
fn find(mut program: Command, path: &[String]) -> anyhow::Result<Command> {
    program.build();
    let mut command = &program;
    for name in path {
        let Some(next) = command.find_subcommand(name) else {
            let known: Vec<&str> = command.get_subcommands().map(Command::get_name).collect();
            bail_usage!(
                "{} has no command `{name}`; known: {}",
                command.get_bin_name().unwrap_or_default(),
                known.join(", ")
            );
        };
        command = next;
    }
    Ok(command.clone())
}
