//! Images from arrays of numpy's.

use std::path::Path;

use candle_core::{Device, Tensor};

use crate::DataError;
use crate::npy::{Header, Number};

/// More images than fit into any memory at once; a larger file is another one than was meant.
const MAX_BYTES: u64 = 1 << 34;

/// Images (N, C, H, W) from an npy file of 32- or 64-bit floats, in f32.
///
/// # Errors
/// What the system refuses; a file that is no npy array, or is longer or shorter than it says, or not of four dimensions, or
/// not of numbers that are finite.
pub fn read_npy(path: &Path) -> Result<Tensor, DataError> {
    let invalid = |problem: String| DataError::Invalid(format!("{}: {problem}", path.display()));
    let length = std::fs::metadata(path).map_err(DataError::io(path))?.len();
    if length > MAX_BYTES {
        return Err(invalid(format!("{length} bytes are more than the {MAX_BYTES} that an array may have")));
    }
    let bytes = std::fs::read(path).map_err(DataError::io(path))?;
    let (shape, values) =
        parse(&bytes).map_err(|problem| invalid(format!("no npy array of images: {problem}")))?;
    if !values.iter().all(|value| value.is_finite()) {
        return Err(invalid("it holds numbers that are not finite".to_owned()));
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
        return Err(format!("an array (N, C, H, W) is wanted, not one of shape {:?}", header.shape));
    };
    let wanted = shape.iter().try_fold(header.number.bytes(), |product, dim| product.checked_mul(*dim));
    if wanted != Some(numbers.len()) || numbers.is_empty() {
        return Err(format!(
            "its shape {shape:?} does not belong to the {} bytes that follow",
            numbers.len()
        ));
    }
    Ok((shape, header.number.values(numbers)))
}
