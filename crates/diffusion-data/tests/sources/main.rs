//! Pictures from everything that holds pictures.

mod cache;
mod common;
mod containers;
mod folders;
mod forms;
mod hostile;
