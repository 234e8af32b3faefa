//! Parquet files with a column of pictures, the usual format of image data sets on the Hugging Face
//! hub.

use std::collections::HashMap;
use std::fs::File;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use parquet::basic::Type as Physical;
use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::record::{Field, Row};
use parquet::schema::types::Type;
use serde_json::Value;

use super::listing::LABEL_COLUMNS;
use super::{Content, Record, Records, SourceInfo, numbered_name};
use crate::DataError;
use crate::dataset::classes::{classes_of, numbered_classes};
use crate::prepare::decode::MAX_FILE_BYTES;

/// Possible names of the picture column, in order of priority. If none exists, the only column that
/// could contain pictures is used.
const PICTURES: [&str; 4] = ["image", "img", "picture", "photo"];

/// Files with the same columns, in the order in which they are read.
#[derive(Debug)]
pub(crate) struct Shards {
    files: Vec<PathBuf>,
    picture: String,
    label: Option<LabelColumn>,
}

#[derive(Debug)]
struct LabelColumn {
    name: String,
    /// For a text column, the index of each class.
    by_text: Option<HashMap<String, u32>>,
}

pub(super) fn open(files: &[PathBuf]) -> Result<SourceInfo<Shards>, DataError> {
    let first = open_file(&files[0])?;
    let schema = first.metadata().file_metadata().schema().clone();
    let invalid = |problem: String| DataError::unusable(&files[0], problem);
    let names =
        || schema.get_fields().iter().map(|field| field.name()).collect::<Vec<_>>().join(", ");
    let pictures: Vec<&str> = schema
        .get_fields()
        .iter()
        .filter(|field| holds_bytes(field))
        .map(|field| field.name())
        .collect();
    let picture = PICTURES.into_iter().find(|name| pictures.contains(name));
    let picture = picture.or_else(|| (pictures.len() == 1).then(|| pictures[0]));
    let picture = picture.ok_or_else(|| {
        invalid(format!(
            "it has no column of pictures, for example one called image; its columns are {}",
            names()
        ))
    })?;
    let label = LABEL_COLUMNS.into_iter().find_map(|name| {
        schema.get_fields().iter().find(|field| field.name().eq_ignore_ascii_case(name))
    });

    let mut count = 0;
    for file in files {
        let reader = open_file(file)?;
        count += usize::try_from(reader.metadata().file_metadata().num_rows()).unwrap_or(0);
    }
    let mut shards = Shards { files: files.to_vec(), picture: picture.to_owned(), label: None };
    let mut classes = Vec::new();
    if let Some(label) = label.filter(|label| label.is_primitive()) {
        let name = label.name().to_owned();
        let physical = label.get_physical_type();
        let values = shards.values_of(&name)?;
        let is_integer = matches!(physical, Physical::INT32 | Physical::INT64 | Physical::INT96);
        // Other numbers are not classes but measurements.
        let is_whole =
            |value: &String| value.parse::<f64>().is_ok_and(|value| value.fract() == 0.0);
        let is_float = matches!(physical, Physical::FLOAT | Physical::DOUBLE);
        if is_float && !values.iter().flatten().all(is_whole) {
            // No classes.
        } else if !is_integer {
            let labels = values.iter().flatten().filter(|label| !label.is_empty());
            let by_text;
            (classes, by_text) = classes_of(labels.map(String::as_str));
            shards.label = Some(LabelColumn { name, by_text: Some(by_text) });
        } else {
            let last = values.iter().flatten().filter_map(|value| value.parse::<u32>().ok()).max();
            // Integers may mean anything; only numbers below 65,536 are taken for classes.
            if let Some(last) = last.filter(|last| *last < 65_536) {
                classes = class_names(&first, &name)
                    .filter(|names| names.len() > last as usize)
                    .unwrap_or_else(|| numbered_classes(Some(&last)));
                shards.label = Some(LabelColumn { name, by_text: None });
            }
        }
    }
    Ok(SourceInfo { kind: shards, classes, count })
}

/// Whether a column contains bytes, or groups {bytes, path}.
fn holds_bytes(field: &Type) -> bool {
    let bytes = |field: &Type| {
        field.is_primitive()
            && field.get_physical_type() == Physical::BYTE_ARRAY
            && field.get_basic_info().logical_type_ref().is_none()
            && field.get_basic_info().converted_type() == parquet::basic::ConvertedType::NONE
    };
    bytes(field)
        || (!field.is_primitive()
            && field.get_fields().iter().any(|part| part.name() == "bytes" && bytes(part)))
}

/// The class names in the metadata that the hub writes into the file.
fn class_names(reader: &SerializedFileReader<File>, column: &str) -> Option<Vec<String>> {
    let pairs = reader.metadata().file_metadata().key_value_metadata()?;
    let text = pairs.iter().find(|pair| pair.key == "huggingface")?.value.as_ref()?;
    let value: Value = serde_json::from_str(text).ok()?;
    let names = value["info"]["features"][column]["names"].as_array()?;
    names.iter().map(|name| name.as_str().map(str::to_owned)).collect()
}

fn open_file(path: &Path) -> Result<SerializedFileReader<File>, DataError> {
    let file = File::open(path).map_err(DataError::io(path))?;
    catch_panic(path, || SerializedFileReader::new(file).map_err(|e| e.to_string()))
}

/// Calls the parquet crate and turns a panic into an error. It reports most damage as errors, but
/// has a few assertions.
fn catch_panic<T>(path: &Path, call: impl FnOnce() -> Result<T, String>) -> Result<T, DataError> {
    let result = catch_unwind(AssertUnwindSafe(call))
        .unwrap_or_else(|_| Err("its encoding is damaged".to_owned()));
    result.map_err(|problem| {
        DataError::unusable(path, format!("cannot be read as parquet: {problem}"))
    })
}

impl Shards {
    /// The rows of a shard, restricted to the given columns.
    fn rows(
        path: &Path,
        columns: &[&str],
    ) -> Result<impl Iterator<Item = Result<Row, DataError>> + use<>, DataError> {
        let reader = open_file(path)?;
        let schema = reader.metadata().file_metadata().schema();
        let fields = schema
            .get_fields()
            .iter()
            .filter(|field| columns.contains(&field.name()))
            .cloned()
            .collect();
        let projection = Type::group_type_builder(schema.name()).with_fields(fields).build();
        let path = path.to_owned();
        let mut rows = catch_panic(&path, || {
            reader
                .into_iter()
                .project(Some(projection.map_err(|e| e.to_string())?))
                .map_err(|e| e.to_string())
        })?;
        let mut failed = false;
        Ok(std::iter::from_fn(move || {
            if failed {
                return None;
            }
            let row = catch_panic(&path, || rows.next().transpose().map_err(|e| e.to_string()))
                .transpose();
            failed = matches!(row, Some(Err(_)));
            row
        }))
    }

    /// The values of a column in all shards, as text.
    fn values_of(&self, column: &str) -> Result<Vec<Option<String>>, DataError> {
        let mut values = Vec::new();
        for file in &self.files {
            for row in Self::rows(file, &[column])? {
                values.push(row?.into_columns().into_iter().find_map(|(_, field)| text(&field)));
            }
        }
        Ok(values)
    }

    pub(super) fn records(&self) -> Records<'_> {
        let mut columns = vec![self.picture.as_str()];
        columns.extend(self.label.as_ref().map(|label| label.name.as_str()));
        let rows = self.files.iter().flat_map(move |file| -> Box<dyn Iterator<Item = _> + Send> {
            match Self::rows(file, &columns) {
                Ok(rows) => Box::new(rows),
                Err(error) => Box::new(std::iter::once(Err(error))),
            }
        });
        Box::new(rows.enumerate().map(|(i, row)| Ok(self.record(i, row?))))
    }

    fn record(&self, i: usize, row: Row) -> Record {
        let mut record = Record {
            name: numbered_name(i),
            label: None,
            content: Err("its row has no picture".to_owned()),
        };
        for (column, field) in row.into_columns() {
            if self.label.as_ref().is_some_and(|label| label.name == column) {
                record.label = self.label_of(&field);
            }
            if column != self.picture {
                continue;
            }
            match field {
                Field::Bytes(bytes) => record.content = encoded(bytes.data()),
                Field::Group(parts) => {
                    for (part, field) in parts.into_columns() {
                        match field {
                            Field::Bytes(bytes) if part == "bytes" => {
                                record.content = encoded(bytes.data());
                            }
                            Field::Str(path) if part == "path" && !path.is_empty() => {
                                record.name = path;
                            }
                            _ => {}
                        }
                    }
                }
                _ => {}
            }
        }
        record
    }

    fn label_of(&self, field: &Field) -> Option<u32> {
        let text = text(field)?;
        match &self.label.as_ref()?.by_text {
            Some(index) => index.get(&text).copied(),
            // The hub writes −1 for a missing label.
            None => text.parse().ok(),
        }
    }
}

fn encoded(bytes: &[u8]) -> Result<Content, String> {
    if bytes.len() as u64 > MAX_FILE_BYTES {
        return Err(format!("more than the {MAX_FILE_BYTES} bytes that a picture file may have"));
    }
    Ok(Content::Encoded(bytes.to_vec()))
}

fn text(field: &Field) -> Option<String> {
    match field {
        Field::Str(text) => Some(text.clone()),
        Field::Bytes(bytes) => String::from_utf8(bytes.data().to_vec()).ok(),
        Field::Byte(n) => Some(n.to_string()),
        Field::Short(n) => Some(n.to_string()),
        Field::Int(n) => Some(n.to_string()),
        Field::Long(n) => Some(n.to_string()),
        Field::UByte(n) => Some(n.to_string()),
        Field::UShort(n) => Some(n.to_string()),
        Field::UInt(n) => Some(n.to_string()),
        Field::ULong(n) => Some(n.to_string()),
        Field::Bool(value) => Some(value.to_string()),
        // NaN is how numpy and pandas write a missing number.
        Field::Float(x) if !x.is_nan() => Some(x.to_string()),
        Field::Double(x) if !x.is_nan() => Some(x.to_string()),
        _ => None,
    }
}
