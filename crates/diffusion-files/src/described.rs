//! Safetensors files, with or without a description of the tensors.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use candle_core::{Device, Tensor};
use safetensors::SafeTensors;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::{FileError, read_file, write_file};

/// Tensors and a description of type `D`. In a file the description is JSON under one key of the
/// metadata.
#[derive(Clone, Debug)]
pub struct DescribedTensors<D> {
    /// The description of the tensors.
    pub description: D,
    /// The tensors by name.
    pub tensors: BTreeMap<String, Tensor>,
}

impl<D: Serialize + DeserializeOwned> DescribedTensors<D> {
    /// The bytes of a safetensors file with the description under `key`. Errors name `path`.
    ///
    /// # Errors
    /// If the description or the tensors cannot be serialised.
    pub fn to_bytes(&self, key: &str, path: &Path) -> Result<Vec<u8>, FileError> {
        let description =
            serde_json::to_string(&self.description).map_err(|e| FileError::unusable(path, e))?;
        let metadata = HashMap::from([(key.to_owned(), description)]);
        safetensors::serialize(&self.tensors, Some(metadata))
            .map_err(|e| FileError::unusable(path, e))
    }

    /// Reads the bytes that [`to_bytes`](Self::to_bytes) wrote. Errors name `path` and `file_kind`,
    /// as in "this is no {file_kind}".
    ///
    /// # Errors
    /// If the bytes are not a complete safetensors file, have no description under `key`, or have a
    /// description of another type. An error of the device.
    pub fn from_bytes(
        bytes: &[u8],
        key: &str,
        file_kind: &str,
        path: &Path,
        device: &Device,
    ) -> Result<Self, FileError> {
        let (_, metadata) = SafeTensors::read_metadata(bytes)
            .map_err(|e| FileError::unusable(path, format!("not a whole safetensors file: {e}")))?;
        let description = metadata.metadata().as_ref().and_then(|texts| texts.get(key));
        let description = description
            .ok_or_else(|| FileError::unusable(path, format!("this is no {file_kind}")))?;
        let description = serde_json::from_str(description).map_err(|e| {
            FileError::unusable(path, format!("not the description of a {file_kind}: {e}"))
        })?;
        Ok(Self { description, tensors: tensors_of(bytes, path, device)? })
    }

    /// Writes a safetensors file with the description under `key`.
    ///
    /// # Errors
    /// If the description or the tensors cannot be serialised. An I/O error, if the file cannot be
    /// written.
    pub fn write(&self, key: &str, path: &Path) -> Result<(), FileError> {
        write_file(path, &self.to_bytes(key, path)?)
    }

    /// Reads a file that [`write`](Self::write) wrote. Errors name `file_kind`.
    ///
    /// # Errors
    /// An I/O error, if the file cannot be read. If it is not a complete safetensors file, has no
    /// description under `key`, or has a description of another type. An error of the device.
    pub fn read(
        path: &Path,
        key: &str,
        file_kind: &str,
        device: &Device,
    ) -> Result<Self, FileError> {
        Self::from_bytes(&read_file(path)?, key, file_kind, path, device)
    }
}

/// The bytes of a safetensors file without a description. Errors name `path`.
///
/// # Errors
/// If the tensors cannot be serialised.
pub fn serialize_tensors(
    tensors: &BTreeMap<String, Tensor>,
    path: &Path,
) -> Result<Vec<u8>, FileError> {
    safetensors::serialize(tensors, None)
        .map_err(|e| FileError::unusable(path, format!("its tensors cannot be serialised: {e}")))
}

/// Reads the tensors of the safetensors file at `path`.
///
/// # Errors
/// An I/O error, if the file cannot be read. If it is not a complete safetensors file. An error of
/// the device.
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
    fn tensors_and_description_are_read_back_and_other_files_rejected() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("model.safetensors");
        let tensor = Tensor::new(&[1f32, 2.5], &Device::Cpu).unwrap();
        let written = DescribedTensors {
            description: vec!["two numbers".to_owned()],
            tensors: BTreeMap::from([("a".to_owned(), tensor)]),
        };
        written.write("note", &path).unwrap();
        let read =
            DescribedTensors::<Vec<String>>::read(&path, "note", "pair", &Device::Cpu).unwrap();
        assert_eq!(read.description, written.description);
        assert_eq!(read.tensors["a"].to_vec1::<f32>().unwrap(), [1.0, 2.5]);

        let other =
            DescribedTensors::<Vec<String>>::read(&path, "state", "checkpoint", &Device::Cpu)
                .unwrap_err();
        assert!(other.to_string().ends_with("this is no checkpoint"), "{other}");
        std::fs::write(&path, &std::fs::read(&path).unwrap()[..40]).unwrap();
        let cut =
            DescribedTensors::<Vec<String>>::read(&path, "note", "pair", &Device::Cpu).unwrap_err();
        assert!(cut.to_string().contains("not a whole safetensors file"), "{cut}");
    }
}
