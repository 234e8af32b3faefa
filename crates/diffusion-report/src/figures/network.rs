//! A picture of a network as a row of boxes.

use std::path::Path;

use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use crate::ReportError;
use crate::chart::{Canvas, FONT, with_font, write_canvas};

/// One part of a network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetworkBox {
    /// The name of the part.
    pub name: String,
    /// The shape (C, H, W) of the output.
    pub output: [usize; 3],
    /// The number of trainable parameters.
    pub parameters: usize,
}

// Sizes in pixels.
const BOX: i32 = 92;
const GAP: i32 = 22;
const MARGIN: i32 = 30;
const MAX_HEIGHT: i32 = 220;
const ROW: i32 = MAX_HEIGHT + 130;

/// Networks, one row of boxes each, with names, sizes and numbers of parameters.
///
/// The height of a box shows the height of the output, its darkness the number of channels; both
/// scales are logarithmic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetworkPicture {
    /// The title of each row, and its boxes in the order of computation.
    pub rows: Vec<(String, Vec<NetworkBox>)>,
}

impl NetworkPicture {
    /// Writes the picture to `path`: a PNG or an SVG, by its extension.
    ///
    /// # Errors
    /// If the extension is neither `.png` nor `.svg`. If there are no rows, or a row without boxes.
    /// An I/O error of the operating system.
    pub fn write(&self, path: &Path) -> Result<(), ReportError> {
        write_canvas(self, path)
    }
}

/// A count in short form: 520,193 is "520.2 K".
fn short(count: usize) -> String {
    match count {
        0..1_000 => count.to_string(),
        1_000..1_000_000 => format!("{:.1} K", count as f64 / 1e3),
        _ => format!("{:.1} M", count as f64 / 1e6),
    }
}

/// The text below the rows.
const LEGEND: &str = "Below each part: channels × height × width of its output, and its \
                      parameters. Heights and shades are logarithmic.";

impl Canvas for NetworkPicture {
    fn size(&self) -> (u32, u32) {
        let longest = self.rows.iter().map(|(_, boxes)| boxes.len()).max().unwrap_or(0);
        let width = 2 * MARGIN + longest as i32 * (BOX + GAP) - GAP;
        (width.max(860) as u32, (self.rows.len() as i32 * ROW + 40) as u32)
    }

    fn draw<B: DrawingBackend>(&self, area: &DrawingArea<B, Shift>) -> Result<(), ReportError> {
        let failed = |e: DrawingAreaErrorKind<B::ErrorType>| ReportError::Drawing(e.to_string());
        let parts = || self.rows.iter().flat_map(|(_, boxes)| boxes);
        let largest = |of: fn(&NetworkBox) -> usize| parts().map(of).max().unwrap_or(0);
        let (highest, widest) = (largest(|b| b.output[1]), largest(|b| b.output[0]));
        if self.rows.is_empty() || self.rows.iter().any(|(_, boxes)| boxes.is_empty()) {
            return Err(ReportError::Invalid(
                "a network picture needs at least one row, and each row at least one box"
                    .to_owned(),
            ));
        }
        with_font();
        area.fill(&WHITE).map_err(failed)?;
        let write = |text: String, size: i32, (x, y): (i32, i32), h: HPos| {
            let style = TextStyle::from((FONT, size).into_font()).pos(Pos::new(h, VPos::Center));
            area.draw(&Text::new(text, (x, y), style)).map_err(failed)
        };
        let share = |value: usize, of: usize| ((value + 1) as f64).ln() / ((of + 1) as f64).ln();
        for (row, (title, boxes)) in self.rows.iter().enumerate() {
            let top = row as i32 * ROW;
            write(title.clone(), 18, (MARGIN, top + 22), HPos::Left)?;
            let middle = top + 44 + MAX_HEIGHT / 2;
            for (i, part) in boxes.iter().enumerate() {
                let left = MARGIN + i as i32 * (BOX + GAP);
                let [channels, height, width] = part.output;
                let half = (f64::from(MAX_HEIGHT) / 2.0 * share(height, highest)).max(6.0) as i32;
                let lightness = (225.0 - 150.0 * share(channels, widest)) as u8;
                let corners = [(left, middle - half), (left + BOX, middle + half)];
                let fill =
                    RGBColor(lightness.saturating_sub(40), lightness.saturating_sub(12), lightness);
                area.draw(&Rectangle::new(corners, fill.filled())).map_err(failed)?;
                area.draw(&Rectangle::new(corners, BLACK.stroke_width(1))).map_err(failed)?;
                if i > 0 {
                    let line = vec![(left - GAP, middle), (left, middle)];
                    area.draw(&PathElement::new(line, BLACK.stroke_width(1))).map_err(failed)?;
                }
                let (centre, below) = (left + BOX / 2, middle + MAX_HEIGHT / 2 + 16);
                let is_map = height * width > 1;
                let size = if is_map {
                    format!("{channels} × {height} × {width}")
                } else {
                    channels.to_string()
                };
                write(part.name.clone(), 13, (centre, below), HPos::Center)?;
                write(size, 12, (centre, below + 20), HPos::Center)?;
                write(short(part.parameters), 12, (centre, below + 40), HPos::Center)?;
            }
        }
        write(LEGEND.to_owned(), 13, (MARGIN, self.rows.len() as i32 * ROW + 16), HPos::Left)
    }
}
