//! From the hub's parquet of PNG pictures back to the bytes of the IDX files.

use std::fs::File;
use std::io::Cursor;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use candle_datasets::hub::FileReader;
use parquet::file::reader::SerializedFileReader;
use parquet::record::{Field, Row};

use super::{HubError, Progress, Split, files};

/// Height and width of a digit.
const SIDE: u32 = 28;
/// Bytes of a digit, one a pixel.
const PIXELS: usize = (SIDE * SIDE) as usize;
/// Far more than the decoder needs for a digit, far less than a forged header could ask for.
const PNG_MEMORY: usize = 1 << 20;
/// How many rows pass between two progress events.
const STRIDE: usize = 1000;

/// The unpacked content of a split's two IDX files, verified.
#[derive(Debug)]
pub(super) struct Decoded {
    pub(super) images: Vec<u8>,
    pub(super) labels: Vec<u8>,
}

/// Decodes and verifies the parquet file at `path`.
pub(super) fn split(
    path: &Path,
    split: &Split,
    on_progress: &mut dyn FnMut(Progress),
) -> Result<Decoded, HubError> {
    let decoded = read(path, split, on_progress)
        .map_err(|reason| HubError::Malformed { path: path.to_owned(), reason })?;
    files::verify(&decoded.images, &split.images)?;
    files::verify(&decoded.labels, &split.labels)?;
    Ok(decoded)
}

fn read(path: &Path, split: &Split, on_progress: &mut dyn FnMut(Progress)) -> Result<Decoded, String> {
    let file = File::open(path).map_err(|error| error.to_string())?;
    let reader = guarded(|| SerializedFileReader::new(file))?.map_err(|error| error.to_string())?;
    let count = usize::try_from(reader.metadata().file_metadata().num_rows()).unwrap_or(0);
    if count != split.count {
        return Err(format!("it holds {count} rows, expected {}", split.count));
    }

    let header = [0x0000_0803, as_u32(count)?, SIDE, SIDE];
    let mut images = Vec::with_capacity(4 * header.len() + count * PIXELS);
    images.extend(header.iter().flat_map(|word| word.to_be_bytes()));
    let header = [0x0000_0801, as_u32(count)?];
    let mut labels = Vec::with_capacity(4 * header.len() + count);
    labels.extend(header.iter().flat_map(|word| word.to_be_bytes()));

    let mut iter = guarded(|| reader.get_row_iter(None))?.map_err(|error| error.to_string())?;
    let mut rows = 0;
    while let Some(row) = guarded(|| iter.next())? {
        let (png, label) = row
            .map_err(|error| error.to_string())
            .and_then(columns)
            .map_err(|error| format!("row {rows}: {error}"))?;
        append_pixels(&png, &mut images).map_err(|error| format!("row {rows}: {error}"))?;
        labels.push(label);
        rows += 1;
        if rows % STRIDE == 0 || rows == count {
            on_progress(Progress::Decoding { file: split.parquet.clone(), done: rows, total: count });
        }
    }
    if rows != count {
        return Err(format!("it ends after {rows} rows, announced {count}"));
    }
    Ok(Decoded { images, labels })
}

/// Calls the parquet crate, which answers most bad bytes with an error but asserts in a few places: of 60,000
/// randomly damaged files 142 made it panic. A file from the network must not take the program down.
fn guarded<T>(call: impl FnOnce() -> T) -> Result<T, String> {
    // After a panic the reader is dropped unused, so whatever state it is in does not matter.
    catch_unwind(AssertUnwindSafe(call)).map_err(|_| "its parquet encoding is damaged".to_owned())
}

fn as_u32(count: usize) -> Result<u32, String> {
    u32::try_from(count).map_err(|_| format!("{count} rows are more than an IDX file can hold"))
}

/// The PNG bytes and the label of one row: `image: {bytes, path}, label`.
fn columns(row: Row) -> Result<(Vec<u8>, u8), String> {
    let (mut png, mut label) = (None, None);
    for (name, field) in row.into_columns() {
        match (name.as_str(), field) {
            ("image", Field::Group(image)) => {
                png = image.into_columns().into_iter().find_map(|(name, field)| match field {
                    Field::Bytes(bytes) if name == "bytes" => Some(bytes.data().to_vec()),
                    _ => None,
                });
            }
            ("label", Field::Long(value)) => label = u8::try_from(value).ok().filter(|digit| *digit < 10),
            _ => {}
        }
    }
    Ok((png.ok_or("no picture in image.bytes")?, label.ok_or("no digit from 0 to 9 in label")?))
}

/// Appends the 28×28 pixels of an 8-bit grey PNG.
fn append_pixels(png: &[u8], pixels: &mut Vec<u8>) -> Result<(), String> {
    let limits = png::Limits { bytes: PNG_MEMORY };
    let mut reader = png::Decoder::new_with_limits(Cursor::new(png), limits)
        .read_info()
        .map_err(|error| error.to_string())?;
    let (width, height) = reader.info().size();
    if (width, height) != (SIDE, SIDE)
        || reader.output_color_type() != (png::ColorType::Grayscale, png::BitDepth::Eight)
    {
        let (color, depth) = reader.output_color_type();
        return Err(format!(
            "a {width}×{height} picture of {color:?} {depth:?}, expected {SIDE}×{SIDE} of Grayscale Eight"
        ));
    }
    let start = pixels.len();
    pixels.resize(start + PIXELS, 0);
    reader.next_frame(&mut pixels[start..]).map_err(|error| error.to_string())?;
    Ok(())
}
