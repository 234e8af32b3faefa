//! Files that are whole or not there.
//!
//! - [`write_file`] and [`write_folder`]: written beside the final name, synced, then renamed. A process that is killed
//!   leaves the previous file, or none.
//! - [`PartialFile`]: the same for a file that several processes may write at once.
//! - [`Described`]: tensors and a description of them in one safetensors file.
//! - [`FileError`]: the one error about a file; it names the path.
//!
//! This crate does not know what is in the files, and it does not choose their names.
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
mod partial;

pub use atomic::{
    is_leftover, new_folder, read_file, remove_folder, rename_synced, write_file, write_file_with,
    write_folder, write_synced,
};
pub use described::{Described, read_tensors, serialize_tensors};
pub use error::FileError;
pub use partial::PartialFile;
