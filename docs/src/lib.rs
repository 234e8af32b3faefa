//! Checks a tutorial in Markdown against the program and the code that it describes.
//!
//! - [`run_tour`] runs the commands of all chapters, and compares their output and pictures with
//!   the printed ones.
//! - [`check_links`] checks every link to a file, a heading or a line of code, and can correct line
//!   numbers.
//! - [`check_records`] checks that measured figures state their date, machine and command.
//! - [`Problem`] is a difference: a page, a line and a message. [`Mode`] says whether [`run_tour`]
//!   only reports differences or also updates pictures and output.
//!
//! The crate checks no links to web pages and no Markdown syntax.
//!
//! # Format
//!
//! A chapter is a file whose name begins with a digit. In it:
//!
//! - A fenced block `console` has commands, each after `$ diffusion`, and their output below them.
//!   Whole numbers and words must be equal. Decimals may differ by one in their last digit. In a
//!   block `console 10%`, for the numbers of a trained model, they may differ by a tenth.
//! - A line `…` stands for any number of lines, for output that differs between machines.
//! - Decimals and whole numbers from 100 on in the prose must be in an output or a command of their
//!   chapter, rounded or not. Years, code and quoted lines are exceptions.
//! - A link whose text is code and whose target ends in `#L12` leads to a line that contains this
//!   code.
//! - A picture in the folder `pictures` must be written by a command of this chapter or an earlier
//!   one.
//!
//! # Example
//!
//! The line number of a link is wrong and gets corrected:
//!
//! ```
//! use diffusion_docs::check_links;
//! use std::fs::{read_to_string, write};
//!
//! let folder = tempfile::tempdir()?;
//! let page = folder.path().join("page.md");
//! write(folder.path().join("sum.rs"), "//! Sums.\npub fn sum() {}\n")?;
//! write(&page, "The code is [`pub fn sum`](sum.rs#L1).\n")?;
//!
//! let problems = check_links(folder.path(), false)?;
//! assert_eq!(problems[0].line, 1);
//! check_links(folder.path(), true)?;
//! assert_eq!(read_to_string(&page)?, "The code is [`pub fn sum`](sum.rs#L2).\n");
//! # Ok::<(), anyhow::Error>(())
//! ```

mod links;
mod page;
mod record;
mod tour;

pub use links::check_links;
pub use record::check_records;
pub use tour::{Mode, Problem, run_tour};
