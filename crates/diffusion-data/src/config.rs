//! The configuration of how pictures become training images.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::DataError;

/// A split of a data set.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Split {
    /// The training pictures.
    #[default]
    Train,
    /// The test pictures.
    Test,
}

const MAX_REPEATS: usize = 1_000_000;

/// How the pictures of a data set are prepared, and which of them are used.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PictureConfig {
    /// Grey or RGB. Default: grey if no picture has colour, otherwise RGB.
    pub channels: Channels,
    /// How a picture that is not square becomes square. Default: crop.
    pub fit: Fit,
    /// The colour of transparent areas and of the padding. Default: white.
    pub background: Background,
    /// Store the pictures an eighth larger, and cut a random window out of each in every pass.
    /// Default: false.
    pub random_crop: bool,
    /// Mirror each picture left to right with probability ½. Default: false.
    pub flip: bool,
    /// The probability, from 0 to 1, of each of the transformations with labels: mirroring,
    /// scaling, rotation, stretching and shifting. The network is conditioned on them, and images
    /// are sampled without them (Karras et al. 2022, appendix F.2). Default: 0.
    #[serde(skip_serializing_if = "is_zero")]
    pub augment: f64,
    /// How many times each picture appears in a pass, at least 1. It is increased if the set is
    /// smaller than a batch. Default: 1.
    pub repeat: usize,
    /// The names of the classes to use. Default: all classes.
    pub classes: Vec<String>,
    /// The number of pictures to use, chosen by a hash of their names. Default: all.
    pub limit: Option<usize>,
    /// The share of the pictures, in [0, 1), that is reserved for validation. They are chosen by a
    /// hash of their names, so a picture stays in its split when others are added or removed.
    /// Default: 0.
    pub validation: f64,
    /// How many damaged pictures may be left out before preparation fails. Default: 100.
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
            augment: 0.0,
            repeat: 1,
            classes: Vec::new(),
            limit: None,
            validation: 0.0,
            max_bad: 100,
        }
    }
}

impl PictureConfig {
    /// The settings that decide how a picture looks: channels, fit and background. All others have
    /// their defaults. Other pictures must be prepared with these to be compared with a data set.
    #[must_use]
    pub fn appearance(&self) -> Self {
        let &Self { channels, fit, background, max_bad, .. } = self;
        Self { channels, fit, background, max_bad, ..Self::default() }
    }

    /// The same settings for a model of images of shape [C, H, W]: RGB instead of `auto` if C is 3.
    /// Grey pictures then fit an RGB model.
    #[must_use]
    pub fn with_channels_of(self, [channels, _, _]: [usize; 3]) -> Self {
        match (self.channels, channels) {
            (Channels::Auto, 3) => Self { channels: Channels::Rgb, ..self },
            _ => self,
        }
    }

    /// The first field outside its range: its name, its value, and what is allowed.
    pub fn problem(&self) -> Option<(&'static str, String, &'static str)> {
        if !(1..=MAX_REPEATS).contains(&self.repeat) {
            let expected = "it must be from 1 to 1000000 (flag --repeat)";
            return Some(("pictures.repeat", self.repeat.to_string(), expected));
        }
        if self.limit == Some(0) {
            let expected = "it must be at least 1 (flag --limit)";
            return Some(("pictures.limit", "0".to_owned(), expected));
        }
        if !(0.0..=1.0).contains(&self.augment) {
            let expected = "it must be from 0 to 1 (flag --augment)";
            return Some(("pictures.augment", self.augment.to_string(), expected));
        }
        if !(0.0..1.0).contains(&self.validation) {
            return Some((
                "pictures.validation",
                self.validation.to_string(),
                "it must be at least 0 and below 1 (flag --validation)",
            ));
        }
        None
    }

    /// The side of the stored squares for training images of `size` pixels: larger if random
    /// windows are cut out.
    pub(crate) fn stored_size(&self, size: usize) -> usize {
        if self.random_crop { size + size.div_ceil(8) } else { size }
    }
}

#[allow(clippy::trivially_copy_pass_by_ref)] // the signature that serde needs
fn is_zero(number: &f64) -> bool {
    *number == 0.0
}

/// The channels of training images.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Channels {
    /// Grey if no picture has colour, otherwise RGB.
    #[default]
    Auto,
    /// One channel, the luma of Rec. 601.
    Grey,
    /// Three channels.
    Rgb,
}

/// How a picture that is not square becomes square.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Fit {
    /// Use the square in the middle.
    #[default]
    Crop,
    /// Use the whole picture, with background on two sides.
    Pad,
    /// Use the whole picture, distorted.
    Stretch,
}

macro_rules! from_str_by_name {
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
from_str_by_name!(Channels: "auto" => Auto, "grey" => Grey, "rgb" => Rgb);
from_str_by_name!(Fit: "crop" => Crop, "pad" => Pad, "stretch" => Stretch);

/// A colour, written `white`, `black`, `grey` or `#rrggbb`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Background(pub [u8; 3]);

impl Background {
    /// White, #ffffff.
    pub const WHITE: Self = Self([255; 3]);
    /// Black, #000000.
    pub const BLACK: Self = Self([0; 3]);
}

impl FromStr for Background {
    type Err = DataError;

    fn from_str(text: &str) -> Result<Self, DataError> {
        let unknown = || {
            DataError::Invalid(format!(
                "unknown colour {text:?}; expected white, black, grey or #rrggbb"
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
            .ok_or_else(unknown)?;
        let [_, red, green, blue] =
            u32::from_str_radix(digits, 16).map_err(|_| unknown())?.to_be_bytes();
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
