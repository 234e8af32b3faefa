//! Residual blocks, and the parameter names of both families of networks.

use candle_core::{Result, Tensor};
use candle_nn::{Module, VarBuilder};
use diffusion_kernels::{self as kernels, Activation, DropoutMask, FeatureMap, TimeConditioning};

use crate::{Conv2d, Conv2dConfig, Dropout, GroupNorm, Linear, conv2d, group_norm, linear};

/// A change of the image size inside a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resample {
    /// Average pooling over 2 × 2 pixels.
    Halve,
    /// Nearest-neighbour upsampling: each pixel becomes 2 × 2.
    Double,
}

impl Resample {
    fn forward(self, x: &FeatureMap) -> Result<FeatureMap> {
        match self {
            Self::Halve => x.avg_pool2(),
            Self::Double => x.upsample_nearest2(),
        }
    }
}

/// The names of the layers of a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ResidualBlockNames {
    /// The first normalisation.
    pub norm1: &'static str,
    /// The first convolution.
    pub conv1: &'static str,
    /// The projection of the time embedding.
    pub time: &'static str,
    /// The second normalisation.
    pub norm2: &'static str,
    /// The second convolution.
    pub conv2: &'static str,
    /// The 1×1 convolution of the skip connection.
    pub skip: &'static str,
}

impl ResidualBlockNames {
    /// The names in PyTorch for two `nn.Sequential(GroupNorm, SiLU, Conv2d)`.
    pub const SEQUENTIAL: Self = Self {
        norm1: "conv1.0",
        conv1: "conv1.2",
        time: "time_proj",
        norm2: "conv2.0",
        conv2: "conv2.2",
        skip: "skip",
    };

    /// The names of `ResnetBlock2D` in diffusers.
    pub const DIFFUSERS: Self = Self {
        norm1: "norm1",
        conv1: "conv1",
        time: "time_emb_proj",
        norm2: "norm2",
        conv2: "conv2",
        skip: "conv_shortcut",
    };
}

/// The settings of a [`ResidualBlock`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ResidualBlockConfig {
    /// Groups of both normalisations.
    pub groups: usize,
    /// The ε that both normalisations add to the variance.
    pub eps: f64,
    /// Width of the time embedding.
    pub time_dim: usize,
    /// How the time embedding enters the block.
    pub conditioning: TimeConditioning,
    /// A change of size before the first convolution and on the skip connection (Song et al. 2021).
    pub resample: Option<Resample>,
    /// The names of the parameters.
    pub names: ResidualBlockNames,
}

/// A residual block with a time embedding: (N, Cin, H, W) and (N, time_dim) to (N, Cout, H', W')
/// (Ho et al. 2020, appendix B).
///
/// It is twice (GroupNorm → SiLU → 3×3 convolution), with the time embedding between the two and a
/// skip connection around them.
#[derive(Clone, Debug)]
pub struct ResidualBlock {
    conditioning: TimeConditioning,
    resample: Option<Resample>,
    norm1: GroupNorm,
    conv1: Conv2d,
    time: Linear,
    norm2: GroupNorm,
    conv2: Conv2d,
    /// A 1×1 convolution if the number of channels changes.
    skip: Option<Conv2d>,
}

impl ResidualBlock {
    /// A block from `in_channels` to `out_channels` channels, with parameters from `vb`.
    ///
    /// If there are as many groups as output channels, the second normalisation removes what
    /// [`TimeConditioning::Add`] added, and the block cannot see the time.
    ///
    /// # Errors
    /// - If the groups do not divide `in_channels` or `out_channels`.
    /// - If `vb` does not have a parameter, or has it in another shape.
    pub fn new(
        in_channels: usize,
        out_channels: usize,
        config: &ResidualBlockConfig,
        vb: VarBuilder<'_>,
    ) -> Result<Self> {
        let &ResidualBlockConfig { groups, eps, time_dim, conditioning, resample, names } = config;
        let conv =
            |inputs, name| conv2d(inputs, out_channels, Conv2dConfig::default(), vb.pp(name));
        let skip =
            || conv2d(in_channels, out_channels, Conv2dConfig::pointwise(), vb.pp(names.skip));
        Ok(Self {
            conditioning,
            resample,
            norm1: group_norm(groups, in_channels, eps, vb.pp(names.norm1))?,
            conv1: conv(in_channels, names.conv1)?,
            time: linear(time_dim, conditioning.width(out_channels), vb.pp(names.time))?,
            norm2: group_norm(groups, out_channels, eps, vb.pp(names.norm2))?,
            conv2: conv(out_channels, names.conv2)?,
            skip: (in_channels != out_channels).then(skip).transpose()?,
        })
    }

    /// The output (N, Cout, H', W') for `x` (N, Cin, H, W) and the time embedding `time`
    /// (N, time_dim). `dropout` acts before the second convolution.
    ///
    /// # Errors
    /// - If the number of channels or images is not as expected.
    /// - With [`Resample::Halve`], if a side is odd.
    pub fn forward(
        &self,
        x: &FeatureMap,
        time: &Tensor,
        dropout: Option<&mut Dropout>,
    ) -> Result<FeatureMap> {
        let embedding = self.time.forward(time)?;
        let [images, _, height, width] = x.dims();
        let resampled = |side: usize| match self.resample {
            Some(Resample::Halve) => side / 2,
            Some(Resample::Double) => 2 * side,
            None => side,
        };
        let dims = [images, self.conv2.outputs(), resampled(height), resampled(width)];
        let mask = dropout.map(|dropout| dropout.mask(dims)).transpose()?;
        match self.fused(mask.as_ref()) {
            Some(block) => x.residual_block(&embedding, &block),
            None => self.forward_by_layers(x, &embedding, mask.as_ref()),
        }
    }

    /// The parameters of the fused kernel. `None` if the block changes the size or a convolution
    /// has no bias, which the fused kernel does not support.
    fn fused<'a>(&'a self, dropout: Option<&'a DropoutMask>) -> Option<kernels::ResidualBlock<'a>> {
        if self.resample.is_some() {
            return None;
        }
        Some(kernels::ResidualBlock {
            groups: self.norm1.groups,
            eps: self.norm1.eps,
            conditioning: self.conditioning,
            norm1: self.norm1.parameters(),
            conv1: self.conv1.parameters()?,
            norm2: self.norm2.parameters(),
            conv2: self.conv2.parameters()?,
            skip: match &self.skip {
                Some(skip) => Some(skip.parameters()?),
                None => None,
            },
            dropout,
        })
    }

    fn forward_by_layers(
        &self,
        x: &FeatureMap,
        embedding: &Tensor,
        dropout: Option<&DropoutMask>,
    ) -> Result<FeatureMap> {
        let resampled = |x: FeatureMap| match self.resample {
            Some(resample) => resample.forward(&x),
            None => Ok(x),
        };
        let hidden = resampled(self.norm1.forward(x, Activation::Silu)?)?;
        let hidden = self.conv1.forward(&hidden)?;
        let (hidden, modulation) = match self.conditioning {
            TimeConditioning::Add => (hidden.add_channel_embedding(embedding)?, None),
            TimeConditioning::ScaleShift => (hidden, Some(embedding)),
        };
        let mut hidden = self.norm2.forward_modulated(&hidden, modulation, Activation::Silu)?;
        if let Some(mask) = dropout {
            hidden = hidden.dropout(mask)?;
        }
        let hidden = self.conv2.forward(&hidden)?;
        let x = resampled(x.clone())?;
        match &self.skip {
            Some(skip) => hidden.add(&skip.forward(&x)?),
            None => hidden.add(&x),
        }
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{Device, Var};
    use diffusion_random::NoiseSource;

    use super::*;
    use crate::{DropoutNoise, Parameters};

    #[test]
    fn the_fused_block_computes_what_its_layers_do() {
        let noise = DropoutNoise { source: NoiseSource::new(0), draw: 0, first_index: 0 };
        let numbers =
            |shape: &[usize]| Var::randn(0f32, 1.0, shape, &Device::Cpu).expect("numbers");
        let (x, time) = (numbers(&[2, 8, 12, 12]), numbers(&[2, 6]));
        for conditioning in [TimeConditioning::Add, TimeConditioning::ScaleShift] {
            let config = ResidualBlockConfig {
                groups: 4,
                eps: 1e-5,
                time_dim: 6,
                conditioning,
                resample: None,
                names: ResidualBlockNames::DIFFUSERS,
            };
            let (block, parameters) = Parameters::initialise(0, &Device::Cpu, |vb| {
                ResidualBlock::new(8, 16, &config, vb)
            })
            .unwrap();
            let mask = Dropout::new(0.3, noise, 2).mask([2, 16, 12, 12]).unwrap();
            for mask in [None, Some(&mask)] {
                let results = |output: Result<FeatureMap>| {
                    let output = output.unwrap().to_images().unwrap();
                    let gradients = output.sqr().unwrap().sum_all().unwrap().backward().unwrap();
                    let of = |var: &Var| gradients.get(var).expect("a gradient").clone();
                    let mut all = vec![output, of(&x), of(&time)];
                    all.extend(parameters.iter().map(|(_, var)| of(var)));
                    all
                };
                let map = FeatureMap::from_images(&x).unwrap();
                let embedding = block.time.forward(&time).unwrap();
                let fused = block.fused(mask).expect("a block of one size");
                let fused = results(map.residual_block(&embedding, &fused));
                let by_layers = results(block.forward_by_layers(&map, &embedding, mask));
                for (i, (a, b)) in fused.iter().zip(&by_layers).enumerate() {
                    let largest = |x: &Tensor| {
                        let x = x.abs().unwrap().max_all().unwrap();
                        x.to_scalar::<f32>().unwrap()
                    };
                    let (worst, scale) = (largest(&(a - b).unwrap()), largest(b));
                    assert!(scale > 0.0 && worst <= 2e-5 * scale, "{i}: {worst} of {scale}");
                }
            }
        }
    }
}
