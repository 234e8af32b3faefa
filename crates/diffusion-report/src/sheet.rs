//! Sheets of pictures in labelled rows and columns.

use diffusion_picture::Picture;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use crate::ReportError;
use crate::chart::{FONT, with_font};

/// Pixels between cells and around the sheet.
const GAP: usize = 8;
/// The height of a line of text, in pixels.
const LINE: usize = 20;
/// The font size, in pixels.
const SIZE: i32 = 15;

/// A picture of a sheet and its caption.
#[derive(Clone, Debug)]
pub struct Cell {
    /// The picture. All pictures of a sheet have the same size.
    pub picture: Picture,
    /// The text below the picture. Default: `None`. A sheet without any caption leaves no space for
    /// captions.
    pub caption: Option<String>,
}

impl From<Picture> for Cell {
    fn from(picture: Picture) -> Self {
        Self { picture, caption: None }
    }
}

/// Lays out the pictures of `cells[row][column]` on white, in RGB, with the labels `rows` on the
/// left and `columns` above.
///
/// # Errors
/// If there are no cells. If the number of labels is not that of the rows or columns. If pictures
/// differ in size.
pub fn sheet(
    cells: &[Vec<Cell>],
    rows: &[String],
    columns: &[String],
) -> Result<Picture, ReportError> {
    let invalid =
        |problem: &str| Err(ReportError::Invalid(format!("a sheet of pictures {problem}")));
    let Some(first) = cells.first().and_then(|row| row.first()) else {
        return invalid("needs at least one picture");
    };
    if cells.len() != rows.len() || cells.iter().any(|row| row.len() != columns.len()) {
        return invalid("needs one label for each row and each column");
    }
    let (width, height) = (first.picture.width, first.picture.height);
    if cells
        .iter()
        .flatten()
        .any(|cell| (cell.picture.width, cell.picture.height) != (width, height))
    {
        return invalid("needs pictures of the same size");
    }
    with_font();
    let font = (FONT, SIZE).into_font();
    let text_width = |text: &str| font.box_size(text).map_or(0, |(width, _)| width as usize);
    let widest = |names: &mut dyn Iterator<Item = &str>| names.map(text_width).max().unwrap_or(0);
    let captions = || cells.iter().flatten().filter_map(|cell| cell.caption.as_deref());
    let left = GAP + widest(&mut rows.iter().map(String::as_str)) + GAP;
    // A column is as wide as the widest of picture, label and caption.
    let cell =
        width.max(widest(&mut columns.iter().map(String::as_str))).max(widest(&mut captions()));
    let top = GAP + if columns.iter().all(String::is_empty) { 0 } else { LINE };
    let below = if captions().next().is_some() { LINE } else { 0 };
    let size = (left + columns.len() * (cell + GAP), top + rows.len() * (height + below + GAP));
    let mut pixels = vec![255; size.0 * size.1 * 3];
    for (r, row) in cells.iter().enumerate() {
        for (c, one) in row.iter().enumerate() {
            let place =
                (left + c * (cell + GAP) + (cell - width) / 2, top + r * (height + below + GAP));
            put(&one.picture, place, &mut pixels, size.0);
        }
    }
    {
        let area = BitMapBackend::with_buffer(&mut pixels, (size.0 as u32, size.1 as u32))
            .into_drawing_area();
        let write = |text: &str, h: HPos, v: VPos, (x, y): (usize, usize)| {
            let style = TextStyle::from(font.clone()).pos(Pos::new(h, v));
            area.draw(&Text::new(text.to_owned(), (x as i32, y as i32), style))
                .map_err(|e| ReportError::Drawing(e.to_string()))
        };
        let middle = |c: usize| left + c * (cell + GAP) + cell / 2;
        for (c, name) in columns.iter().enumerate() {
            write(name, HPos::Center, VPos::Center, (middle(c), GAP + LINE / 2 - 3))?;
        }
        for (r, (row, name)) in cells.iter().zip(rows).enumerate() {
            let y = top + r * (height + below + GAP);
            write(name, HPos::Right, VPos::Center, (left - GAP, y + height / 2))?;
            for (c, one) in row.iter().enumerate() {
                if let Some(caption) = &one.caption {
                    write(caption, HPos::Center, VPos::Center, (middle(c), y + height + LINE / 2))?;
                }
            }
        }
        area.present().map_err(|e| ReportError::Drawing(e.to_string()))?;
    }
    Ok(Picture { width: size.0, height: size.1, channels: 3, pixels })
}

/// Copies `picture` into the RGB `pixels`, whose rows are `width` pixels long.
fn put(picture: &Picture, (left, top): (usize, usize), pixels: &mut [u8], width: usize) {
    for (y, row) in picture.pixels.chunks_exact(picture.width * picture.channels).enumerate() {
        for (x, pixel) in row.chunks_exact(picture.channels).enumerate() {
            let start = ((top + y) * width + left + x) * 3;
            let rgb = if let &[r, g, b] = pixel { [r, g, b] } else { [pixel[0]; 3] };
            pixels[start..start + 3].copy_from_slice(&rgb);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dot(value: u8) -> Cell {
        Picture { width: 40, height: 30, channels: 1, pixels: vec![value; 1200] }.into()
    }

    fn names(names: &[&str]) -> Vec<String> {
        names.iter().map(|&name| name.to_owned()).collect()
    }

    #[test]
    fn pictures_are_in_their_rows_and_columns_with_labels() {
        let cells = [vec![dot(10), dot(20)], vec![dot(30), dot(40)]];
        let sheet = sheet(&cells, &names(&["a", "bc"]), &names(&["5", "10"])).unwrap();
        let at = |x: usize, y: usize| sheet.pixels[(y * sheet.width + x) * 3];
        let left = sheet.width - 2 * 48;
        for (row, column, value) in [(0, 0, 10), (0, 1, 20), (1, 0, 30), (1, 1, 40)] {
            assert_eq!(at(left + column * 48 + 20, GAP + LINE + row * 38 + 15), value);
        }
        assert!(
            (0..sheet.height).any(|y| (0..left - GAP).any(|x| at(x, y) < 100)),
            "rows have labels"
        );
        assert!((0..sheet.width).any(|x| at(x, GAP + 8) < 100), "columns have labels");
    }

    #[test]
    fn wrong_labels_and_sizes_are_errors() {
        assert!(sheet(&[], &[], &[]).is_err());
        assert!(sheet(&[vec![dot(1)]], &[], &names(&["a"])).is_err());
        let small = Picture { width: 1, height: 1, channels: 1, pixels: vec![0] };
        assert!(sheet(&[vec![dot(1), small.into()]], &names(&["a"]), &names(&["b", "c"])).is_err());
    }
}
