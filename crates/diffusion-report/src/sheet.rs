//! Pictures in rows and columns with names.

use diffusion_picture::Picture;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use crate::ReportError;
use crate::chart::{FONT, with_font};

/// Pixels between cells, and around everything.
const GAP: usize = 8;
/// Pixels of a line of text.
const LINE: usize = 20;
const SIZE: i32 = 15;

/// A picture and what is written below it.
#[derive(Clone, Debug)]
pub struct Cell {
    /// All pictures of a sheet have one size.
    pub picture: Picture,
    /// None: nothing is written, and no room is left where no cell of the row has a caption.
    pub caption: Option<String>,
}

impl From<Picture> for Cell {
    fn from(picture: Picture) -> Self {
        Self { picture, caption: None }
    }
}

/// `cells[row][column]` with the names of rows on the left and of columns above, in RGB on white.
///
/// # Errors
/// No cells; rows or columns without a name, or names without them; pictures of different sizes.
pub fn sheet(
    cells: &[Vec<Cell>],
    rows: &[String],
    columns: &[String],
) -> Result<Picture, ReportError> {
    let invalid =
        |problem: &str| Err(ReportError::Invalid(format!("a sheet of pictures {problem}")));
    let Some(first) = cells.first().and_then(|row| row.first()) else {
        return invalid("wants pictures");
    };
    if cells.len() != rows.len() || cells.iter().any(|row| row.len() != columns.len()) {
        return invalid("wants a name for each row and column");
    }
    let (width, height) = (first.picture.width, first.picture.height);
    if cells
        .iter()
        .flatten()
        .any(|cell| (cell.picture.width, cell.picture.height) != (width, height))
    {
        return invalid("wants pictures of one size");
    }
    with_font();
    let font = (FONT, SIZE).into_font();
    let text_width = |text: &str| font.box_size(text).map_or(0, |(width, _)| width as usize);
    let widest = |names: &mut dyn Iterator<Item = &str>| names.map(text_width).max().unwrap_or(0);
    let captions = || cells.iter().flatten().filter_map(|cell| cell.caption.as_deref());
    let left = GAP + widest(&mut rows.iter().map(String::as_str)) + GAP;
    // A column is as wide as what is written above and below its pictures.
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

/// Lays `picture` on RGB `pixels`.
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
    fn pictures_lie_in_their_rows_and_columns_beside_ink() {
        let cells = [vec![dot(10), dot(20)], vec![dot(30), dot(40)]];
        let sheet = sheet(&cells, &names(&["a", "bc"]), &names(&["5", "10"])).unwrap();
        let at = |x: usize, y: usize| sheet.pixels[(y * sheet.width + x) * 3];
        let left = sheet.width - 2 * 48;
        for (row, column, value) in [(0, 0, 10), (0, 1, 20), (1, 0, 30), (1, 1, 40)] {
            assert_eq!(at(left + column * 48 + 20, GAP + LINE + row * 38 + 15), value);
        }
        assert!(
            (0..sheet.height).any(|y| (0..left - GAP).any(|x| at(x, y) < 100)),
            "rows have names"
        );
        assert!((0..sheet.width).any(|x| at(x, GAP + 8) < 100), "columns have names");
    }

    #[test]
    fn what_does_not_fit_together_is_refused() {
        assert!(sheet(&[], &[], &[]).is_err());
        assert!(sheet(&[vec![dot(1)]], &[], &names(&["a"])).is_err());
        let small = Picture { width: 1, height: 1, channels: 1, pixels: vec![0] };
        assert!(sheet(&[vec![dot(1), small.into()]], &names(&["a"]), &names(&["b", "c"])).is_err());
    }
}
