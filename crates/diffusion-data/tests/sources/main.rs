//! Sources of every format: folders, archives, arrays and damaged files.

mod cache;
mod common;
mod containers;
mod folders;
mod forms;
mod hostile;
mod layouts;
