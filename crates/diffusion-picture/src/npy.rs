//! Files of numpy arrays: a magic number, the header's length, a header in text that gives type and
//! shape, and the numbers.

use std::io::{self, Read};
use std::path::Path;

use candle_core::{Device, Tensor};
use diffusion_files::{FileError, write_file_with};
use thiserror::Error;

use crate::PictureError;

/// The first bytes of an npy file.
pub const MAGIC: &[u8] = b"\x93NUMPY";
/// The maximum length of a header in bytes; numpy writes about a hundred.
const MAX_HEADER: usize = 1 << 16;
/// The maximum size of a file in bytes, 16 GiB. A larger one is probably the wrong file.
const MAX_BYTES: u64 = 1 << 34;

/// What is wrong with the header of an array, as in "it ends within its header".
#[derive(Debug, Error)]
#[error("{0}")]
pub struct HeaderError(String);

impl From<HeaderError> for String {
    fn from(error: HeaderError) -> Self {
        error.0
    }
}

/// The type of an array's numbers, all little-endian.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NumberType {
    /// Unsigned 8-bit integers.
    U8,
    /// Signed 32-bit integers.
    I32,
    /// Signed 64-bit integers.
    I64,
    /// 32-bit floats.
    F32,
    /// 64-bit floats.
    F64,
}

impl NumberType {
    /// The size of one number in bytes.
    pub fn bytes(self) -> usize {
        match self {
            Self::U8 => 1,
            Self::I32 | Self::F32 => 4,
            Self::I64 | Self::F64 => 8,
        }
    }

    /// Converts `bytes` to numbers in f64. An incomplete number at the end is ignored.
    pub fn values(self, bytes: &[u8]) -> Vec<f64> {
        match self {
            Self::U8 => bytes.iter().map(|byte| f64::from(*byte)).collect(),
            Self::I32 => {
                bytes.as_chunks().0.iter().map(|b| f64::from(i32::from_le_bytes(*b))).collect()
            }
            Self::I64 => {
                bytes.as_chunks().0.iter().map(|b| i64::from_le_bytes(*b) as f64).collect()
            }
            Self::F32 => {
                bytes.as_chunks().0.iter().map(|b| f64::from(f32::from_le_bytes(*b))).collect()
            }
            Self::F64 => bytes.as_chunks().0.iter().map(|b| f64::from_le_bytes(*b)).collect(),
        }
    }

    fn parse(descr: &str) -> Option<Self> {
        let types = [
            ("|u1", Self::U8),
            ("<i4", Self::I32),
            ("<i8", Self::I64),
            ("<f4", Self::F32),
            ("<f8", Self::F64),
        ];
        types.into_iter().find(|(name, _)| *name == descr).map(|(_, number_type)| number_type)
    }
}

/// The header of an npy file: the type and the shape of its array.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// The type of the numbers.
    pub number_type: NumberType,
    /// The size of each dimension, outermost first.
    pub shape: Vec<usize>,
    /// The length of the header in bytes. The numbers begin there.
    pub bytes: u64,
}

impl Header {
    /// Reads the header. `input` is then at the first number.
    ///
    /// # Errors
    /// If `input` does not begin with an npy header of version 1 to 3, or the numbers have a type
    /// that is not in [`NumberType`], or the array is in Fortran order.
    pub fn read(input: &mut (impl Read + ?Sized)) -> Result<Self, HeaderError> {
        parse_header(input).map_err(HeaderError)
    }
}

fn parse_header(input: &mut (impl Read + ?Sized)) -> Result<Header, String> {
    let incomplete = |_| "it ends within its header".to_owned();
    let mut start = [0; 8];
    input.read_exact(&mut start).map_err(incomplete)?;
    if !start.starts_with(MAGIC) {
        return Err("it does not begin with the magic number of npy files".to_owned());
    }
    let long_header = match start[6] {
        1 => false,
        2 | 3 => true,
        version => return Err(format!("its format version is {version}; expected 1, 2 or 3")),
    };
    let mut length = [0; 4];
    input.read_exact(&mut length[..if long_header { 4 } else { 2 }]).map_err(incomplete)?;
    let length = u32::from_le_bytes(length) as usize;
    if length > MAX_HEADER {
        return Err(format!("its header must have at most {MAX_HEADER} bytes, got {length}"));
    }
    let mut text = vec![0; length];
    input.read_exact(&mut text).map_err(incomplete)?;
    let (number_type, shape) = parse_fields(&String::from_utf8_lossy(&text))?;
    Ok(Header { number_type, shape, bytes: (8 + if long_header { 4 } else { 2 } + length) as u64 })
}

fn parse_fields(header: &str) -> Result<(NumberType, Vec<usize>), String> {
    let header: String = header.split_whitespace().collect();
    let field = |name: &str| -> Result<&str, String> {
        let start = header.find(name).ok_or_else(|| format!("its header has no field {name}"))?;
        Ok(header[start + name.len()..].trim_start_matches(':'))
    };
    let descr = field("'descr'")?.trim_start_matches('\'').split('\'').next().unwrap_or_default();
    let number_type = NumberType::parse(descr).ok_or_else(|| {
        format!(
            "its numbers are {descr:?}; expected bytes (|u1), or little-endian <f4, <f8, <i4 or <i8"
        )
    })?;
    if !field("'fortran_order'")?.starts_with("False") {
        return Err("it is in Fortran order; save it in C order".to_owned());
    }
    let dims = field("'shape'")?
        .strip_prefix('(')
        .and_then(|shape| shape.split_once(')'))
        .ok_or("its shape is not a tuple")?
        .0;
    let dims =
        dims.split(',').filter(|dim| !dim.is_empty()).map(str::parse).collect::<Result<_, _>>();
    Ok((number_type, dims.map_err(|e| format!("its shape must consist of integers: {e}"))?))
}

/// Writes a tensor as an npy file. The file appears under its name only when it is complete.
///
/// # Errors
/// An I/O error, if the file cannot be written. An error of the device.
pub fn write_npy(tensor: &Tensor, path: &Path) -> Result<(), PictureError> {
    let tensor = tensor.to_device(&Device::Cpu)?;
    write_file_with(path, |partial| {
        let result = tensor.write_npy(partial).map_err(|e| io::Error::other(e.to_string()));
        Ok(result.map_err(FileError::io(path))?)
    })
}

/// Reads images (N, C, H, W) from an npy file of 32- or 64-bit floats, as f32.
///
/// # Errors
/// An I/O error, if the file cannot be read. If the file is not an npy array of floats, does not
/// have four dimensions, has another length than its shape requires, has more than 16 GiB, or
/// contains numbers that are not finite.
pub fn read_npy(path: &Path) -> Result<Tensor, PictureError> {
    let invalid = |problem: String| FileError::unusable(path, problem);
    let length = std::fs::metadata(path).map_err(FileError::io(path))?.len();
    if length > MAX_BYTES {
        return Err(invalid(format!(
            "an npy file must have at most {MAX_BYTES} bytes, got {length}"
        ))
        .into());
    }
    let bytes = std::fs::read(path).map_err(FileError::io(path))?;
    let (shape, values) = parse(&bytes)
        .map_err(|problem| invalid(format!("not an npy array of images: {problem}")))?;
    if !values.iter().all(|value| value.is_finite()) {
        return Err(invalid("it contains numbers that are not finite".to_owned()).into());
    }
    let values: Vec<f32> = values.into_iter().map(|value| value as f32).collect();
    Ok(Tensor::from_vec(values, shape.as_slice(), &Device::Cpu)?)
}

/// The shape of an npy array (N, C, H, W) of floats, and its numbers.
fn parse(bytes: &[u8]) -> Result<([usize; 4], Vec<f64>), String> {
    let mut numbers = bytes;
    let header = Header::read(&mut numbers)?;
    if !matches!(header.number_type, NumberType::F32 | NumberType::F64) {
        return Err("its numbers must be little-endian floats of 32 or 64 bits".to_owned());
    }
    let Ok(shape) = <[usize; 4]>::try_from(header.shape.as_slice()) else {
        return Err(format!("expected an array of shape (N, C, H, W), got {:?}", header.shape));
    };
    let expected =
        shape.iter().try_fold(header.number_type.bytes(), |product, dim| product.checked_mul(*dim));
    if expected != Some(numbers.len()) || numbers.is_empty() {
        return Err(format!(
            "its shape {shape:?} does not match its {} bytes of numbers",
            numbers.len()
        ));
    }
    Ok((shape, header.number_type.values(numbers)))
}
