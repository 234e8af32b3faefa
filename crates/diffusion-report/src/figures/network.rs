//! A network as a row of boxes.

use std::path::Path;

use diffusion_data::picture::Picture;
use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use crate::ReportError;
use crate::chart::{Canvas, FONT, draw_on, with_font};

/// One part of a network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetworkBox {
    /// What it is called.
    pub name: String,
    /// [C, H, W] of what it gives.
    pub output: [usize; 3],
    /// Trainable numbers.
    pub parameters: usize,
}

/// Pixels.
const BOX: i32 = 92;
const GAP: i32 = 22;
const MARGIN: i32 = 30;
const TALLEST: f64 = 240.0;

/// Boxes from left to right, as high as the images are and as dark as they have channels, both by their logarithms; with names,
/// sizes and parameters.
struct Drawing<'a> {
    title: &'a str,
    boxes: &'a [NetworkBox],
}

/// The network in RGB.
///
/// # Errors
/// No boxes.
pub fn network_picture(title: &str, boxes: &[NetworkBox]) -> Result<Picture, ReportError> {
    draw_on(&Drawing { title, boxes })
}

/// Writes the picture of a network into the file at `path`: a PNG or an SVG, by its ending.
///
/// # Errors
/// Another ending; no boxes; what the system refuses.
pub fn write_network(title: &str, boxes: &[NetworkBox], path: &Path) -> Result<(), ReportError> {
    crate::chart::write_canvas(&Drawing { title, boxes }, path)
}

/// A count for people: 520,193 is 520 K.
fn short(count: usize) -> String {
    match count {
        0..1_000 => count.to_string(),
        1_000..1_000_000 => format!("{:.1} K", count as f64 / 1e3),
        _ => format!("{:.1} M", count as f64 / 1e6),
    }
}

impl Canvas for Drawing<'_> {
    fn size(&self) -> (u32, u32) {
        let width = 2 * MARGIN + self.boxes.len() as i32 * (BOX + GAP) - GAP;
        (width.max(400) as u32, TALLEST as u32 + 150)
    }

    fn draw<B: DrawingBackend>(&self, area: &DrawingArea<B, Shift>) -> Result<(), ReportError> {
        let failed = |e: DrawingAreaErrorKind<B::ErrorType>| ReportError::Drawing(e.to_string());
        let largest = |of: fn(&NetworkBox) -> usize| self.boxes.iter().map(of).max().unwrap_or(0);
        let (highest, widest) = (largest(|b| b.output[1]), largest(|b| b.output[0]));
        if self.boxes.is_empty() {
            return Err(ReportError::Invalid("a network without parts cannot be drawn".to_owned()));
        }
        with_font();
        area.fill(&WHITE).map_err(failed)?;
        let write = |text: String, size: i32, (x, y): (i32, i32)| {
            let style = TextStyle::from((FONT, size).into_font()).pos(Pos::new(HPos::Center, VPos::Top));
            area.draw(&Text::new(text, (x, y), style)).map_err(failed)
        };
        let title = TextStyle::from((FONT, 18).into_font());
        area.draw(&Text::new(self.title.to_owned(), (MARGIN, 10), title)).map_err(failed)?;
        let share = |value: usize, of: usize| ((value + 1) as f64).ln() / ((of + 1) as f64).ln();
        let middle = 50 + TALLEST as i32 / 2;
        for (i, part) in self.boxes.iter().enumerate() {
            let left = MARGIN + i as i32 * (BOX + GAP);
            let [channels, height, width] = part.output;
            let half = (TALLEST / 2.0 * share(height, highest)).max(6.0) as i32;
            let lightness = (225.0 - 150.0 * share(channels, widest)) as u8;
            let corners = [(left, middle - half), (left + BOX, middle + half)];
            let fill = RGBColor(lightness.saturating_sub(40), lightness.saturating_sub(12), lightness);
            area.draw(&Rectangle::new(corners, fill.filled())).map_err(failed)?;
            area.draw(&Rectangle::new(corners, BLACK.stroke_width(1))).map_err(failed)?;
            if i > 0 {
                let line = vec![(left - GAP, middle), (left, middle)];
                area.draw(&PathElement::new(line, BLACK.stroke_width(1))).map_err(failed)?;
            }
            let (centre, below) = (left + BOX / 2, 50 + TALLEST as i32 + 12);
            write(part.name.clone(), 13, (centre, below))?;
            let size = if height * width > 1 {
                format!("{channels} × {height} × {width}")
            } else {
                channels.to_string()
            };
            write(size, 12, (centre, below + 22))?;
            write(short(part.parameters), 12, (centre, below + 42))?;
        }
        Ok(())
    }
}
