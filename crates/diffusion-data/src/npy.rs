//! The header of numpy's arrays: a mark, a length, and a text that describes the numbers behind it.

use std::io::Read;

pub(crate) const MAGIC: &[u8] = b"\x93NUMPY";
/// Headers of numpy's own are a hundred bytes long.
const MAX_HEADER: usize = 1 << 16;

/// What an array's numbers are, all of them little-endian.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Number {
    U8,
    I32,
    I64,
    F32,
    F64,
}

impl Number {
    pub(crate) fn bytes(self) -> usize {
        match self {
            Self::U8 => 1,
            Self::I32 | Self::F32 => 4,
            Self::I64 | Self::F64 => 8,
        }
    }

    pub(crate) fn values(self, bytes: &[u8]) -> Vec<f64> {
        match self {
            Self::U8 => bytes.iter().map(|byte| f64::from(*byte)).collect(),
            Self::I32 => bytes.as_chunks().0.iter().map(|b| f64::from(i32::from_le_bytes(*b))).collect(),
            Self::I64 => bytes.as_chunks().0.iter().map(|b| i64::from_le_bytes(*b) as f64).collect(),
            Self::F32 => bytes.as_chunks().0.iter().map(|b| f64::from(f32::from_le_bytes(*b))).collect(),
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
pub(crate) struct Header {
    pub(crate) number: Number,
    pub(crate) shape: Vec<usize>,
    /// The length of the header itself.
    pub(crate) bytes: u64,
}

impl Header {
    /// Reads up to where the numbers begin.
    pub(crate) fn read(input: &mut (impl Read + ?Sized)) -> Result<Self, String> {
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
        Ok(Self { number, shape, bytes: (8 + if wide { 4 } else { 2 } + length) as u64 })
    }
}

fn describe(header: &str) -> Result<(Number, Vec<usize>), String> {
    let header: String = header.split_whitespace().collect();
    let field = |name: &str| -> Result<&str, String> {
        let start = header.find(name).ok_or_else(|| format!("its header does not say {name}"))?;
        Ok(header[start + name.len()..].trim_start_matches(':'))
    };
    let descr = field("'descr'")?.trim_start_matches('\'').split('\'').next().unwrap_or_default();
    let number = Number::parse(descr).ok_or_else(|| {
        format!("its numbers are {descr:?}; expected bytes (|u1), or little-endian <f4, <f8, <i4 or <i8")
    })?;
    if !field("'fortran_order'")?.starts_with("False") {
        return Err("its first index runs fastest; save it in C order".to_owned());
    }
    let dims = field("'shape'")?
        .strip_prefix('(')
        .and_then(|shape| shape.split_once(')'))
        .ok_or("its shape is no list")?
        .0;
    let dims = dims.split(',').filter(|dim| !dim.is_empty()).map(str::parse).collect::<Result<_, _>>();
    Ok((number, dims.map_err(|e| format!("its shape is not of whole numbers: {e}"))?))
}
