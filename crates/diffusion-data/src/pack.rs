//! Writes the pictures of a source to one portable file.

use std::collections::HashSet;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::ops::ControlFlow;
use std::path::Path;

use diffusion_files::PartialFile;
use image::{ExtendedColorType, ImageEncoder};

use crate::prepare::check_damaged_count;
use crate::prepare::decode::{self, Raster};
use crate::prepare::report::DamagedPicture;
use crate::source::{Content, Record};
use crate::{DataError, PrepareProgress, Source};

/// The result of [`pack`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PackReport {
    /// The number of pictures written.
    pub count: usize,
    /// The pictures that were left out.
    pub damaged: Vec<DamagedPicture>,
}

/// One picture as it is packed: its name, its label, and the bytes of its file.
struct PackedPicture {
    name: String,
    label: Option<u32>,
    bytes: Vec<u8>,
}

/// Writes the pictures of `source` to the file `out`. The extension decides the format: `.tar` is
/// an archive with a folder for each class, and a table of labels where folders cannot express
/// them; `.parquet` is a file as on the Hugging Face hub, with the feature `parquet`.
///
/// Picture files are copied unchanged, raw pixels become PNG files, and damaged pictures are left
/// out. The file appears under its name only when it is complete.
///
/// # Errors
/// If `out` has another extension or already exists. If more than `max_bad` pictures are damaged,
/// or none is usable. If `progress` asks to stop. An I/O error, if the source cannot be read or the
/// file cannot be written.
pub fn pack(
    source: &Source,
    out: &Path,
    max_bad: usize,
    progress: &mut dyn FnMut(PrepareProgress) -> ControlFlow<()>,
) -> Result<PackReport, DataError> {
    let extension = out.extension().map(std::ffi::OsStr::to_ascii_lowercase);
    let parquet = match extension.as_deref().and_then(|extension| extension.to_str()) {
        Some("tar") => false,
        Some("parquet") if cfg!(feature = "parquet") => true,
        _ => {
            let extensions = if cfg!(feature = "parquet") { ".tar or .parquet" } else { ".tar" };
            let problem = format!("expected a file name that ends in {extensions}");
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
    let mut pictures = source.records()?.filter_map(|record| {
        done += 1;
        if done % 100 == 0
            && progress(PrepareProgress::Done(done, source.count().max(done))).is_break()
        {
            return Some(Err(DataError::Cancelled));
        }
        let name = record.as_ref().map(|record| record.name.clone()).unwrap_or_default();
        match record.map(packed_picture) {
            Err(error) => Some(Err(error)),
            Ok(Ok(picture)) => Some(Ok(picture)),
            Ok(Err(reason)) => {
                damaged.push(DamagedPicture { name, reason });
                check_damaged_count(source, &damaged, max_bad).err().map(Err)
            }
        }
    });
    let file = partial.file();
    let count = if parquet {
        write_parquet(file, source.classes(), &mut pictures, out)?
    } else {
        write_tar(file, source.classes(), &mut pictures).map_err(|error| match error {
            TarError::Data(error) => error,
            TarError::Io(error) => DataError::io(out)(error),
        })?
    };
    drop(pictures);
    if count == 0 {
        return Err(crate::prepare::no_usable_pictures(source, &damaged));
    }
    partial.finish_new(out)?;
    Ok(PackReport { count, damaged })
}

fn packed_picture(record: Record) -> Result<PackedPicture, String> {
    let Record { name, label, content } = record;
    let bytes = match content? {
        Content::File(path) => verified(decode::read_file(&path)?)?,
        Content::Encoded(bytes) => verified(bytes)?,
        Content::Raw(raster) => png(&raster)?,
    };
    Ok(PackedPicture { name, label, bytes })
}

/// Returns `bytes` if they can be decoded as a picture.
fn verified(bytes: Vec<u8>) -> Result<Vec<u8>, String> {
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

type PackedPictures<'a> = dyn Iterator<Item = Result<PackedPicture, DataError>> + 'a;

enum TarError {
    Data(DataError),
    Io(std::io::Error),
}

impl From<std::io::Error> for TarError {
    fn from(error: std::io::Error) -> Self {
        Self::Io(error)
    }
}

/// The name of a packed picture: in the folder of its class, with the extension of its format, and
/// different from all names in `used`, to which it is added.
fn file_name(picture: &PackedPicture, classes: &[String], used: &mut HashSet<String>) -> String {
    let extension =
        image::guess_format(&picture.bytes).ok().and_then(|format| format.extensions_str().first());
    let extension =
        extension.map_or_else(|| ".png".to_owned(), |extension| format!(".{extension}"));
    let name = if crate::source::has_picture_ending(&picture.name) {
        picture.name.clone()
    } else {
        picture.name.clone() + &extension
    };
    let class =
        picture.label.and_then(|label| classes.get(label as usize)).map(|class| folder_name(class));
    let name: String = {
        let parts: Vec<String> = name.split('/').map(visible).collect();
        parts.join("/")
    };
    let name = match class {
        Some(class) if !name.starts_with(&format!("{class}/")) => format!("{class}/{name}"),
        Some(_) => name,
        // A reader would take a folder for a class.
        None => name.replace('/', "-"),
    };
    let mut unique = name.clone();
    for n in 2.. {
        if used.insert(unique.clone()) {
            break;
        }
        let (stem, extension) = name.rsplit_once('.').unwrap_or((&name, "png"));
        unique = format!("{stem}-{n}.{extension}");
    }
    unique
}

/// The folder name for a class; it is never hidden, and not that of a split.
fn folder_name(class: &str) -> String {
    let name = visible(&class.replace(['/', '\\'], "-"));
    let is_split = crate::source::kind_of_split(&name).is_some();
    if name.is_empty() || is_split { name + "_" } else { name }
}

/// A part of a path that readers do not take for hidden.
fn visible(part: &str) -> String {
    if part.starts_with('.') || part == "__MACOSX" { format!("_{part}") } else { part.to_owned() }
}

fn write_tar(
    file: &mut File,
    classes: &[String],
    pictures: &mut PackedPictures<'_>,
) -> Result<usize, TarError> {
    let mut tar = tar::Builder::new(BufWriter::new(file));
    let mut used = HashSet::new();
    let mut labelled = Vec::new();
    let mut append = |name: &str, bytes: &[u8]| {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        tar.append_data(&mut header, name, bytes)
    };
    for picture in pictures {
        let picture = picture.map_err(TarError::Data)?;
        let name = file_name(&picture, classes, &mut used);
        append(&name, &picture.bytes)?;
        let class = picture.label.and_then(|label| classes.get(label as usize)).cloned();
        labelled.push((name, class));
    }
    if !crate::source::folders_give(&labelled) {
        append(LABELS, table(&labelled).as_bytes())?;
    }
    tar.into_inner()?.flush()?;
    Ok(used.len())
}

/// The table of labels in an archive whose folders cannot express the classes.
const LABELS: &str = "metadata.jsonl";

fn table(labelled: &[(String, Option<String>)]) -> String {
    let row = |(name, class): &(String, Option<String>)| {
        format!("{}\n", serde_json::json!({ "file_name": name, "label": class.as_ref()? })).into()
    };
    labelled.iter().filter_map(row).collect::<Vec<String>>().concat()
}

#[cfg(not(feature = "parquet"))]
fn write_parquet(
    _: &mut File,
    _: &[String],
    _: &mut PackedPictures<'_>,
    _: &Path,
) -> Result<usize, DataError> {
    unreachable!("pack() rejects this extension without the feature `parquet`")
}

#[cfg(feature = "parquet")]
fn write_parquet(
    file: &mut File,
    classes: &[String],
    pictures: &mut PackedPictures<'_>,
    out: &Path,
) -> Result<usize, DataError> {
    use parquet::data_type::{ByteArray, ByteArrayType, Int64Type};
    use parquet::file::metadata::KeyValue;
    use parquet::file::properties::WriterProperties;
    use parquet::file::writer::SerializedFileWriter;
    use parquet::schema::parser::parse_message_type;

    /// Pictures in a row group. A whole group is held in memory.
    const GROUP_SIZE: usize = 1000;
    let failed = |e: parquet::errors::ParquetError| DataError::io(out)(std::io::Error::other(e));
    let label = if classes.is_empty() { "" } else { "optional int64 label;" };
    let schema = format!(
        "message schema {{ optional group image {{ optional binary bytes; \
         optional binary path (UTF8); }} {label} }}"
    );
    let schema = std::sync::Arc::new(parse_message_type(&schema).map_err(failed)?);
    let mut features = serde_json::json!({ "image": { "_type": "Image" } });
    if !classes.is_empty() {
        features["label"] = serde_json::json!({ "names": classes, "_type": "ClassLabel" });
    }
    let hub_info = serde_json::json!({ "info": { "features": features } }).to_string();
    let properties = WriterProperties::builder()
        // Pictures are already compressed, and no two are the same.
        .set_dictionary_enabled(false)
        .set_key_value_metadata(Some(vec![KeyValue::new("huggingface".to_owned(), hub_info)]))
        .build();
    let mut writer =
        SerializedFileWriter::new(BufWriter::new(file), schema, std::sync::Arc::new(properties))
            .map_err(failed)?;
    let mut used = HashSet::new();
    loop {
        let group: Vec<PackedPicture> = pictures.take(GROUP_SIZE).collect::<Result<_, _>>()?;
        if group.is_empty() {
            break;
        }
        let paths: Vec<ByteArray> = group
            .iter()
            .map(|picture| ByteArray::from(file_name(picture, classes, &mut used).into_bytes()))
            .collect();
        let present = vec![2; group.len()];
        let labelled: Vec<i16> =
            group.iter().map(|picture| i16::from(picture.label.is_some())).collect();
        let labels: Vec<i64> =
            group.iter().filter_map(|picture| picture.label).map(i64::from).collect();
        let files: Vec<ByteArray> =
            group.into_iter().map(|picture| ByteArray::from(picture.bytes)).collect();
        let mut columns = writer.next_row_group().map_err(failed)?;
        for values in [&files, &paths] {
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
    Ok(used.len())
}
