//! The IDX format of MNIST and similar sets: a magic number, big-endian dimensions, then bytes;
//! plain or gzipped.
//!
//! ```text
//! offset 0   00 00 08 nn      08: unsigned bytes, nn: number of dimensions
//!        4   nn × u32         the dimensions
//!        …   the data, the last dimension fastest
//! ```

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::Path;

use flate2::Compression;
use flate2::bufread::GzDecoder;
use flate2::write::GzEncoder;

use crate::DataError;

/// An array of bytes, with its dimensions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IdxArray {
    /// The dimensions, outermost first, such as [60000, 28, 28].
    pub dims: Vec<usize>,
    /// The bytes; their number is the product of the dimensions.
    pub data: Vec<u8>,
}

/// The maximum size of the data in bytes (the largest MNIST-like set has 0.7 GB).
const MAX_BYTES: usize = 4 << 30;

/// Reads an array of `rank` dimensions from the file at `path`. Gzip is recognised by its first
/// bytes, not by the file's name.
///
/// # Errors
/// An I/O error, if the file cannot be read. If it has another format or another rank, another
/// length than its header says, or damaged gzip data. Errors of the format name the file, the
/// offset and what was expected.
pub fn read_file(path: &Path, rank: usize) -> Result<IdxArray, DataError> {
    let file = File::open(path).map_err(DataError::io(path))?;
    read(BufReader::new(file), rank, path)
}

/// Reads an array of `rank` dimensions from `bytes`, plain or gzipped. Errors name `name` as the
/// file.
///
/// # Errors
/// If the bytes have another format or another rank, another length than their header says, or
/// damaged gzip data.
pub fn read_bytes(bytes: &[u8], rank: usize, name: &str) -> Result<IdxArray, DataError> {
    read(bytes, rank, Path::new(name))
}

/// The first 8 bytes of the file at `path`, after decompression: the magic number and the first
/// dimension. `None` if it is shorter or cannot be read.
pub(crate) fn head(path: &Path) -> Option<[u8; 8]> {
    let mut input = BufReader::new(File::open(path).ok()?);
    let mut bytes = [0; 8];
    if input.fill_buf().ok()?.starts_with(&[0x1f, 0x8b]) {
        GzDecoder::new(input).read_exact(&mut bytes).ok()?;
    } else {
        input.read_exact(&mut bytes).ok()?;
    }
    Some(bytes)
}

fn read(mut input: impl BufRead, rank: usize, path: &Path) -> Result<IdxArray, DataError> {
    let gzipped = input.fill_buf().map_err(DataError::io(path))?.starts_with(&[0x1f, 0x8b]);
    if gzipped { parse(GzDecoder::new(input), rank, path) } else { parse(input, rank, path) }
}

fn parse(mut input: impl Read, rank: usize, path: &Path) -> Result<IdxArray, DataError> {
    let format_error = |offset: usize, expected: String, found: String| DataError::Format {
        path: path.to_owned(),
        offset: offset as u64,
        expected,
        found,
    };
    let header_len = 4 + 4 * rank;
    let header = read_up_to(&mut input, header_len, path)?;
    let magic = [0, 0, 8, rank as u8];
    if !header.starts_with(&magic) {
        let shown = &header[..header.len().min(4)];
        return Err(format_error(
            0,
            format!("the IDX magic number {} ({rank}-dimensional bytes)", hex(&magic)),
            if shown.is_empty() { "an empty file".to_owned() } else { hex(shown) },
        ));
    }
    if header.len() < header_len {
        return Err(format_error(
            header.len(),
            format!("{rank} dimensions of 4 bytes"),
            "the end of the file".to_owned(),
        ));
    }
    let dims: Vec<usize> = header[4..]
        .chunks_exact(4)
        .map(|word| u32::from_be_bytes([word[0], word[1], word[2], word[3]]) as usize)
        .collect();
    let shape = dims.iter().map(ToString::to_string).collect::<Vec<_>>().join("×");
    let len = dims
        .iter()
        .try_fold(1usize, |product, &dim| product.checked_mul(dim))
        .filter(|&len| len <= MAX_BYTES)
        .ok_or_else(|| {
            format_error(
                4,
                format!("dimensions of at most {MAX_BYTES} bytes in all"),
                shape.clone(),
            )
        })?;
    let data = read_up_to(&mut input, len, path)?;
    if data.len() < len {
        return Err(format_error(
            header_len + data.len(),
            format!("{len} bytes of data ({shape})"),
            format!("the end of the file after {} of them", data.len()),
        ));
    }
    if !read_up_to(&mut input, 1, path)?.is_empty() {
        return Err(format_error(
            header_len + len,
            format!("the end of the file after {len} bytes of data ({shape})"),
            "more bytes".to_owned(),
        ));
    }
    Ok(IdxArray { dims, data })
}

/// Reads `len` bytes, or fewer if the input ends or is cut off before.
fn read_up_to(input: &mut impl Read, len: usize, path: &Path) -> Result<Vec<u8>, DataError> {
    let mut bytes = Vec::new();
    match input.take(len as u64).read_to_end(&mut bytes) {
        Ok(_) => Ok(bytes),
        // A gzip stream that is cut off. From the bytes read so far the caller knows the offset.
        Err(e) if e.kind() == std::io::ErrorKind::UnexpectedEof => Ok(bytes),
        Err(e) => Err(DataError::io(path)(e)),
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect::<Vec<_>>().join(" ")
}

/// The array as a gzipped IDX file. The gzip header has no name and no time, so equal arrays give
/// equal bytes.
///
/// # Panics
/// If a dimension exceeds `u32::MAX`, or there are more than 255 dimensions.
pub fn to_gzipped_bytes(array: &IdxArray) -> Vec<u8> {
    let rank = u8::try_from(array.dims.len()).expect("an IDX file has at most 255 dimensions");
    let mut bytes = vec![0, 0, 8, rank];
    for &dim in &array.dims {
        bytes.extend(u32::try_from(dim).expect("an IDX dimension has 32 bits").to_be_bytes());
    }
    bytes.extend(&array.data);
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    // Writing to a Vec does not fail.
    encoder.write_all(&bytes).and_then(|()| encoder.finish()).expect("writing to memory succeeds")
}
