//! Tests of the program as a user runs it: arguments, output and files.

mod analysis;
mod bad_input;
mod common;
mod control;
mod data;
mod docs;
#[cfg(feature = "hub")]
mod download;
mod earlier;
mod editing;
mod exchange;
mod judging;
mod kill;
mod manual;
mod objectives;
mod sampling;
mod training;
