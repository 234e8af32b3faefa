//! Tensors and a description of them in one safetensors file.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use candle_core::{Device, Tensor};
use safetensors::SafeTensors;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::{FileError, read_file, write_file};

/// Tensors with a description of type `D`, which is JSON under one key of the file's metadata.
#[derive(Clone, Debug)]
pub struct Described<D> {
    /// What the tensors are.
    pub description: D,
    /// The tensors by name.
    pub tensors: BTreeMap<String, Tensor>,
}

impl<D: Serialize + DeserializeOwned> Described<D> {
    /// The bytes of a file whose metadata has the description under `key`. `path` is for errors.
    ///
    /// # Errors
    /// A description or tensors that have no such form.
    pub fn to_bytes(&self, key: &str, path: &Path) -> Result<Vec<u8>, FileError> {
        let description =
            serde_json::to_string(&self.description).map_err(|e| FileError::unusable(path, e))?;
        let metadata = HashMap::from([(key.to_owned(), description)]);
        safetensors::serialize(&self.tensors, Some(metadata))
            .map_err(|e| FileError::unusable(path, e))
    }

    /// Reads what [`to_bytes`](Self::to_bytes) made. `path` is for errors, `what` names such a file in them, as in "this is no
    /// {what}".
    ///
    /// # Errors
    /// Bytes that are no whole safetensors file; a file without that description, or with another one.
    pub fn from_bytes(
        bytes: &[u8],
        key: &str,
        what: &str,
        path: &Path,
        device: &Device,
    ) -> Result<Self, FileError> {
        let (_, metadata) = SafeTensors::read_metadata(bytes)
            .map_err(|e| FileError::unusable(path, format!("not a whole safetensors file: {e}")))?;
        let description = metadata.metadata().as_ref().and_then(|texts| texts.get(key));
        let description =
            description.ok_or_else(|| FileError::unusable(path, format!("this is no {what}")))?;
        let description = serde_json::from_str(description).map_err(|e| {
            FileError::unusable(path, format!("not the description of a {what}: {e}"))
        })?;
        Ok(Self { description, tensors: tensors_of(bytes, path, device)? })
    }

    /// Writes a file with the description under `key`.
    ///
    /// # Errors
    /// Those of [`to_bytes`](Self::to_bytes) and of [`write_file`].
    pub fn write(&self, key: &str, path: &Path) -> Result<(), FileError> {
        write_file(path, &self.to_bytes(key, path)?)
    }

    /// Reads what [`write`](Self::write) wrote.
    ///
    /// # Errors
    /// A file that cannot be read; those of [`from_bytes`](Self::from_bytes).
    pub fn read(path: &Path, key: &str, what: &str, device: &Device) -> Result<Self, FileError> {
        Self::from_bytes(&read_file(path)?, key, what, path, device)
    }
}

/// The bytes of a safetensors file without a description. `path` is for errors.
///
/// # Errors
/// Tensors that have no such form.
pub fn serialize_tensors(
    tensors: &BTreeMap<String, Tensor>,
    path: &Path,
) -> Result<Vec<u8>, FileError> {
    safetensors::serialize(tensors, None)
        .map_err(|e| FileError::unusable(path, format!("cannot be written: {e}")))
}

/// The tensors in the safetensors file at `path`.
///
/// # Errors
/// A file that cannot be read or is not a whole safetensors file.
pub fn read_tensors(path: &Path, device: &Device) -> Result<BTreeMap<String, Tensor>, FileError> {
    tensors_of(&read_file(path)?, path, device)
}

fn tensors_of(
    bytes: &[u8],
    path: &Path,
    device: &Device,
) -> Result<BTreeMap<String, Tensor>, FileError> {
    SafeTensors::deserialize(bytes)
        .map_err(|e| FileError::unusable(path, format!("not a whole safetensors file: {e}")))?;
    let tensors = candle_core::safetensors::load_buffer(bytes, device)
        .map_err(|e| FileError::unusable(path, format!("its tensors cannot be used: {e}")))?;
    Ok(tensors.into_iter().collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tensors_and_description_come_back_and_other_files_are_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("model.safetensors");
        let tensor = Tensor::new(&[1f32, 2.5], &Device::Cpu).unwrap();
        let written = Described {
            description: vec!["two numbers".to_owned()],
            tensors: BTreeMap::from([("a".to_owned(), tensor)]),
        };
        written.write("note", &path).unwrap();
        let read = Described::<Vec<String>>::read(&path, "note", "pair", &Device::Cpu).unwrap();
        assert_eq!(read.description, written.description);
        assert_eq!(read.tensors["a"].to_vec1::<f32>().unwrap(), [1.0, 2.5]);

        let other =
            Described::<Vec<String>>::read(&path, "state", "checkpoint", &Device::Cpu).unwrap_err();
        assert!(other.to_string().ends_with("this is no checkpoint"), "{other}");
        std::fs::write(&path, &std::fs::read(&path).unwrap()[..40]).unwrap();
        let cut = Described::<Vec<String>>::read(&path, "note", "pair", &Device::Cpu).unwrap_err();
        assert!(cut.to_string().contains("not a whole safetensors file"), "{cut}");
    }
}
