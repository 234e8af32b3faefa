//! Decodes one picture from the untrusted bytes of a file.

use std::fs;
use std::io::Cursor;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use image::metadata::Orientation;
use image::{ColorType, DynamicImage, ImageDecoder, ImageFormat, ImageReader, Limits};

use crate::prepare::profile;

/// The maximum size of a picture file in bytes, 128 MiB.
pub(crate) const MAX_FILE_BYTES: u64 = 1 << 27;
/// The maximum number of pixels, 8,192 × 8,192. It is checked before memory is allocated.
pub(crate) const MAX_PIXELS: u64 = 1 << 26;
/// A picture with more than `ALWAYS_ALLOWED_PIXELS` may have at most this many pixels per byte of
/// its file. Even a blank genuine picture stays below it: deflate compresses 1,032 to 1, and a byte
/// holds up to eight pixels.
const MAX_PIXELS_PER_BYTE: u64 = 8192;
const ALWAYS_ALLOWED_PIXELS: u64 = 1 << 22;
/// Pictures with more pixels than this are decoded one at a time.
const LARGE_PIXELS: u64 = 1 << 24;
static LARGE_LOCK: Mutex<()> = Mutex::new(());
/// The maximum memory in bytes that a decoder may allocate besides its result.
const MAX_WORKING_BYTES: u64 = 8 * MAX_PIXELS;

/// A decoded picture. Rows run from the top, channels are interleaved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Raster {
    pub(crate) width: usize,
    pub(crate) height: usize,
    /// 1 (grey), 3 (RGB) or 4 (RGB and alpha).
    pub(crate) channels: usize,
    pub(crate) pixels: Vec<u8>,
    /// The pixel format of the file, before conversion to 8 bits, such as `RGB, 16 bits`.
    pub(crate) form: &'static str,
    pub(crate) lost: Lost,
}

/// What of a picture file is not in its pixels.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Lost {
    /// It has a colour profile other than sRGB, which is not applied.
    pub(crate) colours: bool,
    /// It is an animation, of which only the first frame is used.
    pub(crate) frames: bool,
}

/// The width and height in the file's header, after EXIF rotation.
pub(crate) fn dimensions(bytes: &[u8]) -> Result<(usize, usize), String> {
    catch_panic(|| Ok(turned_dimensions(&mut decoder(bytes)?)))
}

/// The width and height after EXIF rotation.
fn turned_dimensions(decoder: &mut impl ImageDecoder) -> (usize, usize) {
    let (width, height) = decoder.dimensions();
    let swapped = swaps_sides(decoder.orientation().unwrap_or(Orientation::NoTransforms));
    if swapped { (height as usize, width as usize) } else { (width as usize, height as usize) }
}

/// Like [`dimensions`], for the file at `path`, of which it reads little more than the header.
pub(crate) fn header_dimensions(path: &Path) -> Result<(usize, usize), String> {
    if !path.is_file() {
        // Reading a pipe would block until something writes to it.
        return Err("not a regular file".to_owned());
    }
    catch_panic(|| {
        let reader = ImageReader::open(path).and_then(ImageReader::with_guessed_format);
        let decoder = reader.map_err(|e| e.to_string())?.into_decoder();
        Ok(turned_dimensions(&mut decoder.map_err(|e| explain(&e))?))
    })
}

/// Decodes a picture to 8 bits per channel and applies its EXIF rotation. Of an animation, the
/// first frame is used.
///
/// # Errors
/// If the bytes are not a usable picture, with the reason as text.
pub(crate) fn decode(bytes: &[u8]) -> Result<Raster, String> {
    catch_panic(|| {
        let mut decoder = decoder(bytes)?;
        let orientation = decoder.orientation().unwrap_or(Orientation::NoTransforms);
        // Decoding several large pictures at once would use several gigabytes.
        let (width, height) = decoder.dimensions();
        let _large_guard = (u64::from(width) * u64::from(height) > LARGE_PIXELS)
            .then(|| LARGE_LOCK.lock().unwrap_or_else(PoisonError::into_inner));
        let form = form(decoder.color_type());
        let profile = decoder.icc_profile().ok().flatten();
        let lost = Lost {
            colours: profile.is_some_and(|icc| profile::is_other_than_srgb(&icc)),
            frames: profile::is_animation(bytes),
        };
        let mut picture = DynamicImage::from_decoder(decoder).map_err(|e| explain(&e))?;
        picture.apply_orientation(orientation);
        let (width, height) = (picture.width() as usize, picture.height() as usize);
        let (channels, pixels) = match picture.color() {
            ColorType::L8 | ColorType::L16 => (1, picture.into_luma8().into_raw()),
            colour if colour.has_alpha() => (4, picture.into_rgba8().into_raw()),
            _ => (3, picture.into_rgb8().into_raw()),
        };
        Ok(Raster { width, height, channels, pixels, form, lost })
    })
}

fn decoder(bytes: &[u8]) -> Result<impl ImageDecoder + use<'_>, String> {
    if bytes.is_empty() {
        return Err("an empty file".to_owned());
    }
    let mut reader = ImageReader::new(Cursor::new(bytes));
    let format =
        image::guess_format(bytes).ok().filter(ImageFormat::reading_enabled).ok_or_else(|| {
            crate::source::other_format(bytes).map_or_else(
                || "not a picture: expected a PNG, JPEG, WebP, BMP, GIF or TIFF file".to_owned(),
                str::to_owned,
            )
        })?;
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
    if pixels > ALWAYS_ALLOWED_PIXELS + MAX_PIXELS_PER_BYTE * bytes.len() as u64 {
        return Err(format!(
            "its header states {width}×{height} pixels, too many for a file of {} bytes",
            bytes.len()
        ));
    }
    Ok(decoder)
}

/// Runs a decoder and treats a panic like an error: only this picture is damaged.
fn catch_panic<T>(decode: impl FnOnce() -> Result<T, String>) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(decode))
        .unwrap_or_else(|_| Err("a picture that cannot be decoded".to_owned()))
}

fn explain(error: &image::ImageError) -> String {
    let text = error.to_string();
    format!("a damaged picture: {}", text.lines().next().unwrap_or_default())
}

/// Whether the rotation swaps width and height.
fn swaps_sides(orientation: Orientation) -> bool {
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

/// Whether a JPEG file reaches its end marker. The decoder fills missing parts with grey, which
/// must not become training data.
fn jpeg_is_whole(bytes: &[u8]) -> bool {
    const END: u8 = 0xd9;
    const SCAN: u8 = 0xda;
    // After the start marker: segments with a length, which may contain other markers (for example
    // those of a thumbnail).
    let mut at = 2;
    loop {
        let marker = match bytes.get(at..) {
            Some([0xff, 0xff, ..]) => {
                at += 1;
                continue;
            }
            Some([0xff, marker, ..]) => *marker,
            _ => return false,
        };
        if marker == END {
            return true;
        }
        let Some([high, low]) = bytes.get(at + 2..at + 4) else { return false };
        at += 2 + usize::from(u16::from_be_bytes([*high, *low]));
        if marker == SCAN {
            // In coded pixels a marker is anything but an escaped 0xff or a restart marker.
            let Some(pixels) = bytes.get(at..) else { return false };
            let next = pixels
                .windows(2)
                .position(|w| w[0] == 0xff && !matches!(w[1], 0 | 0xd0..=0xd7 | 0xff));
            let Some(next) = next else { return false };
            at += next;
        }
    }
}

/// Reads the file at `path`, which must be a regular file of at most [`MAX_FILE_BYTES`].
pub(crate) fn read_file(path: &Path) -> Result<Vec<u8>, String> {
    let metadata = fs::metadata(path).map_err(|e| e.to_string())?;
    if !metadata.is_file() {
        // Reading a pipe would block until something writes to it.
        return Err("not a regular file".to_owned());
    }
    if metadata.len() > MAX_FILE_BYTES {
        return Err(format!(
            "{} bytes, more than the {MAX_FILE_BYTES} that a picture file may have",
            metadata.len()
        ));
    }
    fs::read(path).map_err(|e| e.to_string())
}

/// Like [`dimensions`], for the file at `path`.
pub(crate) fn dimensions_of_file(path: &Path) -> Result<(usize, usize), String> {
    dimensions(&read_file(path)?)
}
