//! The small teaching network.

use candle_core::{Error, Result, Tensor};
use candle_nn::{Module, VarBuilder};
use diffusion_kernels::{FeatureMap, in_pool};
use diffusion_process::{Network, refuse_classes};
use serde::{Deserialize, Serialize};

use crate::embedding::{ClassEmbedding, TimeEmbedding};
use crate::layers::{Conv2d, ConvTranspose2d, conv_transpose2d, conv2d};
use crate::residual::ResidualBlock;
use crate::unet2d::check_classes;

/// The numbers of a [`SimpleUNet`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SimpleUNetConfig {
    /// Channels of the images: 1 for grey, 3 for RGB.
    pub in_channels: usize,
    /// Width of the first level, a multiple of 8; the levels below are twice as wide.
    pub base_channels: usize,
    /// Width of the time embedding, at least 4.
    pub time_dim: usize,
    /// Channels of the output. None: `in_channels`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub out_channels: Option<usize>,
    /// Rows of the table of classes that the network is told of. None: it knows no classes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub num_class_embeds: Option<usize>,
    /// The last row of that table stands for "none in particular".
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub null_class: bool,
}

impl Default for SimpleUNetConfig {
    fn default() -> Self {
        Self {
            in_channels: 3,
            base_channels: 64,
            time_dim: 256,
            out_channels: None,
            num_class_embeds: None,
            null_class: false,
        }
    }
}

/// A wider layer would not fit into any machine's memory, and is a slip of the finger.
const MAX_WIDTH: usize = 4096;

/// Two levels down, a middle, two levels up, with skip connections.
///
/// ```text
/// x ─ stem ─ enc1 ───────────────────────────── concat ─ dec1 ─ out
///             └ down1 ─ enc2 ───────── concat ─ dec2 ─ up1 ┘
///                        └ down2 ─ mid ─ up2 ┘
/// ```
///
/// A 3×3 `stem` brings the image to `base_channels` before the first normalisation, since 8 groups do not divide
/// 1 or 3 channels.
#[derive(Clone, Debug)]
pub struct SimpleUNet {
    time_embed: TimeEmbedding,
    class_embedding: Option<ClassEmbedding>,
    stem: Conv2d,
    enc1: ResidualBlock,
    down1: Conv2d,
    enc2: ResidualBlock,
    down2: Conv2d,
    mid: ResidualBlock,
    up2: ConvTranspose2d,
    dec2: ResidualBlock,
    up1: ConvTranspose2d,
    dec1: ResidualBlock,
    out: Conv2d,
}

impl SimpleUNet {
    /// Height and width must be multiples of this: two levels halve them twice.
    pub const SIZE_MULTIPLE: usize = 4;

    /// The network with parameters from `vb`.
    ///
    /// # Errors
    /// `base_channels` that is not a multiple of 8, a `time_dim` below 4, widths of 0 or above 4096; parameters that `vb` does not
    /// have or has in another shape.
    pub fn new(config: &SimpleUNetConfig, vb: VarBuilder<'_>) -> Result<Self> {
        let SimpleUNetConfig {
            in_channels,
            base_channels: b,
            time_dim,
            out_channels,
            num_class_embeds,
            null_class,
        } = *config;
        let out_channels = out_channels.unwrap_or(in_channels);
        for (name, width) in [
            ("in_channels", in_channels),
            ("base_channels", b),
            ("time_dim", time_dim),
            ("out_channels", out_channels),
        ] {
            if !(1..=MAX_WIDTH).contains(&width) {
                return Err(Error::Msg(format!("{name} is {width}; it must lie between 1 and {MAX_WIDTH}")));
            }
        }
        check_classes(num_class_embeds, null_class)?;
        let classes = |rows| ClassEmbedding::new(rows, null_class, time_dim, vb.pp("class_embedding"));
        let block = |cin, cout, name| ResidualBlock::new(cin, cout, time_dim, vb.pp(name));
        Ok(Self {
            time_embed: TimeEmbedding::new(time_dim, vb.pp("time_embed"))?,
            class_embedding: num_class_embeds.map(classes).transpose()?,
            stem: conv2d(in_channels, b, 3, 1, 1, vb.pp("stem"))?,
            enc1: block(b, b, "enc1")?,
            down1: conv2d(b, b, 3, 2, 1, vb.pp("down1"))?,
            enc2: block(b, 2 * b, "enc2")?,
            down2: conv2d(2 * b, 2 * b, 3, 2, 1, vb.pp("down2"))?,
            mid: block(2 * b, 2 * b, "mid")?,
            up2: conv_transpose2d(2 * b, 2 * b, 4, 2, 1, vb.pp("up2"))?,
            dec2: block(4 * b, b, "dec2")?,
            up1: conv_transpose2d(b, b, 4, 2, 1, vb.pp("up1"))?,
            dec1: block(2 * b, b, "dec1")?,
            out: conv2d(b, out_channels, 1, 1, 0, vb.pp("out"))?,
        })
    }

    /// The time embedding alone: `timesteps` (N) to (N, `time_dim`).
    ///
    /// # Errors
    /// Those of the device.
    pub fn embed_time(&self, timesteps: &Tensor) -> Result<Tensor> {
        self.time_embed.forward(timesteps)
    }
}

impl Network for SimpleUNet {
    /// Refuses heights and widths that are not multiples of [`SimpleUNet::SIZE_MULTIPLE`].
    fn forward(&self, x_t: &Tensor, timesteps: &Tensor) -> Result<Tensor> {
        self.forward_classes(x_t, timesteps, &vec![None; x_t.dims().first().copied().unwrap_or(0)])
    }

    fn forward_classes(&self, x_t: &Tensor, timesteps: &Tensor, classes: &[Option<u32>]) -> Result<Tensor> {
        let (images, _, height, width) = x_t.dims4()?;
        if classes.len() != images {
            return Err(Error::Msg(format!("{images} images want as many classes, not {}", classes.len())));
        }
        let multiple = Self::SIZE_MULTIPLE;
        if !height.is_multiple_of(multiple) || !width.is_multiple_of(multiple) {
            return Err(Error::Msg(format!(
                "images are {height}×{width}; the network halves them twice, so both sides must be multiples of {multiple}"
            )));
        }
        in_pool(|| self.forward_images(x_t, timesteps, classes))
    }
}

impl SimpleUNet {
    fn forward_images(&self, x_t: &Tensor, timesteps: &Tensor, classes: &[Option<u32>]) -> Result<Tensor> {
        let time = self.embed_time(timesteps)?;
        let time = match &self.class_embedding {
            Some(embedding) => (time + embedding.forward(classes)?)?,
            None => refuse_classes(classes).map(|()| time)?,
        };
        let enc1 = self.enc1.forward(&self.stem.forward(&FeatureMap::from_images(x_t)?)?, &time)?;
        let enc2 = self.enc2.forward(&self.down1.forward(&enc1)?, &time)?;
        let mid = self.mid.forward(&self.down2.forward(&enc2)?, &time)?;
        let up2 = self.up2.forward(&mid)?.cat(&enc2)?;
        let dec2 = self.dec2.forward(&up2, &time)?;
        let up1 = self.up1.forward(&dec2)?.cat(&enc1)?;
        self.out.forward(&self.dec1.forward(&up1, &time)?)?.to_images()
    }
}
