//! Decodes the hub's parquet files of PNG pictures and restores the bytes of the original files.

use std::fs::File;
use std::io::Cursor;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::record::{Field, Row};

use crate::{Content, HubError, NamedDataset, NamedSplit, Output, Progress};

/// The most memory of the PNG decoder, in bytes. A small picture needs far less; a forged header
/// could request far more.
const PNG_MEMORY: usize = 1 << 20;
/// Rows between two progress events.
const PROGRESS_INTERVAL: usize = 1000;

/// The pictures of a split.
#[derive(Debug)]
pub(crate) struct Pictures {
    /// Shape `(N, C, H, W)`.
    pixels: Vec<u8>,
    labels: Vec<u8>,
    side: usize,
    picture_len: usize,
}

/// Decodes the parquet file of a split at `path`.
pub(crate) fn decode_split(
    path: &Path,
    dataset: &NamedDataset,
    split: &NamedSplit,
    on_progress: &mut dyn FnMut(Progress),
) -> Result<Pictures, HubError> {
    read(path, dataset, split, on_progress).map_err(|reason| HubError::Malformed {
        path: path.to_owned(),
        title: dataset.title.clone(),
        reason,
    })
}

fn read(
    path: &Path,
    dataset: &NamedDataset,
    split: &NamedSplit,
    on_progress: &mut dyn FnMut(Progress),
) -> Result<Pictures, String> {
    let file = File::open(path).map_err(|error| error.to_string())?;
    let reader =
        catch_panics(|| SerializedFileReader::new(file))?.map_err(|error| error.to_string())?;
    let count = usize::try_from(reader.metadata().file_metadata().num_rows()).unwrap_or(0);
    if count != split.count {
        return Err(format!("it has {count} rows, expected {}", split.count));
    }
    let picture_len = dataset.picture_len();
    let mut pixels = Vec::with_capacity(count * picture_len);
    let mut labels = Vec::with_capacity(count);
    let mut iter =
        catch_panics(|| reader.get_row_iter(None))?.map_err(|error| error.to_string())?;
    while let Some(row) = catch_panics(|| iter.next())? {
        let rows = labels.len();
        let (png, label) = row
            .map_err(|error| error.to_string())
            .and_then(|row| columns(row, dataset))
            .map_err(|error| format!("row {rows}: {error}"))?;
        append_planes(&png, dataset, &mut pixels)
            .map_err(|error| format!("row {rows}: {error}"))?;
        labels.push(label);
        let done = labels.len();
        if done % PROGRESS_INTERVAL == 0 || done == count {
            on_progress(Progress::Decoding { file: split.parquet.clone(), done, total: count });
        }
    }
    if labels.len() != count {
        return Err(format!("it ends after {} rows, expected {count}", labels.len()));
    }
    Ok(Pictures { pixels, labels, side: dataset.side, picture_len })
}

/// Calls the parquet crate and turns its panics into errors. The crate returns an error for most
/// damaged files, but asserts in a few places: of 60,000 randomly damaged files 142 made it panic.
/// A file from the network must not end the program.
fn catch_panics<T>(call: impl FnOnce() -> T) -> Result<T, String> {
    // After a panic the reader is dropped, so its state does not matter.
    catch_unwind(AssertUnwindSafe(call)).map_err(|_| "its parquet encoding is damaged".to_owned())
}

/// The PNG bytes and the label of one row: `{column}: {bytes, path}, label`.
fn columns(row: Row, dataset: &NamedDataset) -> Result<(Vec<u8>, u8), String> {
    let (mut png, mut label) = (None, None);
    for (name, field) in row.into_columns() {
        match field {
            Field::Group(image) if name == dataset.column => {
                png = image.into_columns().into_iter().find_map(|(name, field)| match field {
                    Field::Bytes(bytes) if name == "bytes" => Some(bytes.data().to_vec()),
                    _ => None,
                });
            }
            Field::Long(value) if name == "label" => {
                label = u8::try_from(value)
                    .ok()
                    .filter(|label| usize::from(*label) < dataset.classes.len());
            }
            _ => {}
        }
    }
    let png = png.ok_or_else(|| format!("{}.bytes contains no picture", dataset.column))?;
    let label = label
        .ok_or_else(|| format!("label must be a class from 0 to {}", dataset.classes.len() - 1))?;
    Ok((png, label))
}

/// Appends the pixels of an 8-bit PNG as planes `(C, H, W)`.
fn append_planes(png: &[u8], dataset: &NamedDataset, pixels: &mut Vec<u8>) -> Result<(), String> {
    let expected_color =
        if dataset.channels == 1 { png::ColorType::Grayscale } else { png::ColorType::Rgb };
    let limits = png::Limits { bytes: PNG_MEMORY };
    let mut reader = png::Decoder::new_with_limits(Cursor::new(png), limits)
        .read_info()
        .map_err(|error| error.to_string())?;
    let (width, height) = reader.info().size();
    let (color, depth) = reader.output_color_type();
    let side = dataset.side;
    if (width as usize, height as usize) != (side, side)
        || (color, depth) != (expected_color, png::BitDepth::Eight)
    {
        return Err(format!(
            "a {width}×{height} picture of {color:?} {depth:?}, \
             expected {side}×{side} of {expected_color:?} Eight"
        ));
    }
    let mut interleaved = vec![0; dataset.picture_len()];
    reader.next_frame(&mut interleaved).map_err(|error| error.to_string())?;
    for channel in 0..dataset.channels {
        pixels.extend(interleaved.iter().skip(channel).step_by(dataset.channels));
    }
    Ok(())
}

impl Pictures {
    /// The parts of the split that may be the content of a file, the most likely part first.
    pub(crate) fn candidates(&self, output: &Output) -> impl Iterator<Item = Content> + use<> {
        let total = self.labels.len();
        let batches = match output.content {
            Content::Batch { count, .. } => {
                (0..total).step_by(count.max(1)).map(move |first| (first, count)).collect()
            }
            Content::IdxImages | Content::IdxLabels => Vec::new(),
        };
        let batches = batches.into_iter().map(|(first, count)| Content::Batch { first, count });
        std::iter::once(output.content).chain(batches)
    }

    /// The unpacked content of a file.
    pub(crate) fn render(&self, content: Content) -> Vec<u8> {
        match content {
            Content::IdxImages => idx(&[self.labels.len(), self.side, self.side], &self.pixels),
            Content::IdxLabels => idx(&[self.labels.len()], &self.labels),
            Content::Batch { first, count } => {
                let pictures = self.pixels.chunks_exact(self.picture_len).zip(&self.labels);
                let records = pictures.skip(first).take(count);
                records
                    .flat_map(|(pixels, label)| std::iter::once(label).chain(pixels))
                    .copied()
                    .collect()
            }
        }
    }
}

impl Content {
    /// Bytes of the unpacked file.
    pub(crate) fn len(self, dataset: &NamedDataset, split: &NamedSplit) -> usize {
        match self {
            Self::IdxImages => 16 + split.count * dataset.picture_len(),
            Self::IdxLabels => 8 + split.count,
            Self::Batch { count, .. } => count * (1 + dataset.picture_len()),
        }
    }
}

/// The bytes of an IDX file with elements of one byte.
fn idx(dims: &[usize], bytes: &[u8]) -> Vec<u8> {
    let mut file = vec![0, 0, 8, dims.len() as u8];
    // The pictures fit into memory, so their counts fit into 32 bits.
    file.extend(dims.iter().flat_map(|dim| (*dim as u32).to_be_bytes()));
    file.extend_from_slice(bytes);
    file
}
