//! PNG files.

use std::path::Path;

use diffusion_files::FileError;

use crate::{Picture, PictureError, SHEET_MARK, write_bytes};

impl Picture {
    /// Reads a PNG file of 8 bits per channel, grey or RGB, as [`write_png`](Self::write_png)
    /// writes it.
    ///
    /// # Errors
    /// An I/O error, if the file cannot be opened. If it is not a PNG, is damaged, or has another
    /// colour type or bit depth.
    pub fn read_png(path: &Path) -> Result<Self, PictureError> {
        let invalid = |problem: String| FileError::unusable(path, problem);
        let file = std::fs::File::open(path).map_err(FileError::io(path))?;
        let mut reader = png::Decoder::new(std::io::BufReader::new(file))
            .read_info()
            .map_err(|e| invalid(format!("not a PNG: {e}")))?;
        let (width, height) = (reader.info().width as usize, reader.info().height as usize);
        let channels = match reader.output_color_type() {
            (png::ColorType::Grayscale, png::BitDepth::Eight) => 1,
            (png::ColorType::Rgb, png::BitDepth::Eight) => 3,
            (colour, depth) => {
                return Err(invalid(format!(
                    "expected a PNG of 8 bits, grey or RGB, got {colour:?} and {depth:?} bits"
                ))
                .into());
            }
        };
        let Some(size) = reader.output_buffer_size() else {
            return Err(invalid("the PNG is too large".to_owned()).into());
        };
        let mut pixels = vec![0; size];
        reader.next_frame(&mut pixels).map_err(|e| invalid(e.to_string()))?;
        Ok(Self { width, height, channels, pixels })
    }

    /// Writes a PNG file. It appears under its name only when it is complete.
    ///
    /// # Errors
    /// If the picture cannot be encoded. An I/O error, if the file cannot be written.
    pub fn write_png(&self, path: &Path) -> Result<(), PictureError> {
        self.encode_png(path, false)
    }

    /// Writes a PNG file that shows several images: a grid, a strip or a contact sheet. It contains
    /// a mark by which [`is_sheet`](crate::is_sheet) recognises it, so that it is not taken for one
    /// picture of a data set.
    ///
    /// # Errors
    /// If the picture cannot be encoded. An I/O error, if the file cannot be written.
    pub fn write_sheet(&self, path: &Path) -> Result<(), PictureError> {
        self.encode_png(path, true)
    }

    fn encode_png(&self, path: &Path, is_sheet: bool) -> Result<(), PictureError> {
        let mut bytes = Vec::new();
        let mut encoder = png::Encoder::new(&mut bytes, self.width as u32, self.height as u32);
        encoder.set_color(if self.channels == 1 {
            png::ColorType::Grayscale
        } else {
            png::ColorType::Rgb
        });
        encoder.set_depth(png::BitDepth::Eight);
        encoder.set_compression(png::Compression::Balanced);
        encoder.set_filter(png::Filter::Adaptive);
        let mark = if is_sheet {
            encoder.add_text_chunk("Comment".to_owned(), SHEET_MARK.to_owned())
        } else {
            Ok(())
        };
        mark.and_then(|()| encoder.write_header())
            .and_then(|mut writer| writer.write_image_data(&self.pixels))
            .map_err(|e| FileError::io(path)(e.into()))?;
        Ok(write_bytes(path, &bytes)?)
    }
}
