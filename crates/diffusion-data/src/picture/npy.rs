//! Arrays of numpy's format: a text that describes them, and the numbers.

use std::path::Path;

use candle_core::{Device, Tensor};

use crate::DataError;

const MAGIC: &[u8] = b"\x93NUMPY";
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
    let (shape, wide, numbers) =
        parts(&bytes).map_err(|problem| invalid(format!("no npy array of images: {problem}")))?;
    let values: Vec<f32> = if wide {
        numbers.as_chunks().0.iter().map(|bytes| f64::from_le_bytes(*bytes) as f32).collect()
    } else {
        numbers.as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect()
    };
    if !values.iter().all(|value| value.is_finite()) {
        return Err(invalid("it holds numbers that are not finite".to_owned()));
    }
    Ok(Tensor::from_vec(values, shape.as_slice(), &Device::Cpu)?)
}

/// The shape, whether the numbers have 64 bits, and their bytes: as many as the shape says.
fn parts(bytes: &[u8]) -> Result<([usize; 4], bool, &[u8]), String> {
    let rest = bytes.strip_prefix(MAGIC).ok_or("it does not begin with numpy's mark")?;
    let (length, rest) = match rest {
        [1, _, a, b, rest @ ..] => (usize::from(u16::from_le_bytes([*a, *b])), rest),
        [2 | 3, _, a, b, c, d, rest @ ..] => (u32::from_le_bytes([*a, *b, *c, *d]) as usize, rest),
        _ => return Err("it ends within its header".to_owned()),
    };
    let (header, numbers) = rest.split_at_checked(length).ok_or("it ends within its header")?;
    let header: String = String::from_utf8_lossy(header).split_whitespace().collect();
    let field = |name: &str| -> Result<&str, String> {
        let start = header.find(name).ok_or_else(|| format!("its header does not say {name}"))?;
        Ok(header[start + name.len()..].trim_start_matches(':'))
    };
    let wide = match field("'descr'")? {
        kind if kind.starts_with("'<f4'") => false,
        kind if kind.starts_with("'<f8'") => true,
        _ => return Err("its numbers are not little-endian floats of 32 or 64 bits".to_owned()),
    };
    if !field("'fortran_order'")?.starts_with("False") {
        return Err("its first index runs fastest; save it in C order".to_owned());
    }
    let dims = field("'shape'")?
        .strip_prefix('(')
        .and_then(|shape| shape.split_once(')'))
        .ok_or("its shape is no list")?
        .0;
    let dims =
        dims.split(',').filter(|dim| !dim.is_empty()).map(str::parse).collect::<Result<Vec<usize>, _>>();
    let dims = dims.map_err(|e| format!("its shape is not of whole numbers: {e}"))?;
    let Ok(shape) = <[usize; 4]>::try_from(dims.as_slice()) else {
        return Err(format!("an array (N, C, H, W) is wanted, not one of shape {dims:?}"));
    };
    let size = if wide { 8usize } else { 4 };
    let wanted = shape.iter().try_fold(size, |product, dim| product.checked_mul(*dim));
    if wanted != Some(numbers.len()) || numbers.is_empty() {
        return Err(format!(
            "its shape {shape:?} does not belong to the {} bytes that follow",
            numbers.len()
        ));
    }
    Ok((shape, wide, numbers))
}
