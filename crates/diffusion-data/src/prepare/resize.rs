//! Scales pictures to the size of training images and converts their channels.

use fast_image_resize::images::{TypedImage, TypedImageRef};
use fast_image_resize::pixels::{U8, U8x3};
use fast_image_resize::{FilterType, PixelTrait, ResizeAlg, ResizeOptions, Resizer};

use crate::config::{Background, Fit};
use crate::prepare::decode::Raster;

/// The maximum factor by which a picture is enlarged. Smaller pictures show too little detail.
const MAX_ENLARGEMENT: usize = 8;

/// The size to which all pictures of a set are scaled, and how.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Target {
    pub(crate) width: usize,
    pub(crate) height: usize,
    pub(crate) fit: Fit,
    pub(crate) background: Background,
}

/// The colour planes of a picture: one if it is grey, three if it has colour.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Planes {
    pub(crate) pixels: Vec<u8>,
    pub(crate) coloured: bool,
}

impl Target {
    /// Lays the picture over the background and then resamples it with an antialiasing filter
    /// (Catmull-Rom, the bicubic filter of Pillow).
    ///
    /// # Errors
    /// If the picture is too small or cannot be resized, with the reason as text.
    pub(crate) fn apply(&self, picture: Raster) -> Result<Planes, String> {
        let (width, height) = (picture.width, picture.height);
        if width.min(height) * MAX_ENLARGEMENT < self.width.min(self.height) {
            return Err(format!(
                "the picture has {width}×{height} pixels, too few for {}×{}",
                self.width, self.height
            ));
        }
        let picture = self.scaled(self.opaque(picture))?;
        let (pixels, area) = (picture.pixels, self.width * self.height);
        let coloured = picture.channels == 3
            && pixels.chunks_exact(3).any(|rgb| rgb[0] != rgb[1] || rgb[1] != rgb[2]);
        let pixels = match (picture.channels, coloured) {
            (1, _) => pixels,
            (_, false) => pixels.into_iter().step_by(3).collect(),
            (_, true) => {
                (0..3).flat_map(|c| (0..area).map(move |i| 3 * i + c)).map(|i| pixels[i]).collect()
            }
        };
        Ok(Planes { pixels, coloured })
    }

    /// Lays a picture with alpha over the background. A grey picture stays grey if the background
    /// is grey.
    fn opaque(&self, picture: Raster) -> Raster {
        if picture.channels != 4 {
            return picture;
        }
        let mix = |value: u8, background: u8, opacity: u8| {
            let opacity = u32::from(opacity);
            ((u32::from(value) * opacity + u32::from(background) * (255 - opacity) + 127) / 255)
                as u8
        };
        let rgba = picture.pixels.as_chunks::<4>().0;
        let over = |[r, g, b, a]: [u8; 4]| {
            let background = self.background.0;
            [mix(r, background[0], a), mix(g, background[1], a), mix(b, background[2], a)]
        };
        Raster {
            pixels: rgba.iter().flat_map(|pixel| over(*pixel)).collect(),
            channels: 3,
            ..picture
        }
    }

    fn scaled(&self, picture: Raster) -> Result<Raster, String> {
        let (from, to) = ((picture.width, picture.height), (self.width, self.height));
        if from == to {
            return Ok(picture);
        }
        if self.fit != Fit::Pad {
            let options = ResizeOptions::new();
            let options =
                if self.fit == Fit::Crop { options.fit_into_destination(None) } else { options };
            return resample(&picture, to, options);
        }
        // As large as fits inside the target.
        let scale = (to.0 as f64 / from.0 as f64).min(to.1 as f64 / from.1 as f64);
        let side =
            |length: usize, max: usize| ((length as f64 * scale).round() as usize).clamp(1, max);
        let inside = (side(from.0, to.0), side(from.1, to.1));
        let small = resample(&picture, inside, ResizeOptions::new())?;
        let background = self.background.0;
        let grey =
            small.channels == 1 && background[0] == background[1] && background[1] == background[2];
        let channels = if grey { 1 } else { 3 };
        let mut pixels: Vec<u8> = background[..channels].repeat(to.0 * to.1);
        let (top, left) = ((to.1 - inside.1) / 2, (to.0 - inside.0) / 2);
        for y in 0..inside.1 {
            for x in 0..inside.0 {
                let source = (y * inside.0 + x) * small.channels;
                let place = ((top + y) * to.0 + left + x) * channels;
                for c in 0..channels {
                    pixels[place + c] = small.pixels[source + c.min(small.channels - 1)];
                }
            }
        }
        Ok(Raster {
            width: to.0,
            height: to.1,
            channels,
            pixels,
            form: picture.form,
            lost: picture.lost,
        })
    }
}

fn resample(
    picture: &Raster,
    size: (usize, usize),
    options: ResizeOptions,
) -> Result<Raster, String> {
    // Calls `resize_typed` per pixel type; `Resizer::resize` would link the code for all of them.
    let pixels = if picture.channels == 1 {
        resample_pixels::<U8>(picture, size, options)
    } else {
        resample_pixels::<U8x3>(picture, size, options)
    };
    let pixels = pixels.map_err(|problem| format!("it cannot be resized: {problem}"))?;
    Ok(Raster {
        width: size.0,
        height: size.1,
        pixels,
        channels: picture.channels,
        form: picture.form,
        lost: picture.lost,
    })
}

fn resample_pixels<P: PixelTrait>(
    picture: &Raster,
    (width, height): (usize, usize),
    options: ResizeOptions,
) -> Result<Vec<u8>, String> {
    let mut pixels = vec![0; width * height * picture.channels];
    let source = TypedImageRef::<P>::from_buffer(
        picture.width as u32,
        picture.height as u32,
        &picture.pixels,
    )
    .map_err(|e| e.to_string())?;
    let mut target = TypedImage::<P>::from_buffer(width as u32, height as u32, &mut pixels)
        .map_err(|e| e.to_string())?;
    let options = options.resize_alg(ResizeAlg::Convolution(FilterType::CatmullRom));
    Resizer::new().resize_typed(&source, &mut target, &options).map_err(|e| e.to_string())?;
    Ok(pixels)
}

/// Converts RGB planes to grey: the luma of Rec. 601, in Pillow's integer arithmetic.
pub(crate) fn luma(planes: &[u8]) -> Vec<u8> {
    let area = planes.len() / 3;
    let weighted = |i: usize| {
        let [r, g, b] = [planes[i], planes[area + i], planes[2 * area + i]].map(u32::from);
        ((19_595 * r + 38_470 * g + 7_471 * b + 0x8000) >> 16) as u8
    };
    (0..area).map(weighted).collect()
}
