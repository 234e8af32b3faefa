//! Arrays of numpy: a mark, a length, a text that describes the numbers, and the numbers.

use std::io::{self, Read};
use std::path::Path;

use candle_core::{Device, Tensor};
use diffusion_files::{FileError, write_file_with};
use thiserror::Error;

use crate::PictureError;

/// The first bytes of an npy file.
pub const MAGIC: &[u8] = b"\x93NUMPY";
/// Headers of numpy's own are a hundred bytes long.
const MAX_HEADER: usize = 1 << 16;
/// More images than fit into any memory at once; a larger file is another one than was meant.
const MAX_BYTES: u64 = 1 << 34;

/// What is wrong with the header of an array, in words: "it ends within its header".
#[derive(Debug, Error)]
#[error("{0}")]
pub struct HeaderError(String);

impl From<HeaderError> for String {
    fn from(error: HeaderError) -> Self {
        error.0
    }
}

/// What an array's numbers are, all of them little-endian.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Number {
    /// Bytes.
    U8,
    /// Whole numbers of 32 bits.
    I32,
    /// Whole numbers of 64 bits.
    I64,
    /// Floats of 32 bits.
    F32,
    /// Floats of 64 bits.
    F64,
}

impl Number {
    /// The length of one number.
    pub fn bytes(self) -> usize {
        match self {
            Self::U8 => 1,
            Self::I32 | Self::F32 => 4,
            Self::I64 | Self::F64 => 8,
        }
    }

    /// The numbers in `bytes`, in f64; bytes at the end that make no whole number are left out.
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
        let known = [
            ("|u1", Self::U8),
            ("<i4", Self::I32),
            ("<i8", Self::I64),
            ("<f4", Self::F32),
            ("<f8", Self::F64),
        ];
        known.into_iter().find(|(name, _)| *name == descr).map(|(_, number)| number)
    }
}

/// An array's description.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// The type of its numbers.
    pub number: Number,
    /// The length of each dimension, the outermost first.
    pub shape: Vec<usize>,
    /// The length of the header itself, in bytes.
    pub bytes: u64,
}

impl Header {
    /// Reads up to where the numbers begin.
    ///
    /// # Errors
    /// Bytes that are no header of versions 1 to 3; numbers of another type than [`Number`]; Fortran order.
    pub fn read(input: &mut (impl Read + ?Sized)) -> Result<Self, HeaderError> {
        parse_header(input).map_err(HeaderError)
    }
}

fn parse_header(input: &mut (impl Read + ?Sized)) -> Result<Header, String> {
    let early = |_| "it ends within its header".to_owned();
    let mut start = [0; 8];
    input.read_exact(&mut start).map_err(early)?;
    if !start.starts_with(MAGIC) {
        return Err("it does not begin with numpy's mark".to_owned());
    }
    let wide = match start[6] {
        1 => false,
        2 | 3 => true,
        version => return Err(format!("its version is {version}; expected 1, 2 or 3")),
    };
    let mut length = [0; 4];
    input.read_exact(&mut length[..if wide { 4 } else { 2 }]).map_err(early)?;
    let length = u32::from_le_bytes(length) as usize;
    if length > MAX_HEADER {
        return Err(format!("a header of {length} bytes is too long"));
    }
    let mut text = vec![0; length];
    input.read_exact(&mut text).map_err(early)?;
    let (number, shape) = describe(&String::from_utf8_lossy(&text))?;
    Ok(Header { number, shape, bytes: (8 + if wide { 4 } else { 2 } + length) as u64 })
}

fn describe(header: &str) -> Result<(Number, Vec<usize>), String> {
    let header: String = header.split_whitespace().collect();
    let field = |name: &str| -> Result<&str, String> {
        let start = header.find(name).ok_or_else(|| format!("its header does not say {name}"))?;
        Ok(header[start + name.len()..].trim_start_matches(':'))
    };
    let descr = field("'descr'")?.trim_start_matches('\'').split('\'').next().unwrap_or_default();
    let number = Number::parse(descr).ok_or_else(|| {
        format!(
            "its numbers are {descr:?}; expected bytes (|u1), or little-endian <f4, <f8, <i4 or <i8"
        )
    })?;
    if !field("'fortran_order'")?.starts_with("False") {
        return Err("its first index runs fastest; save it in C order".to_owned());
    }
    let dims = field("'shape'")?
        .strip_prefix('(')
        .and_then(|shape| shape.split_once(')'))
        .ok_or("its shape is no list")?
        .0;
    let dims =
        dims.split(',').filter(|dim| !dim.is_empty()).map(str::parse).collect::<Result<_, _>>();
    Ok((number, dims.map_err(|e| format!("its shape is not of whole numbers: {e}"))?))
}

/// Writes a tensor as an npy file. The file appears under its name only when it is complete.
///
/// # Errors
/// What the system reports; errors of the device.
pub fn write_npy(tensor: &Tensor, path: &Path) -> Result<(), PictureError> {
    let tensor = tensor.to_device(&Device::Cpu)?;
    write_file_with(path, |partial| {
        let written = tensor.write_npy(partial).map_err(|e| io::Error::other(e.to_string()));
        Ok(written.map_err(FileError::io(path))?)
    })
}

/// Images (N, C, H, W) from an npy file of 32- or 64-bit floats, in f32.
///
/// # Errors
/// What the system reports; a file that is no npy array, or is longer or shorter than it says, or not of four dimensions, or
/// not of numbers that are finite.
pub fn read_npy(path: &Path) -> Result<Tensor, PictureError> {
    let invalid = |problem: String| FileError::unusable(path, problem);
    let length = std::fs::metadata(path).map_err(FileError::io(path))?.len();
    if length > MAX_BYTES {
        return Err(invalid(format!(
            "{length} bytes are more than the {MAX_BYTES} that an array may have"
        ))
        .into());
    }
    let bytes = std::fs::read(path).map_err(FileError::io(path))?;
    let (shape, values) =
        parse(&bytes).map_err(|problem| invalid(format!("no npy array of images: {problem}")))?;
    if !values.iter().all(|value| value.is_finite()) {
        return Err(invalid("it holds numbers that are not finite".to_owned()).into());
    }
    let values: Vec<f32> = values.into_iter().map(|value| value as f32).collect();
    Ok(Tensor::from_vec(values, shape.as_slice(), &Device::Cpu)?)
}

/// The shape, and as many numbers as it says.
fn parse(bytes: &[u8]) -> Result<([usize; 4], Vec<f64>), String> {
    let mut numbers = bytes;
    let header = Header::read(&mut numbers)?;
    if !matches!(header.number, Number::F32 | Number::F64) {
        return Err("its numbers are not little-endian floats of 32 or 64 bits".to_owned());
    }
    let Ok(shape) = <[usize; 4]>::try_from(header.shape.as_slice()) else {
        return Err(format!(
            "an array (N, C, H, W) is wanted, not one of shape {:?}",
            header.shape
        ));
    };
    let wanted =
        shape.iter().try_fold(header.number.bytes(), |product, dim| product.checked_mul(*dim));
    if wanted != Some(numbers.len()) || numbers.is_empty() {
        return Err(format!(
            "its shape {shape:?} does not belong to the {} bytes that follow",
            numbers.len()
        ));
    }
    Ok((shape, header.number.values(numbers)))
}
