//! The pictures of a source in one portable file.

use std::collections::HashSet;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::ops::ControlFlow;
use std::path::Path;

use diffusion_files::PartialFile;
use image::{ExtendedColorType, ImageEncoder};

use crate::prepare::check;
use crate::prepare::decode::{self, Raster};
use crate::prepare::report::Damaged;
use crate::source::{Content, Record};
use crate::{DataError, PrepareProgress, Source};

/// What [`pack`] did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packed {
    /// Pictures written.
    pub count: usize,
    /// Those that were left out.
    pub damaged: Vec<Damaged>,
}

/// A picture's file in its packed form.
struct Item {
    name: String,
    label: Option<u32>,
    bytes: Vec<u8>,
}

/// Writes the pictures of `source` to `out`: a tar archive with a folder for each class, or, with the feature `parquet`, a
/// parquet file as the hub has them, by the name's ending. Files are taken over as they are, raw pixels become PNG files,
/// damaged pictures are left out. The file appears under its name only when it is complete.
///
/// # Errors
/// Another ending; a file that exists already; more than `max_bad` damaged pictures, or no others; what the system refuses;
/// `progress` asking to stop.
pub fn pack(
    source: &Source,
    out: &Path,
    max_bad: usize,
    progress: &mut dyn FnMut(PrepareProgress) -> ControlFlow<()>,
) -> Result<Packed, DataError> {
    let ending = out.extension().map(std::ffi::OsStr::to_ascii_lowercase);
    let parquet = match ending.as_deref().and_then(|ending| ending.to_str()) {
        Some("tar") => false,
        Some("parquet") if cfg!(feature = "parquet") => true,
        _ => {
            let endings = if cfg!(feature = "parquet") { ".tar or .parquet" } else { ".tar" };
            let problem = format!("expected a name that ends in {endings}");
            return Err(DataError::unusable(out, problem));
        }
    };
    if out.exists() {
        let problem = "it exists already; remove it or choose another name";
        return Err(DataError::unusable(out, problem));
    }
    let folder =
        out.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut partial = PartialFile::new_in(folder, "")?;
    let mut damaged = Vec::new();
    let mut done = 0;
    let mut items = source.records()?.filter_map(|record| {
        done += 1;
        if done % 100 == 0
            && progress(PrepareProgress::Done(done, source.count().max(done))).is_break()
        {
            return Some(Err(DataError::Cancelled));
        }
        let name = record.as_ref().map(|record| record.name.clone()).unwrap_or_default();
        match record.map(item) {
            Err(error) => Some(Err(error)),
            Ok(Ok(item)) => Some(Ok(item)),
            Ok(Err(reason)) => {
                damaged.push(Damaged { name, reason });
                check(source, &damaged, max_bad).err().map(Err)
            }
        }
    });
    let file = partial.file();
    let count = if parquet {
        write_parquet(file, source.classes(), &mut items, out)?
    } else {
        write_tar(file, source.classes(), &mut items).map_err(|error| match error {
            Broken::Data(error) => error,
            Broken::Io(error) => DataError::io(out)(error),
        })?
    };
    drop(items);
    if count == 0 {
        return Err(crate::prepare::nothing_usable(source, &damaged));
    }
    partial.finish_new(out)?;
    Ok(Packed { count, damaged })
}

fn item(record: Record) -> Result<Item, String> {
    let Record { name, label, content } = record;
    let bytes = match content? {
        Content::File(path) => sound(decode::read_file(&path)?)?,
        Content::Encoded(bytes) => sound(bytes)?,
        Content::Raw(raster) => png(&raster)?,
    };
    Ok(Item { name, label, bytes })
}

/// The bytes of a file that can be decoded.
fn sound(bytes: Vec<u8>) -> Result<Vec<u8>, String> {
    decode::decode(&bytes).map(|_| bytes)
}

fn png(raster: &Raster) -> Result<Vec<u8>, String> {
    let colour = match raster.channels {
        1 => ExtendedColorType::L8,
        3 => ExtendedColorType::Rgb8,
        _ => ExtendedColorType::Rgba8,
    };
    let mut bytes = Vec::new();
    image::codecs::png::PngEncoder::new(&mut bytes)
        .write_image(&raster.pixels, raster.width as u32, raster.height as u32, colour)
        .map_err(|e| e.to_string())?;
    Ok(bytes)
}

type Items<'a> = dyn Iterator<Item = Result<Item, DataError>> + 'a;

enum Broken {
    Data(DataError),
    Io(std::io::Error),
}

impl From<std::io::Error> for Broken {
    fn from(error: std::io::Error) -> Self {
        Self::Io(error)
    }
}

/// The name of a picture below the folder of its class, with an ending that tells its format, unlike all of `taken`.
fn file_name(item: &Item, classes: &[String], taken: &mut HashSet<String>) -> String {
    let ending =
        image::guess_format(&item.bytes).ok().and_then(|format| format.extensions_str().first());
    let ending = ending.map_or_else(|| ".png".to_owned(), |ending| format!(".{ending}"));
    let name = if crate::source::is_picture(&item.name) {
        item.name.clone()
    } else {
        item.name.clone() + &ending
    };
    let class =
        item.label.and_then(|label| classes.get(label as usize)).map(|class| folder_name(class));
    let name = match class {
        Some(class) if !name.starts_with(&format!("{class}/")) => format!("{class}/{name}"),
        Some(_) => name,
        // A folder would be taken for a class.
        None => name.replace('/', "-"),
    };
    let mut unique = name.clone();
    for n in 2.. {
        if taken.insert(unique.clone()) {
            break;
        }
        let (stem, ending) = name.rsplit_once('.').unwrap_or((&name, "png"));
        unique = format!("{stem}-{n}.{ending}");
    }
    unique
}

/// The name of a class as that of a folder that is not hidden.
fn folder_name(class: &str) -> String {
    let name = class.replace(['/', '\\'], "-");
    if name.is_empty() || name.starts_with('.') { format!("_{name}") } else { name }
}

fn write_tar(file: &mut File, classes: &[String], items: &mut Items<'_>) -> Result<usize, Broken> {
    let mut tar = tar::Builder::new(BufWriter::new(file));
    let mut taken = HashSet::new();
    for item in items {
        let item = item.map_err(Broken::Data)?;
        let mut header = tar::Header::new_gnu();
        header.set_size(item.bytes.len() as u64);
        header.set_mode(0o644);
        tar.append_data(&mut header, file_name(&item, classes, &mut taken), item.bytes.as_slice())?;
    }
    tar.into_inner()?.flush()?;
    Ok(taken.len())
}

#[cfg(not(feature = "parquet"))]
fn write_parquet(
    _: &mut File,
    _: &[String],
    _: &mut Items<'_>,
    _: &Path,
) -> Result<usize, DataError> {
    unreachable!("refused by its ending")
}

#[cfg(feature = "parquet")]
fn write_parquet(
    file: &mut File,
    classes: &[String],
    items: &mut Items<'_>,
    out: &Path,
) -> Result<usize, DataError> {
    use parquet::data_type::{ByteArray, ByteArrayType, Int64Type};
    use parquet::file::metadata::KeyValue;
    use parquet::file::properties::WriterProperties;
    use parquet::file::writer::SerializedFileWriter;
    use parquet::schema::parser::parse_message_type;

    /// Pictures in a row group, which is held in memory.
    const GROUP: usize = 1000;
    let failed = |e: parquet::errors::ParquetError| DataError::io(out)(std::io::Error::other(e));
    let label = if classes.is_empty() { "" } else { "optional int64 label;" };
    let schema = format!(
        "message schema {{ optional group image {{ optional binary bytes; optional binary path (UTF8); }} {label} }}"
    );
    let schema = std::sync::Arc::new(parse_message_type(&schema).map_err(failed)?);
    let mut features = serde_json::json!({ "image": { "_type": "Image" } });
    if !classes.is_empty() {
        features["label"] = serde_json::json!({ "names": classes, "_type": "ClassLabel" });
    }
    let about = serde_json::json!({ "info": { "features": features } }).to_string();
    let properties = WriterProperties::builder()
        // Pictures are compressed already, and each differs from all others.
        .set_dictionary_enabled(false)
        .set_key_value_metadata(Some(vec![KeyValue::new("huggingface".to_owned(), about)]))
        .build();
    let mut writer =
        SerializedFileWriter::new(BufWriter::new(file), schema, std::sync::Arc::new(properties))
            .map_err(failed)?;
    let mut taken = HashSet::new();
    loop {
        let group: Vec<Item> = items.take(GROUP).collect::<Result<_, _>>()?;
        if group.is_empty() {
            break;
        }
        let paths: Vec<ByteArray> = group
            .iter()
            .map(|item| ByteArray::from(file_name(item, classes, &mut taken).into_bytes()))
            .collect();
        let present = vec![2; group.len()];
        let labelled: Vec<i16> = group.iter().map(|item| i16::from(item.label.is_some())).collect();
        let labels: Vec<i64> = group.iter().filter_map(|item| item.label).map(i64::from).collect();
        let pictures: Vec<ByteArray> =
            group.into_iter().map(|item| ByteArray::from(item.bytes)).collect();
        let mut columns = writer.next_row_group().map_err(failed)?;
        for values in [&pictures, &paths] {
            if let Some(mut column) = columns.next_column().map_err(failed)? {
                column
                    .typed::<ByteArrayType>()
                    .write_batch(values, Some(&present), None)
                    .map_err(failed)?;
                column.close().map_err(failed)?;
            }
        }
        if let Some(mut column) = columns.next_column().map_err(failed)? {
            column
                .typed::<Int64Type>()
                .write_batch(&labels, Some(&labelled), None)
                .map_err(failed)?;
            column.close().map_err(failed)?;
        }
        columns.close().map_err(failed)?;
    }
    writer.into_inner().map_err(failed)?.flush().map_err(DataError::io(out))?;
    Ok(taken.len())
}
