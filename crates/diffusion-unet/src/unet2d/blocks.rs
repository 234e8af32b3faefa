//! The down blocks, the middle block and the up blocks of the configurable U-Net.

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

/// A residual block, followed by attention if its level has attention.
#[derive(Clone, Debug)]
struct Layer {
    resnet: ResidualBlock,
    attention: Option<Attention>,
}

impl Layer {
    /// One layer for each number of input channels in `inputs`, all with `outputs` output channels.
    fn stack(
        config: &UNet2DConfig,
        inputs: impl Iterator<Item = usize>,
        outputs: usize,
        has_attention: bool,
        vb: &VarBuilder<'_>,
    ) -> Result<Vec<Self>> {
        let layer = |(i, inputs)| {
            let resnet =
                residual_block(config, inputs, outputs, None, vb.pp(format!("resnets.{i}")))?;
            let groups = Some(config.norm_num_groups);
            let attention = || attention(config, outputs, groups, vb.pp(format!("attentions.{i}")));
            Ok(Self { resnet, attention: has_attention.then(attention).transpose()? })
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

/// The change of resolution at the end of a level.
#[derive(Clone, Debug)]
enum Resampler {
    /// Halves height and width by a convolution with stride 2.
    Halving(Conv2d),
    /// Doubles height and width by nearest-neighbour upsampling and a convolution.
    Doubling(Conv2d),
    /// Halves or doubles them by a residual block.
    Resnet(Box<ResidualBlock>),
}

impl Resampler {
    fn halving(
        config: &UNet2DConfig,
        channels: usize,
        resample_type: ResampleType,
        vb: VarBuilder<'_>,
    ) -> Result<Self> {
        if resample_type == ResampleType::Resnet {
            return Self::resnet(config, channels, Resample::Halve, vb);
        }
        let padding = Padding { before: config.downsample_padding, after: 1 };
        let conv = Conv2dConfig { stride: 2, padding, ..Conv2dConfig::default() };
        Ok(Self::Halving(conv2d(channels, channels, conv, vb.pp("conv"))?))
    }

    fn doubling(
        config: &UNet2DConfig,
        channels: usize,
        resample_type: ResampleType,
        vb: VarBuilder<'_>,
    ) -> Result<Self> {
        if resample_type == ResampleType::Resnet {
            return Self::resnet(config, channels, Resample::Double, vb);
        }
        Ok(Self::Doubling(conv2d(channels, channels, Conv2dConfig::default(), vb.pp("conv"))?))
    }

    fn resnet(
        config: &UNet2DConfig,
        channels: usize,
        resample: Resample,
        vb: VarBuilder<'_>,
    ) -> Result<Self> {
        let block = residual_block(config, channels, channels, Some(resample), vb)?;
        Ok(Self::Resnet(Box::new(block)))
    }

    fn forward(&self, x: &FeatureMap, pass: &mut Pass) -> Result<FeatureMap> {
        match self {
            Self::Halving(conv) => conv.forward(x),
            Self::Doubling(conv) => conv.forward(&x.upsample_nearest2()?),
            Self::Resnet(block) => run(block, x, pass),
        }
    }
}

/// A down block: (N, Cin, H, W) to (N, Cout, H/2, W/2). The last one keeps H and W.
#[derive(Clone, Debug)]
pub(crate) struct DownBlock {
    layers: Vec<Layer>,
    downsampler: Option<Resampler>,
}

impl DownBlock {
    /// The down block of level `level`, from 0.
    ///
    /// # Errors
    /// If `vb` does not have a parameter, or has it in another shape.
    pub(crate) fn new(config: &UNet2DConfig, level: usize, vb: VarBuilder<'_>) -> Result<Self> {
        let widths = &config.block_out_channels;
        let (inputs, outputs) = (widths[level.saturating_sub(1)], widths[level]);
        let (has_attention, resample_type) = match config.down_block_types[level] {
            DownBlockType::DownBlock2D => (false, ResampleType::Conv),
            DownBlockType::AttnDownBlock2D => (true, config.downsample_type),
        };
        let inputs = std::iter::once(inputs).chain(std::iter::repeat(outputs));
        let inputs = inputs.take(config.layers_per_block);
        let layers = Layer::stack(config, inputs, outputs, has_attention, &vb)?;
        let downsampler =
            || Resampler::halving(config, outputs, resample_type, vb.pp("downsamplers.0"));
        let is_last = level + 1 == widths.len();
        Ok(Self { layers, downsampler: (!is_last).then(downsampler).transpose()? })
    }

    /// Applies the block to `x` (N, Cin, H, W) and pushes the skip connections for the up blocks
    /// onto `skips`.
    ///
    /// # Errors
    /// If the shapes do not fit.
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

/// The middle block: a residual block, optional attention, a residual block. The shape (N, C, H, W)
/// stays the same.
#[derive(Clone, Debug)]
pub(crate) struct MidBlock {
    first: ResidualBlock,
    attention: Option<Attention>,
    second: ResidualBlock,
    /// The divisor of the output of each of them.
    scale_factor: f64,
}

impl MidBlock {
    /// The middle block, as wide as the deepest level.
    ///
    /// # Errors
    /// If `vb` does not have a parameter, or has it in another shape.
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
            scale_factor: config.mid_block_scale_factor,
        })
    }

    /// Applies the block to `x` (N, C, H, W).
    ///
    /// # Errors
    /// If the shapes do not fit.
    pub(crate) fn forward(&self, x: &FeatureMap, pass: &mut Pass) -> Result<FeatureMap> {
        let mut x = self.scaled(run(&self.first, x, pass)?)?;
        if let Some(attention) = &self.attention {
            x = self.scaled(attention.forward(&x)?)?;
        }
        self.scaled(run(&self.second, &x, pass)?)
    }

    fn scaled(&self, x: FeatureMap) -> Result<FeatureMap> {
        if self.scale_factor == 1.0 {
            return Ok(x);
        }
        FeatureMap::from_images(&x.to_images()?.affine(1.0 / self.scale_factor, 0.0)?)
    }
}

/// An up block: (N, Cin, H, W) to (N, Cout, 2·H, 2·W). The last one keeps H and W.
#[derive(Clone, Debug)]
pub(crate) struct UpBlock {
    layers: Vec<Layer>,
    upsampler: Option<Resampler>,
}

impl UpBlock {
    /// The up block of level `level`, from 0 for the deepest.
    ///
    /// # Errors
    /// If `vb` does not have a parameter, or has it in another shape.
    pub(crate) fn new(config: &UNet2DConfig, level: usize, vb: VarBuilder<'_>) -> Result<Self> {
        let widths: Vec<usize> = config.block_out_channels.iter().rev().copied().collect();
        let last = widths.len() - 1;
        let (below, outputs, above) =
            (widths[level.saturating_sub(1)], widths[level], widths[(level + 1).min(last)]);
        let (has_attention, resample_type) = match config.up_block_types[level] {
            UpBlockType::UpBlock2D => (false, ResampleType::Conv),
            UpBlockType::AttnUpBlock2D => (true, config.upsample_type),
        };
        // The skip connections of this level's down block, last one first, and then the input of
        // that block.
        let layers = config.layers_per_block;
        let skips = std::iter::repeat_n(outputs, layers).chain([above]);
        let hidden = std::iter::once(below).chain(std::iter::repeat_n(outputs, layers));
        let inputs = hidden.zip(skips).map(|(hidden, skip)| hidden + skip);
        let layers = Layer::stack(config, inputs, outputs, has_attention, &vb)?;
        let upsampler =
            || Resampler::doubling(config, outputs, resample_type, vb.pp("upsamplers.0"));
        Ok(Self { layers, upsampler: (level != last).then(upsampler).transpose()? })
    }

    /// Applies the block to `x` (N, Cin, H, W). Pops one skip connection per layer from `skips`.
    ///
    /// # Errors
    /// If the shapes do not fit.
    pub(crate) fn forward(
        &self,
        x: FeatureMap,
        pass: &mut Pass,
        skips: &mut Vec<FeatureMap>,
    ) -> Result<FeatureMap> {
        let mut x = x;
        for layer in &self.layers {
            // The first convolution and the layers and downsampler of each down block pushed one
            // each, as many as the up blocks have layers.
            let skip = skips.pop().expect("one skip connection per layer of the up blocks");
            x = layer.forward(&x.cat(&skip)?, pass)?;
        }
        match &self.upsampler {
            Some(upsampler) => upsampler.forward(&x, pass),
            None => Ok(x),
        }
    }
}
