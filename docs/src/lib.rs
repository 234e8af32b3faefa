//! The guided tour keeps its word: its commands run as printed, their output is what stands below them, its pictures are theirs,
//! and its links lead somewhere.
//!
//! In a chapter, a fenced block `console` holds commands, each behind `$ diffusion`, and below each its output. A line `…` there
//! stands for any lines: for what differs from machine to machine. Whole numbers must be the same and decimals may differ by one in their
//! last digit; in a block `console 10%`, for what a trained model says, by a tenth. Decimals and large numbers of the prose must stand in an
//! output or a command of their chapter. A link whose text is code and whose target ends in `#L12` leads to a line in which that
//! code stands.
//!
//! Figures of the README, docs/recipe.md and docs/control.md, which no test makes anew, say when,
//! where and by which command they were measured.

mod links;
mod page;
mod record;
mod tour;

pub use links::check_links;
pub use record::check_records;
pub use tour::{Mode, Problem, follow};
