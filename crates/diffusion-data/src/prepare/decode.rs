//! One picture from the bytes of a file, whatever they are.

use std::fs;
use std::io::Cursor;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use image::metadata::Orientation;
use image::{ColorType, DynamicImage, ImageDecoder, ImageFormat, ImageReader, Limits};

/// A picture's file may have this many bytes.
pub(crate) const MAX_FILE_BYTES: u64 = 1 << 27;
/// More pixels than this are refused before memory is taken for them: 8,192 × 8,192.
pub(crate) const MAX_PIXELS: u64 = 1 << 26;
/// A picture beyond this size must have a byte for so many of its pixels, which even an empty one has in any format but for
/// forgeries: deflate packs 1,032 to one, and a byte holds up to eight pixels.
const PIXELS_PER_BYTE: u64 = 8192;
const UNSUSPICIOUS_PIXELS: u64 = 1 << 22;
/// Larger pictures are decoded one at a time.
const LARGE_PIXELS: u64 = 1 << 24;
static LARGE: Mutex<()> = Mutex::new(());
/// A decoder may take this many bytes beside its result.
const MAX_WORKING_BYTES: u64 = 8 * MAX_PIXELS;

/// A picture with interleaved channels, rows from the top.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Raster {
    pub(crate) width: usize,
    pub(crate) height: usize,
    /// 1 (grey), 3 (RGB) or 4 (RGB and opacity).
    pub(crate) channels: usize,
    pub(crate) pixels: Vec<u8>,
    /// What the file held before it was brought to 8 bits, such as `RGB, 16 bits`.
    pub(crate) form: &'static str,
}

/// The width and height that a file's header names, turned as the picture will be.
pub(crate) fn dimensions(bytes: &[u8]) -> Result<(usize, usize), String> {
    guarded(|| {
        let mut decoder = decoder(bytes)?;
        let (width, height) = decoder.dimensions();
        let turned = turns(decoder.orientation().unwrap_or(Orientation::NoTransforms));
        Ok(if turned {
            (height as usize, width as usize)
        } else {
            (width as usize, height as usize)
        })
    })
}

/// Decodes a picture: turned as its EXIF data say, its first frame if it has several, 8 bits a channel.
///
/// # Errors
/// In words: why these bytes are no picture that can be used.
pub(crate) fn decode(bytes: &[u8]) -> Result<Raster, String> {
    guarded(|| {
        let mut decoder = decoder(bytes)?;
        let orientation = decoder.orientation().unwrap_or(Orientation::NoTransforms);
        // Several large ones at once would take as many gigabytes.
        let (width, height) = decoder.dimensions();
        let _turn = (u64::from(width) * u64::from(height) > LARGE_PIXELS)
            .then(|| LARGE.lock().unwrap_or_else(PoisonError::into_inner));
        let form = form(decoder.color_type());
        let mut picture = DynamicImage::from_decoder(decoder).map_err(|e| explain(&e))?;
        picture.apply_orientation(orientation);
        let (width, height) = (picture.width() as usize, picture.height() as usize);
        let (channels, pixels) = match picture.color() {
            ColorType::L8 | ColorType::L16 => (1, picture.into_luma8().into_raw()),
            colour if colour.has_alpha() => (4, picture.into_rgba8().into_raw()),
            _ => (3, picture.into_rgb8().into_raw()),
        };
        Ok(Raster { width, height, channels, pixels, form })
    })
}

fn decoder(bytes: &[u8]) -> Result<impl ImageDecoder + use<'_>, String> {
    if bytes.is_empty() {
        return Err("an empty file".to_owned());
    }
    let mut reader = ImageReader::new(Cursor::new(bytes));
    let format = image::guess_format(bytes)
        .ok()
        .filter(ImageFormat::reading_enabled)
        .ok_or("no picture: not the beginning of a PNG, JPEG, WebP, BMP or GIF file")?;
    if format == ImageFormat::Jpeg && !jpeg_is_whole(bytes) {
        return Err("a JPEG file that is cut short".to_owned());
    }
    reader.set_format(format);
    let mut limits = Limits::no_limits();
    limits.max_alloc = Some(MAX_WORKING_BYTES);
    reader.limits(limits);
    let decoder = reader.into_decoder().map_err(|e| explain(&e))?;
    let (width, height) = decoder.dimensions();
    if width == 0 || height == 0 {
        return Err("a picture without pixels".to_owned());
    }
    let pixels = u64::from(width) * u64::from(height);
    if pixels > MAX_PIXELS {
        return Err(format!(
            "{width}×{height} pixels, more than the {MAX_PIXELS} that a picture may have"
        ));
    }
    if pixels > UNSUSPICIOUS_PIXELS + PIXELS_PER_BYTE * bytes.len() as u64 {
        return Err(format!("{width}×{height} pixels in {} bytes, which cannot be", bytes.len()));
    }
    Ok(decoder)
}

/// Decoders answer bad bytes with errors; should one panic all the same, the picture is bad and nothing else is.
fn guarded<T>(decode: impl FnOnce() -> Result<T, String>) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(decode))
        .unwrap_or_else(|_| Err("a picture that cannot be decoded".to_owned()))
}

fn explain(error: &image::ImageError) -> String {
    let text = error.to_string();
    format!("a damaged picture: {}", text.lines().next().unwrap_or_default())
}

fn turns(orientation: Orientation) -> bool {
    use Orientation::{Rotate90, Rotate90FlipH, Rotate270, Rotate270FlipH};
    matches!(orientation, Rotate90 | Rotate270 | Rotate90FlipH | Rotate270FlipH)
}

fn form(colour: ColorType) -> &'static str {
    match colour {
        ColorType::L8 => "grey",
        ColorType::La8 => "grey with opacity",
        ColorType::Rgb8 => "RGB",
        ColorType::Rgba8 => "RGB with opacity",
        ColorType::L16 => "grey, 16 bits",
        ColorType::La16 => "grey with opacity, 16 bits",
        ColorType::Rgb16 => "RGB, 16 bits",
        ColorType::Rgba16 => "RGB with opacity, 16 bits",
        _ => "other",
    }
}

/// Whether a JPEG file reaches its end mark. The decoder fills up what is missing with grey, which nobody wants to learn
/// from.
fn jpeg_is_whole(bytes: &[u8]) -> bool {
    const END: u8 = 0xd9;
    const SCAN: u8 = 0xda;
    // Behind the mark of the beginning: marks with a length, in which others may be nested (a thumbnail's, say).
    let mut at = 2;
    loop {
        let mark = match bytes.get(at..) {
            Some([0xff, 0xff, ..]) => {
                at += 1;
                continue;
            }
            Some([0xff, mark, ..]) => *mark,
            _ => return false,
        };
        if mark == END {
            return true;
        }
        let Some([high, low]) = bytes.get(at + 2..at + 4) else { return false };
        at += 2 + usize::from(u16::from_be_bytes([*high, *low]));
        if mark == SCAN {
            // Coded pixels: a mark is anything but an escaped 0xff or a restart.
            let Some(pixels) = bytes.get(at..) else { return false };
            let next = pixels
                .windows(2)
                .position(|w| w[0] == 0xff && !matches!(w[1], 0 | 0xd0..=0xd7 | 0xff));
            let Some(next) = next else { return false };
            at += next;
        }
    }
}

/// The bytes of the file at `path`, which must be a regular one of a reasonable length.
pub(crate) fn read_file(path: &Path) -> Result<Vec<u8>, String> {
    let metadata = fs::metadata(path).map_err(|e| e.to_string())?;
    if !metadata.is_file() {
        // Reading a pipe would wait for its writer.
        return Err("not a regular file".to_owned());
    }
    if metadata.len() > MAX_FILE_BYTES {
        return Err(format!(
            "{} bytes, more than the {MAX_FILE_BYTES} that a picture's file may have",
            metadata.len()
        ));
    }
    fs::read(path).map_err(|e| e.to_string())
}

/// As [`dimensions`], of a file.
pub(crate) fn dimensions_of_file(path: &Path) -> Result<(usize, usize), String> {
    dimensions(&read_file(path)?)
}
