//! The program from outside: what a user types, sees and finds on disk.

mod bad_input;
mod common;
mod data;
mod exchange;
mod kill;
mod objectives;
mod sampling;
mod training;
