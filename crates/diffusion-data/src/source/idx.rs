//! The IDX format of the MNIST family: a magic number, big-endian dimensions, then bytes; plain or gzipped.
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

/// An array of bytes with its dimensions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IdxArray {
    /// Outermost first, such as [60000, 28, 28].
    pub dims: Vec<usize>,
    /// Their product many bytes.
    pub data: Vec<u8>,
}

/// A header that promises more than this is not believed (the largest of the family has 0.7 GB).
const MAX_BYTES: usize = 4 << 30;

/// Reads an array of `rank` dimensions from the file at `path`; gzip is recognised by its first bytes, not by name.
///
/// # Errors
/// What the system refuses; another format, another rank, a length other than the header's, damaged gzip. Each names
/// the file, the offset and what was expected.
pub fn read_file(path: &Path, rank: usize) -> Result<IdxArray, DataError> {
    let file = File::open(path).map_err(DataError::io(path))?;
    read(BufReader::new(file), rank, path)
}

/// Reads an array of `rank` dimensions from `bytes`; `name` stands for the file in errors.
///
/// # Errors
/// As [`read_file`].
pub fn read_bytes(bytes: &[u8], rank: usize, name: &str) -> Result<IdxArray, DataError> {
    read(bytes, rank, Path::new(name))
}

fn read(mut input: impl BufRead, rank: usize, path: &Path) -> Result<IdxArray, DataError> {
    let gzipped = input.fill_buf().map_err(DataError::io(path))?.starts_with(&[0x1f, 0x8b]);
    if gzipped { parse(GzDecoder::new(input), rank, path) } else { parse(input, rank, path) }
}

fn parse(mut input: impl Read, rank: usize, path: &Path) -> Result<IdxArray, DataError> {
    let wrong = |offset: usize, expected: String, found: String| DataError::Format {
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
        return Err(wrong(
            0,
            format!("the IDX magic number {} ({rank}-dimensional bytes)", hex(&magic)),
            if shown.is_empty() { "an empty file".to_owned() } else { hex(shown) },
        ));
    }
    if header.len() < header_len {
        return Err(wrong(
            header.len(),
            format!("{rank} dimensions of 4 bytes"),
            "the end of the file".to_owned(),
        ));
    }
    let dims: Vec<usize> = header[4..]
        .chunks_exact(4)
        .map(|word| u32::from_be_bytes([word[0], word[1], word[2], word[3]]) as usize)
        .collect();
    let described = dims.iter().map(ToString::to_string).collect::<Vec<_>>().join("×");
    let len = dims
        .iter()
        .try_fold(1usize, |product, &dim| product.checked_mul(dim))
        .filter(|&len| len <= MAX_BYTES)
        .ok_or_else(|| {
            wrong(4, format!("dimensions of at most {MAX_BYTES} bytes in all"), described.clone())
        })?;
    let data = read_up_to(&mut input, len, path)?;
    if data.len() < len {
        return Err(wrong(
            header_len + data.len(),
            format!("{len} bytes of data ({described})"),
            format!("the end of the file after {} of them", data.len()),
        ));
    }
    if !read_up_to(&mut input, 1, path)?.is_empty() {
        return Err(wrong(
            header_len + len,
            format!("the end of the file after {len} bytes of data ({described})"),
            "more bytes".to_owned(),
        ));
    }
    Ok(IdxArray { dims, data })
}

/// At most `len` bytes; fewer only at the end of the input, whole or cut off.
fn read_up_to(input: &mut impl Read, len: usize, path: &Path) -> Result<Vec<u8>, DataError> {
    let mut bytes = Vec::new();
    match input.take(len as u64).read_to_end(&mut bytes) {
        Ok(_) => Ok(bytes),
        // A gzip stream that ends too early says so; what it gave until then tells the caller where.
        Err(e) if e.kind() == std::io::ErrorKind::UnexpectedEof => Ok(bytes),
        Err(e) => Err(DataError::io(path)(e)),
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect::<Vec<_>>().join(" ")
}

/// The array as a gzipped IDX file: the same bytes for the same array, without name or time in the gzip header.
///
/// # Panics
/// A dimension above `u32::MAX`, or more than 255 of them, which the format cannot hold.
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
