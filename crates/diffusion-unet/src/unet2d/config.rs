//! The description of a configurable U-Net, and its validation.

use candle_core::{Error, Result};
use diffusion_kernels::TimeConditioning;
use serde::{Deserialize, Serialize};

/// A level on the way down.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum DownBlockType {
    /// Residual blocks.
    DownBlock2D,
    /// Residual blocks, each followed by attention.
    AttnDownBlock2D,
}

/// A level on the way up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum UpBlockType {
    /// Residual blocks.
    UpBlock2D,
    /// Residual blocks, each followed by attention.
    AttnUpBlock2D,
}

/// What the time embedding does in a residual block.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TimeScaleShift {
    /// It is added between the convolutions (Ho et al. 2020).
    #[default]
    Default,
    /// It scales and shifts the second normalisation's output (Dhariwal & Nichol 2021).
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

/// How a level with attention changes the size of its images. Levels without attention always convolve.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ResampleType {
    /// A convolution: with stride 2, or after each pixel is repeated.
    #[default]
    Conv,
    /// A residual block that resamples on both of its ways.
    Resnet,
}

/// The features of the timestep that the embedding starts from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TimeEmbeddingType {
    /// Sinusoids of fixed frequencies (Ho et al. 2020).
    #[default]
    Positional,
    /// Sinusoids of ln(t) with random frequencies, for timesteps that are noise levels (Song et al.
    /// 2021). The output is divided by t.
    Fourier,
}

/// A [`crate::UNet2D`]. Names, values and defaults are those of `UNet2DModel` in diffusers, but for
/// `attention_head_dim`, whose default there is 8; what is missing here, this network does not vary:
/// SiLU, a middle block, no scaling of outputs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[allow(clippy::struct_excessive_bools)] // The library's settings, which are independent of each other.
pub struct UNet2DConfig {
    /// Channels of the images.
    pub in_channels: usize,
    /// Channels of the output.
    pub out_channels: usize,
    /// The width of each level; each but the last halves the images' sides.
    pub block_out_channels: Vec<usize>,
    /// Residual blocks in a level on the way down; there is one more on the way up.
    pub layers_per_block: usize,
    /// The levels on the way down, as many as there are widths.
    pub down_block_types: Vec<DownBlockType>,
    /// The levels on the way up, the deepest first.
    pub up_block_types: Vec<UpBlockType>,
    /// Whether there is attention between the middle's two residual blocks.
    pub add_attention: bool,
    /// Channels of an attention head; there are as many heads as fit into the level's width. None: one
    /// head.
    pub attention_head_dim: Option<usize>,
    /// Groups of every normalisation; must divide all of `block_out_channels`.
    pub norm_num_groups: usize,
    /// Added to the variance in every normalisation, above 0.
    pub norm_eps: f64,
    /// Groups of the normalisation in the middle's attention. None: `norm_num_groups`, but with
    /// `scale_shift` no normalisation.
    pub attn_norm_num_groups: Option<usize>,
    /// What the time embedding does in a residual block.
    pub resnet_time_scale_shift: TimeScaleShift,
    /// How levels with attention halve the images.
    pub downsample_type: ResampleType,
    /// How levels with attention double them.
    pub upsample_type: ResampleType,
    /// Zeros around the images that a convolution halves: 1 on all sides, or with 0 one below and to the
    /// right.
    pub downsample_padding: usize,
    /// The features of the timestep.
    pub time_embedding_type: TimeEmbeddingType,
    /// The width of the time embedding. None: four times the first level's.
    pub time_embedding_dim: Option<usize>,
    /// Positional features begin with the cosines.
    pub flip_sin_to_cos: bool,
    /// The last positional frequency is 1/10000 with 1, a little higher with 0.
    pub freq_shift: usize,
    /// Rows of the table of classes. None: the network is unconditional.
    pub num_class_embeds: Option<usize>,
    /// The share of a residual block's activations that training removes, in [0, 1).
    pub dropout: f64,
    /// Images come in [0, 1] and are brought to [−1, 1] first.
    pub center_input_sample: bool,
    /// Begin with an output of zeros, as Ho et al. 2020 do: the first updates then reach the last layer
    /// only. Not a setting of the library's, since it leaves no trace in a trained network.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub zero_init_output: bool,
    /// The side of the squares of pixels that the network takes as one, their values as channels
    /// (Hoogeboom et al. 2023, section 3.2): 2 spares the level with the most pixels. Not a setting of
    /// the library's: such a network cannot be exported.
    #[serde(skip_serializing_if = "is_one")]
    pub patch_size: usize,
    /// The last row of that table stands for "no class", as classifier-free guidance needs it.
    /// Not a setting of the library's, where it is up to the user what a row stands for.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub null_class: bool,
}

#[allow(clippy::trivially_copy_pass_by_ref)] // serde's wish
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
        }
    }
}

/// Larger values are mistakes or come from a damaged file.
const MAX_WIDTH: usize = 4096;
const MAX_PATCH: usize = 16;
const MAX_TIME_WIDTH: usize = 4 * MAX_WIDTH;
const MAX_LEVELS: usize = 10;
const MAX_LAYERS: usize = 32;
const MAX_CLASSES: usize = 1_000_000;

impl UNet2DConfig {
    /// Height and width of the images must be multiples of this: they are divided by the patches, and
    /// halved by each level but the last.
    pub fn size_multiple(&self) -> usize {
        let halvings = self.block_out_channels.len().saturating_sub(1);
        self.patch_size << halvings.min(MAX_LEVELS)
    }

    /// The width of the time embedding.
    pub(crate) fn time_width(&self) -> usize {
        let first = self.block_out_channels.first().copied().unwrap_or_default();
        self.time_embedding_dim.unwrap_or(first.saturating_mul(4))
    }

    /// Groups of the normalisation in the middle's attention, if it has one.
    pub(crate) fn middle_attention_groups(&self) -> Option<usize> {
        match self.resnet_time_scale_shift {
            TimeScaleShift::Default => {
                Some(self.attn_norm_num_groups.unwrap_or(self.norm_num_groups))
            }
            TimeScaleShift::ScaleShift => self.attn_norm_num_groups,
        }
    }

    /// The widths on which there is attention.
    fn attention_widths(&self) -> impl Iterator<Item = usize> {
        let widths = &self.block_out_channels;
        let down =
            self.down_block_types.iter().map(|level| *level == DownBlockType::AttnDownBlock2D);
        let up = self.up_block_types.iter().map(|level| *level == UpBlockType::AttnUpBlock2D);
        let middle = std::iter::once(&self.block_out_channels[widths.len() - 1]);
        let levels = widths.iter().zip(down).chain(widths.iter().rev().zip(up));
        let with_attention = |(width, attends): (&usize, bool)| attends.then_some(*width);
        levels.chain(middle.map(|width| (width, self.add_attention))).filter_map(with_attention)
    }

    /// An error that names the field and its value, if this describes no network.
    pub(crate) fn validate(&self) -> Result<()> {
        self.check_levels()?;
        self.check_widths()?;
        self.check_groups()?;
        if let Some(width) = self.attention_head_dim {
            let narrowest = self.attention_widths().min().unwrap_or(MAX_WIDTH);
            within("attention_head_dim", width, narrowest)?;
        }
        if !(self.norm_eps > 0.0 && self.norm_eps.is_finite()) {
            return refuse(format!("norm_eps is {}; it must be a number above 0", self.norm_eps));
        }
        if self.downsample_padding > 1 {
            return refuse(format!(
                "downsample_padding is {}; it must be 0 or 1",
                self.downsample_padding
            ));
        }
        if !(0.0..1.0).contains(&self.dropout) {
            return refuse(format!("dropout is {}; it must lie in [0, 1)", self.dropout));
        }
        Ok(())
    }

    fn check_levels(&self) -> Result<()> {
        let levels = self.block_out_channels.len();
        if !(1..=MAX_LEVELS).contains(&levels) {
            return refuse(format!(
                "block_out_channels has {levels} levels; there must be between 1 and {MAX_LEVELS}"
            ));
        }
        let lengths = [
            ("down_block_types", self.down_block_types.len()),
            ("up_block_types", self.up_block_types.len()),
        ];
        for (field, length) in lengths {
            if length != levels {
                return refuse(format!(
                    "{field} has {length} levels; it must have {levels}, as many as block_out_channels"
                ));
            }
        }
        Ok(())
    }

    fn check_widths(&self) -> Result<()> {
        within("in_channels", self.in_channels, MAX_WIDTH)?;
        within("out_channels", self.out_channels, MAX_WIDTH)?;
        within("patch_size", self.patch_size, MAX_PATCH)?;
        for (level, width) in self.block_out_channels.iter().enumerate() {
            within(&format!("block_out_channels[{level}]"), *width, MAX_WIDTH)?;
        }
        within("layers_per_block", self.layers_per_block, MAX_LAYERS)?;
        within("time_embedding_dim", self.time_width(), MAX_TIME_WIDTH)?;
        check_classes(self.num_class_embeds, self.null_class)?;
        let half = self.block_out_channels[0] / 2;
        if self.time_embedding_type == TimeEmbeddingType::Positional && half <= self.freq_shift {
            return refuse(format!(
                "freq_shift is {}; it must be below half of block_out_channels[0], which is {}",
                self.freq_shift, self.block_out_channels[0]
            ));
        }
        Ok(())
    }

    fn check_groups(&self) -> Result<()> {
        let last = self.block_out_channels.len() - 1;
        let of_levels = (0..=last).map(|level| ("norm_num_groups", self.norm_num_groups, level));
        let of_middle =
            self.attn_norm_num_groups.map(|groups| ("attn_norm_num_groups", groups, last));
        for (field, groups, level) in of_levels.chain(of_middle) {
            let width = self.block_out_channels[level];
            if groups == 0 || !width.is_multiple_of(groups) {
                return refuse(format!(
                    "{field} is {groups}; it must divide block_out_channels[{level}], which is {width}"
                ));
            }
        }
        Ok(())
    }
}

/// Refuses tables of classes that cannot be.
pub(crate) fn check_classes(num_class_embeds: Option<usize>, null_class: bool) -> Result<()> {
    within("num_class_embeds", num_class_embeds.unwrap_or(1), MAX_CLASSES)?;
    if null_class && num_class_embeds.is_none_or(|rows| rows < 2) {
        return refuse("null_class is true; it needs num_class_embeds of 2 at least".to_owned());
    }
    Ok(())
}

fn within(field: &str, value: usize, largest: usize) -> Result<()> {
    if (1..=largest).contains(&value) {
        return Ok(());
    }
    refuse(format!("{field} is {value}; it must lie between 1 and {largest}"))
}

pub(crate) fn refuse<T>(problem: String) -> Result<T> {
    Err(Error::Msg(problem))
}
