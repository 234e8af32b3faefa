//! The report on the pictures of a source.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

/// Sizes and formats of the usable pictures of a source, and its damaged pictures.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// Width and height in pixels, and the number of usable pictures of that size.
    pub sizes: Vec<(usize, usize, usize)>,
    /// If at least 95 % of the pictures have one size: width, height and number of the pictures of
    /// each other size, and the name of the first; at most 5 sizes.
    #[serde(default)]
    pub other_sizes: Vec<(usize, usize, usize, String)>,
    /// The smallest and the largest byte of all prepared pictures.
    #[serde(default)]
    pub byte_range: Option<(u8, u8)>,
    /// How many pictures have a colour profile other than sRGB, which is not applied.
    #[serde(default)]
    pub other_colours: usize,
    /// How many are animations, of which only the first frame is used.
    #[serde(default)]
    pub animations: usize,
    /// The pixel formats of the files, such as `RGB, 16 bits`, and the number of usable pictures
    /// with each.
    pub forms: BTreeMap<String, usize>,
    /// The pictures that were left out.
    pub damaged: Vec<DamagedPicture>,
}

/// A picture that cannot be used, and why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DamagedPicture {
    /// The name in the source.
    pub name: String,
    /// What is wrong with it.
    pub reason: String,
}

impl fmt::Display for DamagedPicture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.name, self.reason)
    }
}
