//! How pictures become training images, as data.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::DataError;

/// Which part of a set that has parts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Split {
    /// The pictures to learn from.
    #[default]
    Train,
    /// Those held back to judge by.
    Test,
}

const MOST_REPEATS: usize = 1_000_000;

/// What is done to the pictures of a data set, and which of them are taken.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PictureConfig {
    /// Grey or colour.
    pub channels: Channels,
    /// How a picture that is not square becomes square.
    pub fit: Fit,
    /// The colour behind transparent pixels and beside padded pictures.
    pub background: Background,
    /// Keep the pictures an eighth larger and cut another window out of them in each pass.
    pub random_crop: bool,
    /// Mirror every other picture, left to right, at random.
    pub flip: bool,
    /// How often a pass gives each picture, at least 1; more often where the set is smaller than a batch.
    pub repeat: usize,
    /// The classes to take, by name; none: all.
    pub classes: Vec<String>,
    /// The number of pictures to take, chosen by a hash of their names; none: all.
    pub limit: Option<usize>,
    /// The share of the pictures, in [0, 1), kept out of training for validation, chosen by a hash of their names: a
    /// picture stays on its side when others come or go.
    pub validation: f64,
    /// The number of damaged pictures to leave out before giving up.
    pub max_bad: usize,
}

impl Default for PictureConfig {
    fn default() -> Self {
        Self {
            channels: Channels::Auto,
            fit: Fit::Crop,
            background: Background::WHITE,
            random_crop: false,
            flip: false,
            repeat: 1,
            classes: Vec::new(),
            limit: None,
            validation: 0.0,
            max_bad: 100,
        }
    }
}

impl PictureConfig {
    /// The first field outside its range: its name, its value, and what would be right.
    pub fn problem(&self) -> Option<(&'static str, String, &'static str)> {
        if !(1..=MOST_REPEATS).contains(&self.repeat) {
            let expected = "it must be at least 1, and at most a million";
            return Some(("pictures.repeat", self.repeat.to_string(), expected));
        }
        if self.limit == Some(0) {
            return Some(("pictures.limit", "0".to_owned(), "it must be at least 1"));
        }
        if !(0.0..1.0).contains(&self.validation) {
            return Some((
                "pictures.validation",
                self.validation.to_string(),
                "it must lie in [0, 1)",
            ));
        }
        None
    }

    /// The side of the squares that are kept for training images of `size` pixels: larger where windows are cut out.
    pub(crate) fn kept_size(&self, size: usize) -> usize {
        if self.random_crop { size + size.div_ceil(8) } else { size }
    }
}

/// The channels of training images.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Channels {
    /// Grey if no picture has any colour, else RGB.
    #[default]
    Auto,
    /// One channel, by the luma of Rec. 601.
    Grey,
    /// Three channels.
    Rgb,
}

/// How a picture that is not square becomes square.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Fit {
    /// The square in its middle.
    #[default]
    Crop,
    /// The whole picture, with background on two sides.
    Pad,
    /// The whole picture, distorted.
    Stretch,
}

macro_rules! by_name {
    ($type:ident: $($name:literal => $value:ident),+) => {
        impl FromStr for $type {
            type Err = DataError;

            fn from_str(text: &str) -> Result<Self, DataError> {
                match text {
                    $($name => Ok(Self::$value),)+
                    _ => {
                        let problem = format!("expected one of: {}", [$($name),+].join(", "));
                        Err(DataError::Invalid(problem))
                    }
                }
            }
        }
    };
}
by_name!(Channels: "auto" => Auto, "grey" => Grey, "rgb" => Rgb);
by_name!(Fit: "crop" => Crop, "pad" => Pad, "stretch" => Stretch);

/// A colour, written `white`, `black`, `grey` or `#rrggbb`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Background(pub [u8; 3]);

impl Background {
    /// #ffffff
    pub const WHITE: Self = Self([255; 3]);
    /// #000000
    pub const BLACK: Self = Self([0; 3]);
}

impl FromStr for Background {
    type Err = DataError;

    fn from_str(text: &str) -> Result<Self, DataError> {
        let wrong = || {
            DataError::Invalid(format!(
                "{text:?} is no colour; expected white, black, grey or #rrggbb"
            ))
        };
        match text {
            "white" => return Ok(Self::WHITE),
            "black" => return Ok(Self::BLACK),
            "grey" => return Ok(Self([128; 3])),
            _ => {}
        }
        let digits = text
            .strip_prefix('#')
            .filter(|digits| {
                digits.len() == 6 && digits.bytes().all(|digit| digit.is_ascii_hexdigit())
            })
            .ok_or_else(wrong)?;
        let [_, red, green, blue] =
            u32::from_str_radix(digits, 16).map_err(|_| wrong())?.to_be_bytes();
        Ok(Self([red, green, blue]))
    }
}

impl fmt::Display for Background {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [red, green, blue] = self.0;
        write!(f, "#{red:02x}{green:02x}{blue:02x}")
    }
}

impl TryFrom<String> for Background {
    type Error = DataError;

    fn try_from(text: String) -> Result<Self, DataError> {
        text.parse()
    }
}

impl From<Background> for String {
    fn from(background: Background) -> Self {
        background.to_string()
    }
}
