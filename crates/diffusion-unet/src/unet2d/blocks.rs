//! The levels of the configurable U-Net.

use candle_core::{Result, Tensor};
use candle_nn::VarBuilder;
use diffusion_kernels::{FeatureMap, Padding};
use diffusion_nn::{
    Attention, AttentionConfig, Conv2d, Conv2dConfig, Dropout, Resample, ResidualBlock,
    ResidualBlockConfig, ResidualBlockNames, conv2d,
};

use crate::unet2d::config::{DownBlockType, ResampleType, UNet2DConfig, UpBlockType};

/// The inputs that all blocks of one forward pass share.
pub(crate) struct Pass {
    /// The time embedding after its activation, (N, time width).
    pub(crate) time: Tensor,
    /// The dropout of a training pass.
    pub(crate) dropout: Option<Dropout>,
}

fn residual_block(
    config: &UNet2DConfig,
    inputs: usize,
    outputs: usize,
    resample: Option<Resample>,
    vb: VarBuilder<'_>,
) -> Result<ResidualBlock> {
    let config = ResidualBlockConfig {
        groups: config.norm_num_groups,
        eps: config.norm_eps,
        time_dim: config.time_width(),
        conditioning: config.resnet_time_scale_shift.conditioning(),
        resample,
        names: ResidualBlockNames::DIFFUSERS,
    };
    ResidualBlock::new(inputs, outputs, &config, vb)
}

fn run(block: &ResidualBlock, x: &FeatureMap, pass: &mut Pass) -> Result<FeatureMap> {
    block.forward(x, &pass.time, pass.dropout.as_mut())
}

fn attention(
    config: &UNet2DConfig,
    channels: usize,
    groups: Option<usize>,
    vb: VarBuilder<'_>,
) -> Result<Attention> {
    let (head_channels, eps) = (config.attention_head_dim, config.norm_eps);
    Attention::new(&AttentionConfig { channels, head_channels, groups, eps }, vb)
}

/// A residual block, followed by attention if its level has any.
#[derive(Clone, Debug)]
struct Layer {
    resnet: ResidualBlock,
    attention: Option<Attention>,
}

impl Layer {
    /// One layer for each number of input channels; all of them have `outputs`.
    fn several(
        config: &UNet2DConfig,
        inputs: impl Iterator<Item = usize>,
        outputs: usize,
        attends: bool,
        vb: &VarBuilder<'_>,
    ) -> Result<Vec<Self>> {
        let layer = |(i, inputs)| {
            let resnet =
                residual_block(config, inputs, outputs, None, vb.pp(format!("resnets.{i}")))?;
            let groups = Some(config.norm_num_groups);
            let attention = || attention(config, outputs, groups, vb.pp(format!("attentions.{i}")));
            Ok(Self { resnet, attention: attends.then(attention).transpose()? })
        };
        inputs.enumerate().map(layer).collect()
    }

    fn forward(&self, x: &FeatureMap, pass: &mut Pass) -> Result<FeatureMap> {
        let x = run(&self.resnet, x, pass)?;
        match &self.attention {
            Some(attention) => attention.forward(&x),
            None => Ok(x),
        }
    }
}

/// How a level ends: with images of another size.
#[derive(Clone, Debug)]
enum Resampler {
    /// A convolution with stride 2.
    Halving(Conv2d),
    /// A convolution after each pixel is repeated.
    Doubling(Conv2d),
    /// A residual block that resamples.
    Resnet(Box<ResidualBlock>),
}

impl Resampler {
    fn halving(
        config: &UNet2DConfig,
        channels: usize,
        by: ResampleType,
        vb: VarBuilder<'_>,
    ) -> Result<Self> {
        if by == ResampleType::Resnet {
            return Self::resnet(config, channels, Resample::Halve, vb);
        }
        let padding = Padding { before: config.downsample_padding, after: 1 };
        let conv = Conv2dConfig { stride: 2, padding, ..Conv2dConfig::default() };
        Ok(Self::Halving(conv2d(channels, channels, conv, vb.pp("conv"))?))
    }

    fn doubling(
        config: &UNet2DConfig,
        channels: usize,
        by: ResampleType,
        vb: VarBuilder<'_>,
    ) -> Result<Self> {
        if by == ResampleType::Resnet {
            return Self::resnet(config, channels, Resample::Double, vb);
        }
        Ok(Self::Doubling(conv2d(channels, channels, Conv2dConfig::default(), vb.pp("conv"))?))
    }

    fn resnet(
        config: &UNet2DConfig,
        channels: usize,
        how: Resample,
        vb: VarBuilder<'_>,
    ) -> Result<Self> {
        Ok(Self::Resnet(Box::new(residual_block(config, channels, channels, Some(how), vb)?)))
    }

    fn forward(&self, x: &FeatureMap, pass: &mut Pass) -> Result<FeatureMap> {
        match self {
            Self::Halving(conv) => conv.forward(x),
            Self::Doubling(conv) => conv.forward(&x.upsample_nearest2()?),
            Self::Resnet(block) => run(block, x, pass),
        }
    }
}

/// A level on the way down: (N, Cin, H, W) to (N, Cout, H/2, W/2), or with the last level's H and W.
#[derive(Clone, Debug)]
pub(crate) struct DownBlock {
    layers: Vec<Layer>,
    downsampler: Option<Resampler>,
}

impl DownBlock {
    /// Level `level` of the way down.
    ///
    /// # Errors
    /// Parameters that `vb` does not have.
    pub(crate) fn new(config: &UNet2DConfig, level: usize, vb: VarBuilder<'_>) -> Result<Self> {
        let widths = &config.block_out_channels;
        let (inputs, outputs) = (widths[level.saturating_sub(1)], widths[level]);
        let (attends, by) = match config.down_block_types[level] {
            DownBlockType::DownBlock2D => (false, ResampleType::Conv),
            DownBlockType::AttnDownBlock2D => (true, config.downsample_type),
        };
        let inputs = std::iter::once(inputs).chain(std::iter::repeat(outputs));
        let layers =
            Layer::several(config, inputs.take(config.layers_per_block), outputs, attends, &vb)?;
        let downsampler = || Resampler::halving(config, outputs, by, vb.pp("downsamplers.0"));
        let is_last = level + 1 == widths.len();
        Ok(Self { layers, downsampler: (!is_last).then(downsampler).transpose()? })
    }

    /// `x` (N, Cin, H, W). What the way up will take is put on `skips`.
    ///
    /// # Errors
    /// Shapes that do not fit.
    pub(crate) fn forward(
        &self,
        x: FeatureMap,
        pass: &mut Pass,
        skips: &mut Vec<FeatureMap>,
    ) -> Result<FeatureMap> {
        let mut x = x;
        for layer in &self.layers {
            x = layer.forward(&x, pass)?;
            skips.push(x.clone());
        }
        if let Some(downsampler) = &self.downsampler {
            x = downsampler.forward(&x, pass)?;
            skips.push(x.clone());
        }
        Ok(x)
    }
}

/// The middle: a residual block, attention if any, a residual block; (N, C, H, W) to the same.
#[derive(Clone, Debug)]
pub(crate) struct MidBlock {
    first: ResidualBlock,
    attention: Option<Attention>,
    second: ResidualBlock,
}

impl MidBlock {
    /// The middle of the deepest level's width.
    ///
    /// # Errors
    /// Parameters that `vb` does not have.
    pub(crate) fn new(config: &UNet2DConfig, vb: VarBuilder<'_>) -> Result<Self> {
        let channels = config.block_out_channels[config.block_out_channels.len() - 1];
        let resnet =
            |i| residual_block(config, channels, channels, None, vb.pp(format!("resnets.{i}")));
        let groups = config.middle_attention_groups();
        let attention = || attention(config, channels, groups, vb.pp("attentions.0"));
        Ok(Self {
            first: resnet(0)?,
            attention: config.add_attention.then(attention).transpose()?,
            second: resnet(1)?,
        })
    }

    /// `x` (N, C, H, W).
    ///
    /// # Errors
    /// Shapes that do not fit.
    pub(crate) fn forward(&self, x: &FeatureMap, pass: &mut Pass) -> Result<FeatureMap> {
        let mut x = run(&self.first, x, pass)?;
        if let Some(attention) = &self.attention {
            x = attention.forward(&x)?;
        }
        run(&self.second, &x, pass)
    }
}

/// A level on the way up: (N, Cin, H, W) to (N, Cout, 2·H, 2·W), or with the last level's H and W.
#[derive(Clone, Debug)]
pub(crate) struct UpBlock {
    layers: Vec<Layer>,
    upsampler: Option<Resampler>,
}

impl UpBlock {
    /// Level `level` of the way up, counted from the deepest.
    ///
    /// # Errors
    /// Parameters that `vb` does not have.
    pub(crate) fn new(config: &UNet2DConfig, level: usize, vb: VarBuilder<'_>) -> Result<Self> {
        let widths: Vec<usize> = config.block_out_channels.iter().rev().copied().collect();
        let last = widths.len() - 1;
        let (below, outputs, above) =
            (widths[level.saturating_sub(1)], widths[level], widths[(level + 1).min(last)]);
        let (attends, by) = match config.up_block_types[level] {
            UpBlockType::UpBlock2D => (false, ResampleType::Conv),
            UpBlockType::AttnUpBlock2D => (true, config.upsample_type),
        };
        // The skips of this level on the way down and, below them, what came into it.
        let layers = config.layers_per_block;
        let skips = std::iter::repeat_n(outputs, layers).chain([above]);
        let hidden = std::iter::once(below).chain(std::iter::repeat_n(outputs, layers));
        let inputs = hidden.zip(skips).map(|(hidden, skip)| hidden + skip);
        let layers = Layer::several(config, inputs, outputs, attends, &vb)?;
        let upsampler = || Resampler::doubling(config, outputs, by, vb.pp("upsamplers.0"));
        Ok(Self { layers, upsampler: (level != last).then(upsampler).transpose()? })
    }

    /// `x` (N, Cin, H, W); the last of `skips` are taken.
    ///
    /// # Errors
    /// Shapes that do not fit.
    pub(crate) fn forward(
        &self,
        x: FeatureMap,
        pass: &mut Pass,
        skips: &mut Vec<FeatureMap>,
    ) -> Result<FeatureMap> {
        let mut x = x;
        for layer in &self.layers {
            // The first convolution and each level's layers and downsampler gave one each: as many as
            // there are here.
            let skip = skips.pop().expect("there is a skip for each layer on the way up");
            x = layer.forward(&x.cat(&skip)?, pass)?;
        }
        match &self.upsampler {
            Some(upsampler) => upsampler.forward(&x, pass),
            None => Ok(x),
        }
    }
}
