//! The program from outside: what a user types, sees and finds on disk.

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
mod looking;
mod objectives;
mod sampling;
mod training;
