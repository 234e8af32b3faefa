//! Pictures in rows and columns with names.

use font8x8::legacy::BASIC_LEGACY;

use super::Picture;
use crate::DataError;

/// Pixels of a letter, before it is enlarged.
const LETTER: usize = 8;
/// Pixels between cells, and around everything.
const GAP: usize = 6;
const PAPER: u8 = 255;
const INK: u8 = 0;

/// A grey picture of one line of text, dark on white, its letters `scale` times eight pixels. What is not ASCII becomes a
/// question mark.
pub fn text(line: &str, scale: usize) -> Picture {
    let line = if line.is_empty() { " " } else { line };
    let letters: Vec<[u8; LETTER]> = line
        .chars()
        .map(|c| {
            BASIC_LEGACY[usize::try_from(u32::from(c)).ok().filter(|&c| c < 128).unwrap_or(usize::from(b'?'))]
        })
        .collect();
    let mut pixels = Vec::with_capacity(letters.len() * LETTER * LETTER);
    for y in 0..LETTER {
        let row = letters.iter().flat_map(|letter| (0..LETTER).map(move |x| letter[y] >> x & 1 == 1));
        pixels.extend(row.map(|ink| if ink { INK } else { PAPER }));
    }
    Picture { width: letters.len() * LETTER, height: LETTER, channels: 1, pixels }.enlarged(scale.max(1))
}

/// The picture in three channels.
fn coloured(picture: &Picture) -> Picture {
    match picture.channels {
        1 => Picture {
            channels: 3,
            pixels: picture.pixels.iter().flat_map(|grey| [*grey; 3]).collect(),
            ..*picture
        },
        _ => picture.clone(),
    }
}

/// RGB pixels to draw on.
struct Sheet(Picture);

impl Sheet {
    fn new(width: usize, height: usize) -> Self {
        Self(Picture { width, height, channels: 3, pixels: vec![PAPER; width * height * 3] })
    }

    /// Lays `picture` down; what does not fit is cut off.
    fn put(&mut self, picture: &Picture, left: usize, top: usize) {
        let picture = coloured(picture);
        let width = picture.width.min(self.0.width.saturating_sub(left)) * 3;
        let rows = picture.pixels.chunks_exact((picture.width * 3).max(1));
        for (y, row) in rows.enumerate().take(self.0.height.saturating_sub(top)) {
            let start = ((top + y) * self.0.width + left) * 3;
            self.0.pixels[start..start + width].copy_from_slice(&row[..width]);
        }
    }
}

/// `cells[row][column]` with the names of rows on the left and of columns above, in RGB on white.
///
/// # Errors
/// No cells; rows or columns without a name, or names without them; pictures of different sizes.
pub fn table(cells: &[Vec<Picture>], rows: &[String], columns: &[String]) -> Result<Picture, DataError> {
    const SCALE: usize = 2;
    let invalid = |problem: &str| Err(DataError::Invalid(format!("a table of pictures {problem}")));
    let Some(first) = cells.first().and_then(|row| row.first()) else { return invalid("wants pictures") };
    if cells.len() != rows.len() || cells.iter().any(|row| row.len() != columns.len()) {
        return invalid("wants a name for each row and column");
    }
    let (width, height) = (first.width, first.height);
    if cells.iter().flatten().any(|p| (p.width, p.height) != (width, height)) {
        return invalid("wants pictures of one size");
    }
    let longest =
        |names: &[String]| names.iter().map(|name| name.chars().count() * LETTER * SCALE).max().unwrap_or(0);
    let (left, top) = (longest(rows) + 2 * GAP, LETTER * SCALE + 2 * GAP);
    // A column is as wide as its name at least.
    let pitch = width.max(longest(columns)) + GAP;
    let mut sheet = Sheet::new(left + columns.len() * pitch + GAP, top + rows.len() * (height + GAP) + GAP);
    let middle = |column: usize, width: usize| left + column * pitch + (pitch - GAP - width) / 2;
    for (c, name) in columns.iter().enumerate() {
        let name = text(name, SCALE);
        sheet.put(&name, middle(c, name.width), GAP);
    }
    for (r, (row, name)) in cells.iter().zip(rows).enumerate() {
        let y = top + r * (height + GAP);
        sheet.put(&text(name, SCALE), GAP, y + (height / 2).saturating_sub(LETTER * SCALE / 2));
        for (c, picture) in row.iter().enumerate() {
            sheet.put(picture, middle(c, width), y);
        }
    }
    Ok(sheet.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dot(value: u8) -> Picture {
        Picture { width: 40, height: 30, channels: 1, pixels: vec![value; 1200] }
    }

    #[test]
    fn a_tables_pictures_lie_beside_their_names() {
        let names = |names: &[&str]| names.iter().map(|&n| n.to_owned()).collect::<Vec<_>>();
        let cells = [vec![dot(10), dot(20)], vec![dot(30), dot(40)], vec![dot(50), dot(60)]];
        let sheet = table(&cells, &names(&["a", "bc", "def"]), &names(&["5", "10"])).unwrap();
        let (left, top) = (3 * 16 + 12, 16 + 12);
        assert_eq!((sheet.width, sheet.height), (left + 2 * 46 + 6, top + 3 * 36 + 6));
        let at = |x: usize, y: usize| sheet.pixels[(y * sheet.width + x) * 3];
        for (row, cells) in cells.iter().enumerate() {
            for (column, cell) in cells.iter().enumerate() {
                assert_eq!(at(left + column * 46 + 39, top + row * 36 + 29), cell.pixels[0]);
            }
        }
        let ink = |x0: usize, x1: usize| (x0..x1).any(|x| (0..top).any(|y| at(x, y) == INK));
        assert!(ink(left, left + 40) && ink(left + 46, left + 86) && !ink(0, left));
        assert!(table(&cells, &names(&["a"]), &names(&["5", "10"])).is_err());
        assert!(table(&[vec![dot(1), text("x", 1)]], &names(&["a"]), &names(&["b", "c"])).is_err());
        assert_eq!(text("é", 1), text("?", 1));
    }
}
