//! The small network for teaching.

pub(crate) mod blocks;

use candle_core::{Error, Result, Tensor};
use candle_nn::{Module, VarBuilder};
use diffusion_kernels::{FeatureMap, in_parts};
use diffusion_nn::{
    ClassEmbedding, Conv2d, Conv2dConfig, ConvTranspose2d, DropoutNoise, ResidualBlock,
    conv_transpose2d, conv2d,
};
use diffusion_process::Network;
use serde::{Deserialize, Serialize};

use crate::TrainingNetwork;
use crate::conditioning::{self, AUGMENTATION, Conditioning, check_counts};
use crate::unet2d::check_classes;
use blocks::{residual_block, time_embedding};

/// The settings of a [`SimpleUNet`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SimpleUNetConfig {
    /// Channels of the images: 1 for grey, 3 for RGB. Default: 3.
    pub in_channels: usize,
    /// Channels of the first level, a multiple of 8. The levels below have twice as many. Default:
    /// 64.
    pub base_channels: usize,
    /// Width of the time embedding, at least 4. Default: 256.
    pub time_dim: usize,
    /// Channels of the output. `None`, the default: `in_channels`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub out_channels: Option<usize>,
    /// Rows of the class embedding table. `None`, the default: the network is unconditional.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub num_class_embeds: Option<usize>,
    /// Whether the last row of this table stands for "no class". Default: false.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub null_class: bool,
    /// Whether the network is conditioned on the transformations of its training pictures, by the
    /// layer `augment_embedding`. It has no effect in sampling. Default: false.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub augmentation: bool,
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
            augmentation: false,
        }
    }
}

/// The largest width of a layer. Wider layers would not fit into memory.
const MAX_WIDTH: usize = 4096;

/// A U-Net with two levels down, a middle, two levels up, and skip connections.
///
/// ```text
/// x ─ stem ─ enc1 ───────────────────────────── concat ─ dec1 ─ out
///             └ down1 ─ enc2 ───────── concat ─ dec2 ─ up1 ┘
///                        └ down2 ─ mid ─ up2 ┘
/// ```
///
/// A 3×3 convolution, `stem`, brings the image to `base_channels` channels before the first
/// normalisation, because 8 groups do not divide 1 or 3 channels.
#[derive(Clone, Debug)]
pub struct SimpleUNet {
    conditioning: Conditioning,
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
    /// Height and width of the images must be multiples of this, because both are halved twice.
    pub(crate) const SIZE_MULTIPLE: usize = 4;

    /// The layers that take images or classes or give the output. The others are hidden layers.
    pub(crate) const OUTER_LAYERS: &'static [&'static str] =
        &["stem", "class_embedding", AUGMENTATION, "out"];

    /// The network with parameters from `vb`.
    ///
    /// # Errors
    /// - If `base_channels` is not a multiple of 8.
    /// - If `time_dim` is below 4.
    /// - If a width is 0 or above 4096.
    /// - If the table of classes has no rows or more than 1,000,000, or fewer than 2 with
    ///   `null_class`.
    /// - If `vb` does not have a parameter, or has it in another shape.
    pub fn new(config: &SimpleUNetConfig, vb: VarBuilder<'_>) -> Result<Self> {
        let SimpleUNetConfig {
            in_channels,
            base_channels: b,
            time_dim,
            out_channels,
            num_class_embeds,
            null_class,
            augmentation,
        } = *config;
        let out_channels = out_channels.unwrap_or(in_channels);
        for (name, width) in [
            ("in_channels", in_channels),
            ("base_channels", b),
            ("time_dim", time_dim),
            ("out_channels", out_channels),
        ] {
            if !(1..=MAX_WIDTH).contains(&width) {
                return Err(Error::Msg(format!(
                    "{name} is {width}; it must be from 1 to {MAX_WIDTH}"
                )));
            }
        }
        check_classes(num_class_embeds, null_class)?;
        let classes =
            |rows| ClassEmbedding::new(rows, null_class, time_dim, vb.pp("class_embedding"));
        let block = |cin, cout, name| residual_block(cin, cout, time_dim, vb.pp(name));
        let halving = Conv2dConfig { stride: 2, ..Conv2dConfig::default() };
        Ok(Self {
            conditioning: Conditioning {
                time: time_embedding(time_dim, vb.pp("time_embed"))?,
                classes: num_class_embeds.map(classes).transpose()?,
                augmentation: conditioning::augmentation(augmentation, time_dim, &vb)?,
            },
            stem: conv2d(in_channels, b, Conv2dConfig::default(), vb.pp("stem"))?,
            enc1: block(b, b, "enc1")?,
            down1: conv2d(b, b, halving, vb.pp("down1"))?,
            enc2: block(b, 2 * b, "enc2")?,
            down2: conv2d(2 * b, 2 * b, halving, vb.pp("down2"))?,
            mid: block(2 * b, 2 * b, "mid")?,
            up2: conv_transpose2d(2 * b, 2 * b, 4, 2, 1, vb.pp("up2"))?,
            dec2: block(4 * b, b, "dec2")?,
            up1: conv_transpose2d(b, b, 4, 2, 1, vb.pp("up1"))?,
            dec1: block(2 * b, b, "dec1")?,
            out: conv2d(b, out_channels, Conv2dConfig::pointwise(), vb.pp("out"))?,
        })
    }

    /// The time embedding (N, `time_dim`) of `timesteps` (N), without the class embedding.
    ///
    /// # Errors
    /// An error of the device.
    pub fn embed_time(&self, timesteps: &Tensor) -> Result<Tensor> {
        self.conditioning.time.forward(timesteps)
    }
}

impl Network for SimpleUNet {
    /// Height and width must be multiples of 4.
    fn forward(&self, x_t: &Tensor, timesteps: &Tensor) -> Result<Tensor> {
        self.forward_classes(x_t, timesteps, &vec![None; x_t.dims().first().copied().unwrap_or(0)])
    }

    fn forward_classes(
        &self,
        x_t: &Tensor,
        timesteps: &Tensor,
        classes: &[Option<u32>],
    ) -> Result<Tensor> {
        self.forward_augmented(x_t, timesteps, classes, None)
    }
}

impl SimpleUNet {
    fn forward_augmented(
        &self,
        x_t: &Tensor,
        timesteps: &Tensor,
        classes: &[Option<u32>],
        augmentation: Option<&Tensor>,
    ) -> Result<Tensor> {
        let (images, _, height, width) = x_t.dims4()?;
        check_counts(images, timesteps, classes)?;
        let multiple = Self::SIZE_MULTIPLE;
        if !height.is_multiple_of(multiple) || !width.is_multiple_of(multiple) {
            return Err(Error::Msg(format!(
                "images are {height}×{width}; the network halves them twice, \
                 so both sides must be multiples of {multiple}"
            )));
        }
        in_parts(x_t, self.stem.is_trainable(), |x_t, part| {
            let of_part = |tensor: &Tensor| tensor.narrow(0, part.start, part.len());
            let augmentation = augmentation.map(of_part).transpose()?;
            let time = self.conditioning.forward(
                &of_part(timesteps)?,
                &classes[part.clone()],
                augmentation.as_ref(),
            )?;
            self.forward_images(x_t, &time)
        })
    }
}

impl TrainingNetwork for SimpleUNet {
    /// This network has no dropout.
    fn forward_training(
        &self,
        x_t: &Tensor,
        timesteps: &Tensor,
        classes: &[Option<u32>],
        augmentation: Option<&Tensor>,
        _: DropoutNoise,
    ) -> Result<Tensor> {
        self.forward_augmented(x_t, timesteps, classes, augmentation)
    }
}

impl SimpleUNet {
    /// `time` (N, `time_dim`) holds the vectors of the conditioning.
    fn forward_images(&self, x_t: &Tensor, time: &Tensor) -> Result<Tensor> {
        let block = |block: &ResidualBlock, x: &FeatureMap| block.forward(x, time, None);
        let enc1 = block(&self.enc1, &self.stem.forward(&FeatureMap::from_images(x_t)?)?)?;
        let enc2 = block(&self.enc2, &self.down1.forward(&enc1)?)?;
        let mid = block(&self.mid, &self.down2.forward(&enc2)?)?;
        let dec2 = block(&self.dec2, &self.up2.forward(&mid)?.cat(&enc2)?)?;
        let dec1 = block(&self.dec1, &self.up1.forward(&dec2)?.cat(&enc1)?)?;
        self.out.forward(&dec1)?.to_images()
    }
}
