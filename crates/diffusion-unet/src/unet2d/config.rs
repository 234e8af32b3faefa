//! The settings of the configurable U-Net, and their validation.

use candle_core::{Error, Result};
use diffusion_kernels::TimeConditioning;
use serde::{Deserialize, Serialize};

/// The kind of a down block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum DownBlockType {
    /// Residual blocks.
    DownBlock2D,
    /// Residual blocks, each followed by attention.
    AttnDownBlock2D,
}

/// The kind of an up block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum UpBlockType {
    /// Residual blocks.
    UpBlock2D,
    /// Residual blocks, each followed by attention.
    AttnUpBlock2D,
}

/// How the time embedding enters a residual block.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TimeScaleShift {
    /// Added between the convolutions (Ho et al. 2020).
    #[default]
    Default,
    /// Scales and shifts the output of the second normalisation (Dhariwal & Nichol 2021).
    ScaleShift,
}

impl TimeScaleShift {
    pub(crate) fn conditioning(self) -> TimeConditioning {
        match self {
            Self::Default => TimeConditioning::Add,
            Self::ScaleShift => TimeConditioning::ScaleShift,
        }
    }
}

/// How a level with attention changes the resolution. Levels without attention always use
/// [`ResampleType::Conv`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ResampleType {
    /// A convolution: with stride 2 to halve, after nearest-neighbour upsampling to double.
    #[default]
    Conv,
    /// A residual block that also resamples on its skip connection.
    Resnet,
}

/// The features that the time embedding starts from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TimeEmbeddingType {
    /// Sinusoids of t with fixed frequencies (Ho et al. 2020).
    #[default]
    Positional,
    /// Sinusoids of ln(t) with random frequencies, for timesteps that are noise levels (Song et al.
    /// 2021). The network's output is divided by t.
    Fourier,
}

/// The settings of a [`crate::UNet2D`].
///
/// Names, values and defaults are those of `UNet2DModel` in diffusers, except that the default of
/// `attention_head_dim` there is 8. The other settings of diffusers are fixed here: the activation
/// is SiLU, and there is a middle block.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[allow(clippy::struct_excessive_bools)] // Independent settings of diffusers.
pub struct UNet2DConfig {
    /// Channels of the images. Default: 3.
    pub in_channels: usize,
    /// Channels of the output. Default: 3.
    pub out_channels: usize,
    /// Channels of each level. Each level except the last halves height and width. Default: 224,
    /// 448, 672, 896.
    pub block_out_channels: Vec<usize>,
    /// Residual blocks of a down block. An up block has one more. Default: 2.
    pub layers_per_block: usize,
    /// The down blocks, one for each level.
    pub down_block_types: Vec<DownBlockType>,
    /// The up blocks, one for each level, the deepest first.
    pub up_block_types: Vec<UpBlockType>,
    /// Whether the middle block has attention between its two residual blocks. Default: true.
    pub add_attention: bool,
    /// The divisor of the outputs of the middle block's two residual blocks and of its attention,
    /// above 0. √2 in NCSN++ (Song et al. 2021, appendix H.1). Default: 1.
    #[serde(skip_serializing_if = "is_unscaled")]
    pub mid_block_scale_factor: f64,
    /// Channels of an attention head. The number of heads is the level's width divided by this,
    /// rounded down. `None`, the default: one head.
    pub attention_head_dim: Option<usize>,
    /// Groups of every normalisation; must divide all of `block_out_channels`. Default: 32.
    pub norm_num_groups: usize,
    /// The ε that every normalisation adds to the variance, above 0. Default: 1e-5.
    pub norm_eps: f64,
    /// Groups of the normalisation in the middle block's attention. `None`, the default:
    /// `norm_num_groups`, or no normalisation if `resnet_time_scale_shift` is `scale_shift`.
    pub attn_norm_num_groups: Option<usize>,
    /// How the time embedding enters a residual block. Default: added.
    pub resnet_time_scale_shift: TimeScaleShift,
    /// How levels with attention halve the resolution. Default: by a convolution.
    pub downsample_type: ResampleType,
    /// How levels with attention double the resolution. Default: by a convolution.
    pub upsample_type: ResampleType,
    /// The padding of the convolutions that halve the resolution. 1, the default: one zero on all
    /// sides. 0: one zero below and one to the right.
    pub downsample_padding: usize,
    /// The features that the time embedding starts from. Default: positional.
    pub time_embedding_type: TimeEmbeddingType,
    /// The width of the time embedding. `None`, the default: four times the width of the first
    /// level.
    pub time_embedding_dim: Option<usize>,
    /// Whether the cosines come first in positional features. Default: true.
    pub flip_sin_to_cos: bool,
    /// The frequency shift of positional features. With 1 the last frequency is 1/10000, with 0 it
    /// is a little higher. Default: 0.
    pub freq_shift: usize,
    /// Rows of the class embedding table. `None`, the default: the network is unconditional.
    pub num_class_embeds: Option<usize>,
    /// The dropout rate in the residual blocks during training, in [0, 1). Default: 0.
    pub dropout: f64,
    /// Whether the images are in [0, 1] and are mapped to [−1, 1] first. Default: false.
    pub center_input_sample: bool,
    /// Whether the output layer is initialised with zeros, as in Ho et al. 2020. The first updates
    /// then reach this layer only. Not a setting of diffusers, because it does not show in a
    /// trained network. Default: false.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub zero_init_output: bool,
    /// The side of the patches, in pixels. The network treats a patch as one pixel, with the
    /// patch's values as channels (Hoogeboom et al. 2023, section 3.2). 2 avoids the level with the
    /// most pixels. Not a setting of diffusers: such a network cannot be exported. Default: 1.
    #[serde(skip_serializing_if = "is_one")]
    pub patch_size: usize,
    /// Whether the last row of the class embedding table stands for "no class", which
    /// classifier-free guidance needs. Not a setting of diffusers, where the user decides what a
    /// row stands for. Default: false.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub null_class: bool,
    /// Whether the network is conditioned on the transformations of its training pictures, by the
    /// layer `augment_embedding`. It has no effect in sampling, and an export
    /// leaves it out. Default: false.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub augmentation: bool,
}

#[allow(clippy::trivially_copy_pass_by_ref)] // the signature that serde needs
fn is_unscaled(factor: &f64) -> bool {
    *factor == 1.0
}

#[allow(clippy::trivially_copy_pass_by_ref)] // the signature that serde needs
fn is_one(n: &usize) -> bool {
    *n == 1
}

impl Default for UNet2DConfig {
    fn default() -> Self {
        use DownBlockType::{AttnDownBlock2D, DownBlock2D};
        use UpBlockType::{AttnUpBlock2D, UpBlock2D};
        Self {
            in_channels: 3,
            out_channels: 3,
            block_out_channels: vec![224, 448, 672, 896],
            layers_per_block: 2,
            down_block_types: vec![DownBlock2D, AttnDownBlock2D, AttnDownBlock2D, AttnDownBlock2D],
            up_block_types: vec![AttnUpBlock2D, AttnUpBlock2D, AttnUpBlock2D, UpBlock2D],
            add_attention: true,
            mid_block_scale_factor: 1.0,
            attention_head_dim: None,
            norm_num_groups: 32,
            norm_eps: 1e-5,
            attn_norm_num_groups: None,
            resnet_time_scale_shift: TimeScaleShift::Default,
            downsample_type: ResampleType::Conv,
            upsample_type: ResampleType::Conv,
            downsample_padding: 1,
            time_embedding_type: TimeEmbeddingType::Positional,
            time_embedding_dim: None,
            flip_sin_to_cos: true,
            freq_shift: 0,
            num_class_embeds: None,
            dropout: 0.0,
            center_input_sample: false,
            zero_init_output: false,
            patch_size: 1,
            null_class: false,
            augmentation: false,
        }
    }
}

/// The limits of the settings. Larger values are mistakes or come from a damaged file.
const MAX_WIDTH: usize = 4096;
const MAX_PATCH: usize = 16;
const MAX_TIME_WIDTH: usize = 4 * MAX_WIDTH;
const MAX_LEVELS: usize = 10;
const MAX_LAYERS: usize = 32;
const MAX_CLASSES: usize = 1_000_000;

impl UNet2DConfig {
    /// Height and width of the images must be multiples of this. Both are divided by `patch_size`,
    /// and halved by each level except the last.
    pub fn size_multiple(&self) -> usize {
        let halvings = self.block_out_channels.len().saturating_sub(1);
        self.patch_size << halvings.min(MAX_LEVELS)
    }

    /// The width of the time embedding.
    pub(crate) fn time_width(&self) -> usize {
        let first = self.block_out_channels.first().copied().unwrap_or_default();
        self.time_embedding_dim.unwrap_or(first.saturating_mul(4))
    }

    /// Groups of the normalisation in the middle block's attention. `None`: no normalisation.
    pub(crate) fn middle_attention_groups(&self) -> Option<usize> {
        match self.resnet_time_scale_shift {
            TimeScaleShift::Default => {
                Some(self.attn_norm_num_groups.unwrap_or(self.norm_num_groups))
            }
            TimeScaleShift::ScaleShift => self.attn_norm_num_groups,
        }
    }

    /// The channels of all layers with attention.
    fn attention_widths(&self) -> impl Iterator<Item = usize> {
        let widths = &self.block_out_channels;
        let down =
            self.down_block_types.iter().map(|level| *level == DownBlockType::AttnDownBlock2D);
        let up = self.up_block_types.iter().map(|level| *level == UpBlockType::AttnUpBlock2D);
        let middle = std::iter::once(&self.block_out_channels[widths.len() - 1]);
        let levels = widths.iter().zip(down).chain(widths.iter().rev().zip(up));
        let with_attention =
            |(width, has_attention): (&usize, bool)| has_attention.then_some(*width);
        levels.chain(middle.map(|width| (width, self.add_attention))).filter_map(with_attention)
    }

    /// Checks the settings. The error gives the field and its value.
    pub(crate) fn validate(&self) -> Result<()> {
        self.check_levels()?;
        self.check_widths()?;
        self.check_groups()?;
        if let Some(width) = self.attention_head_dim {
            let narrowest = self.attention_widths().min().unwrap_or(MAX_WIDTH);
            check_range("attention_head_dim", width, narrowest)?;
        }
        if !(self.norm_eps > 0.0 && self.norm_eps.is_finite()) {
            return invalid(format!("norm_eps is {}; it must be a number above 0", self.norm_eps));
        }
        if !(self.mid_block_scale_factor > 0.0 && self.mid_block_scale_factor.is_finite()) {
            return invalid(format!(
                "mid_block_scale_factor is {}; it must be a number above 0",
                self.mid_block_scale_factor
            ));
        }
        if self.downsample_padding > 1 {
            return invalid(format!(
                "downsample_padding is {}; it must be 0 or 1",
                self.downsample_padding
            ));
        }
        if !(0.0..1.0).contains(&self.dropout) {
            return invalid(format!(
                "dropout is {}; it must be at least 0 and below 1",
                self.dropout
            ));
        }
        Ok(())
    }

    fn check_levels(&self) -> Result<()> {
        let levels = self.block_out_channels.len();
        if !(1..=MAX_LEVELS).contains(&levels) {
            return invalid(format!(
                "block_out_channels has {levels} levels; there must be between 1 and {MAX_LEVELS}"
            ));
        }
        let lengths = [
            ("down_block_types", self.down_block_types.len()),
            ("up_block_types", self.up_block_types.len()),
        ];
        for (field, length) in lengths {
            if length != levels {
                return invalid(format!(
                    "{field} has {length} levels; \
                     it must have {levels}, as many as block_out_channels"
                ));
            }
        }
        Ok(())
    }

    fn check_widths(&self) -> Result<()> {
        check_range("in_channels", self.in_channels, MAX_WIDTH)?;
        check_range("out_channels", self.out_channels, MAX_WIDTH)?;
        check_range("patch_size", self.patch_size, MAX_PATCH)?;
        for (level, width) in self.block_out_channels.iter().enumerate() {
            check_range(&format!("block_out_channels[{level}]"), *width, MAX_WIDTH)?;
        }
        check_range("layers_per_block", self.layers_per_block, MAX_LAYERS)?;
        check_range("time_embedding_dim", self.time_width(), MAX_TIME_WIDTH)?;
        check_classes(self.num_class_embeds, self.null_class)?;
        let half = self.block_out_channels[0] / 2;
        if self.time_embedding_type == TimeEmbeddingType::Positional && half <= self.freq_shift {
            return invalid(format!(
                "freq_shift is {}; it must be below half of block_out_channels[0], which is {}",
                self.freq_shift, self.block_out_channels[0]
            ));
        }
        Ok(())
    }

    fn check_groups(&self) -> Result<()> {
        let last = self.block_out_channels.len() - 1;
        let in_levels = (0..=last).map(|level| ("norm_num_groups", self.norm_num_groups, level));
        let in_middle =
            self.attn_norm_num_groups.map(|groups| ("attn_norm_num_groups", groups, last));
        for (field, groups, level) in in_levels.chain(in_middle) {
            let width = self.block_out_channels[level];
            if groups == 0 || !width.is_multiple_of(groups) {
                return invalid(format!(
                    "{field} is {groups}; \
                     it must divide block_out_channels[{level}], which is {width}"
                ));
            }
        }
        Ok(())
    }
}

/// Checks the size of the class embedding table.
pub(crate) fn check_classes(num_class_embeds: Option<usize>, null_class: bool) -> Result<()> {
    check_range("num_class_embeds", num_class_embeds.unwrap_or(1), MAX_CLASSES)?;
    if null_class && num_class_embeds.is_none_or(|rows| rows < 2) {
        return invalid("null_class is true; num_class_embeds must then be at least 2".to_owned());
    }
    Ok(())
}

fn check_range(field: &str, value: usize, largest: usize) -> Result<()> {
    if (1..=largest).contains(&value) {
        return Ok(());
    }
    invalid(format!("{field} is {value}; it must be from 1 to {largest}"))
}

pub(crate) fn invalid<T>(problem: String) -> Result<T> {
    Err(Error::Msg(problem))
}
