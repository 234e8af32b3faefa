//! Writes files and folders atomically: each is complete or does not exist.
//!
//! - [`write_file`], [`write_folder`]: write under a temporary name in the same folder, sync, then
//!   rename. If the process is killed, the previous file remains, or there is none.
//! - [`PartialFile`]: the same for a file that several processes may write at once.
//! - [`DescribedTensors`]: tensors and a description of them in one safetensors file.
//! - [`replace_python_numbers`]: makes JSON of what Python writes as JSON.
//! - [`FileError`]: an error about a file or folder; its text begins with the path.
//!
//! This crate does not know what the files mean and does not choose their names.
//!
//! ```
//! use diffusion_files::{read_file, write_file};
//!
//! let path = std::env::temp_dir().join("diffusion-files-example.txt");
//! write_file(&path, b"one line\n")?;
//! assert_eq!(read_file(&path)?, b"one line\n");
//! # std::fs::remove_file(path).ok();
//! # Ok::<(), diffusion_files::FileError>(())
//! ```

mod atomic;
mod described;
mod error;
mod json;
mod partial;

pub use atomic::{
    is_leftover, read_file, remove_folder, rename_synced, write_file, write_file_with,
    write_folder, write_new_folder, write_synced,
};
pub use described::{DescribedTensors, read_tensors, serialize_tensors};
pub use error::FileError;
pub use json::replace_python_numbers;
pub use partial::PartialFile;
