//! Parquet files with a column of pictures, the usual format of image data sets on the Hugging Face
//! hub.

use std::collections::HashMap;
use std::fs::File;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use parquet::basic::Type as Physical;
use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::record::{Field, Row};
use parquet::schema::types::{Type, TypePtr};
use serde_json::Value;

use super::table::{self, LABEL_COLUMNS, Table};
use super::{Content, Record, Records, SourceInfo, numbered_name};
use crate::DataError;
use crate::dataset::classes::{classes_of, numbered_classes};
use crate::prepare::decode::MAX_FILE_BYTES;

/// Possible names of the picture column, in order of priority. If none exists, the only column that
/// could contain pictures is used.
const PICTURES: [&str; 4] = ["image", "img", "picture", "photo"];

/// Integers may mean anything; only those below this number are taken for classes.
const MAX_CLASSES: u64 = 65_536;

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

/// Opens the shards; returns also notes for the user.
pub(super) fn open(files: &[PathBuf]) -> Result<(SourceInfo<Shards>, Vec<String>), DataError> {
    let first = open_file(&files[0])?;
    let schema = first.metadata().file_metadata().schema().clone();
    let picture = picture_column(&schema)
        .map_err(|problem| DataError::unusable(&files[0], problem))?
        .to_owned();
    let mut count = 0;
    for file in files {
        let reader = open_file(file)?;
        count += usize::try_from(reader.metadata().file_metadata().num_rows()).unwrap_or(0);
    }
    let mut shards = Shards { files: files.to_vec(), picture, label: None };
    let (mut classes, mut notes) = (Vec::new(), Vec::new());
    if let Some(label) = LABEL_COLUMNS.into_iter().find_map(|name| field(&schema, name)) {
        match shards.classes(label, &first)? {
            Ok((column, names)) => {
                shards.label = Some(column);
                classes = names;
                let values = shards.values_of(label.name())?;
                let has_class = |value: &&Option<String>| {
                    value.as_ref().is_some_and(|v| !v.is_empty() && !v.starts_with('-'))
                };
                let unlabelled = values.len() - values.iter().filter(has_class).count();
                if unlabelled > 0 && !classes.is_empty() {
                    notes.push(format!("{unlabelled} of {count} pictures have no class"));
                }
            }
            Err(problem) => {
                notes.push(format!("the column {} gives no classes: {problem}", label.name()));
            }
        }
    } else {
        let others: Vec<&str> =
            column_names(&schema).filter(|name| *name != shards.picture).collect();
        if !others.is_empty() {
            notes.push(format!(
                "there are no classes, because no column is called {}; the columns {} are not used",
                LABEL_COLUMNS.join(", "),
                others.join(", ")
            ));
        }
    }
    Ok((SourceInfo { kind: shards, classes, count }, notes))
}

fn field<'s>(schema: &'s Type, name: &str) -> Option<&'s TypePtr> {
    schema.get_fields().iter().find(|field| field.name().eq_ignore_ascii_case(name))
}

fn column_names(schema: &Type) -> impl Iterator<Item = &str> {
    schema.get_fields().iter().map(|field| field.name())
}

/// The column of pictures, or why there is none.
fn picture_column(schema: &Type) -> Result<&str, String> {
    let pictures: Vec<&str> = schema
        .get_fields()
        .iter()
        .filter(|field| holds_bytes(field))
        .map(|field| field.name())
        .collect();
    let by_name = PICTURES
        .into_iter()
        .find_map(|name| pictures.iter().find(|column| column.eq_ignore_ascii_case(name)).copied());
    if let Some(column) = by_name.or_else(|| (pictures.len() == 1).then(|| pictures[0])) {
        return Ok(column);
    }
    let named = PICTURES.into_iter().find_map(|name| field(schema, name));
    if let Some(column) = named {
        return Err(format!(
            "its column {} contains {}, but pictures must be the bytes of picture files",
            column.name(),
            content_of(column)
        ));
    }
    let names: Vec<&str> = column_names(schema).collect();
    Err(match pictures.as_slice() {
        [] => format!(
            "it has no column with the bytes of picture files; its columns are {}",
            names.join(", ")
        ),
        several => format!(
            "several columns could contain pictures ({}); rename one to image",
            several.join(", ")
        ),
    })
}

/// What a column contains, in words.
fn content_of(field: &Type) -> &'static str {
    if !field.is_primitive() {
        return "lists or groups of values";
    }
    match field.get_physical_type() {
        Physical::BYTE_ARRAY => "text",
        Physical::BOOLEAN => "booleans",
        Physical::FIXED_LEN_BYTE_ARRAY => "arrays of fixed length",
        _ => "numbers",
    }
}

/// Reads a table of labels from the bytes of a parquet file.
///
/// # Errors
/// If it is not a parquet file.
pub(super) fn read_table(content: &[u8]) -> Result<Table, String> {
    let bytes = bytes::Bytes::copy_from_slice(content);
    let read = || {
        let reader = SerializedFileReader::new(bytes).map_err(|e| e.to_string())?;
        let schema = reader.metadata().file_metadata().schema().clone();
        let column = |candidates: &[&str]| candidates.iter().find_map(|name| field(&schema, name));
        let is_text = |field: &&TypePtr| {
            field.is_primitive() && field.get_physical_type() == Physical::BYTE_ARRAY
        };
        let problem = |problem: String| {
            let columns = column_names(&schema).collect::<Vec<_>>().join(", ");
            let problem = Some(format!("{problem}; its columns are {columns}"));
            Ok(Table { rows: Vec::new(), problem })
        };
        let Some(file) = column(&table::FILE_COLUMNS).filter(is_text) else {
            return problem("it has no column of file names, such as file_name".to_owned());
        };
        let Some(label) = column(&LABEL_COLUMNS) else {
            return problem("it has no column of labels, such as label".to_owned());
        };
        if !label.is_primitive() {
            return problem(format!("its column {} contains lists or groups", label.name()));
        }
        let (mut rows, mut unusable) = (Vec::new(), 0);
        for row in reader.get_row_iter(None).map_err(|e| e.to_string())? {
            let (mut name, mut class) = (None, None);
            for (column, value) in row.map_err(|e| e.to_string())?.into_columns() {
                if column == file.name() {
                    name = text(&value);
                } else if column == label.name() {
                    class = text(&value);
                    let is_number = matches!(value, Field::Float(_) | Field::Double(_));
                    let is_missing = matches!(value, Field::Null) || is_number;
                    unusable += usize::from(class.is_none() && !is_missing);
                }
            }
            let class = class.and_then(|class| table::non_empty(class.trim()));
            rows.extend(name.map(|name| (table::normalised(&name), class)));
        }
        let problem = (unusable > 0)
            .then(|| format!("the labels of {unusable} rows are neither numbers nor text"));
        Ok(Table { rows, problem })
    };
    catch_unwind(AssertUnwindSafe(read))
        .unwrap_or_else(|_| Err("its encoding is damaged".to_owned()))
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
    /// The classes in the column `label`, or why it gives none.
    fn classes(
        &self,
        label: &Type,
        first: &SerializedFileReader<File>,
    ) -> Result<Result<(LabelColumn, Vec<String>), String>, DataError> {
        if !label.is_primitive() {
            return Ok(Err("it contains lists or groups of values".to_owned()));
        }
        let name = label.name().to_owned();
        let values = self.values_of(&name)?;
        let values = || values.iter().flatten().filter(|label| !label.is_empty());
        let is_whole =
            |value: &String| value.parse::<f64>().is_ok_and(|value| value.fract() == 0.0);
        Ok(match label.get_physical_type() {
            _ if values().next().is_none() => {
                Err("it is empty, or its values are neither numbers nor text".to_owned())
            }
            Physical::INT32 | Physical::INT64 | Physical::INT96 => {
                // The hub writes −1 for a missing label.
                let last = values().filter_map(|value| value.parse::<u64>().ok()).max();
                match last {
                    Some(last) if last < MAX_CLASSES => {
                        let names = class_names(first, &name)
                            .filter(|names| names.len() as u64 > last)
                            .unwrap_or_else(|| numbered_classes(Some(&(last as u32))));
                        Ok((LabelColumn { name, by_text: None }, names))
                    }
                    Some(last) => Err(format!(
                        "it contains the number {last}; the numbers of classes are below {MAX_CLASSES}"
                    )),
                    None => Err("all of its numbers are negative".to_owned()),
                }
            }
            Physical::FLOAT | Physical::DOUBLE if !values().all(is_whole) => {
                Err("its numbers are not whole, so they are taken for measurements".to_owned())
            }
            _ => {
                let (names, by_text) = classes_of(values().map(String::as_str));
                Ok((LabelColumn { name, by_text: Some(by_text) }, names))
            }
        })
    }

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
        Field::Float16(x) if !x.is_nan() => Some(x.to_string()),
        Field::Decimal(_) => Some(field.to_string()),
        _ => None,
    }
}
