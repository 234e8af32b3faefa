//! The configurable network, with attention, classes and several time embeddings.

mod blocks;
mod config;

use candle_core::{Result, Tensor};
use candle_nn::VarBuilder;
use diffusion_kernels::{self as kernels, Activation, FeatureMap, in_parts, in_pool};
use diffusion_nn::{
    ClassEmbedding, Conv2d, Conv2dConfig, Dropout, DropoutNoise, FourierEmbedding, GroupNorm,
    Initialisation, TimeEmbedding, TimeFeatures, TimestepEmbedding, conv2d, count_parameters,
    group_norm,
};
use diffusion_process::Network;

use crate::TrainingNetwork;
use crate::conditioning::{self, AUGMENTATION, Conditioning, check_counts};
use blocks::{DownBlock, MidBlock, Pass, UpBlock};
use config::invalid;

pub(crate) use config::check_classes;
pub use config::{
    DownBlockType, ResampleType, TimeEmbeddingType, TimeScaleShift, UNet2DConfig, UpBlockType,
};

/// The largest number of parameters: the weights alone then take 8 GiB.
const MAX_PARAMETERS: usize = 1 << 31;

/// A U-Net of any depth with attention at any level: the network of Ho et al. 2020 and
/// `UNet2DModel` of diffusers, with the parameter names of the latter.
///
/// ```text
/// x ─ conv_in ─ down_blocks.0 ──────────────── up_blocks.L−1 ─ conv_norm_out ─ SiLU ─ conv_out
///                └ … down_blocks.L−1 ─ mid_block ─ up_blocks.0 … ┘
/// ```
///
/// Each layer of the up blocks also takes the output of one layer of the down blocks, the last one
/// first.
///
/// ```
/// use candle_core::{DType, Device, Tensor};
/// use diffusion_nn::Parameters;
/// use diffusion_process::Network;
/// use diffusion_unet::{DownBlockType, UNet2D, UNet2DConfig, UpBlockType};
///
/// let config = UNet2DConfig {
///     block_out_channels: vec![8, 16],
///     down_block_types: vec![DownBlockType::DownBlock2D, DownBlockType::AttnDownBlock2D],
///     up_block_types: vec![UpBlockType::AttnUpBlock2D, UpBlockType::UpBlock2D],
///     norm_num_groups: 4,
///     num_class_embeds: Some(10),
///     ..UNet2DConfig::default()
/// };
/// let (unet, _) = Parameters::initialise(0, &Device::Cpu, |vb| UNet2D::new(&config, vb))?;
/// let x_t = Tensor::zeros((2, 3, 8, 8), DType::F32, &Device::Cpu)?;
/// let timesteps = Tensor::new(&[3f32, 150.0], &Device::Cpu)?;
/// assert_eq!(unet.forward_classes(&x_t, &timesteps, &[Some(4), Some(9)])?.dims(), x_t.dims());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
pub struct UNet2D {
    config: UNet2DConfig,
    conditioning: Conditioning,
    conv_in: Conv2d,
    down_blocks: Vec<DownBlock>,
    mid_block: MidBlock,
    up_blocks: Vec<UpBlock>,
    conv_norm_out: GroupNorm,
    conv_out: Conv2d,
}

impl UNet2D {
    /// The layers that take images or classes or give the output. The others are hidden layers.
    pub(crate) const OUTER_LAYERS: &'static [&'static str] =
        &["conv_in", "class_embedding", AUGMENTATION, "conv_out"];

    /// The network with parameters from `vb`.
    ///
    /// If a level has as many groups as channels and the time embedding is added, the normalisation
    /// cancels it, and the level cannot see the timestep. A warning is logged.
    ///
    /// # Errors
    /// - If the configuration is invalid, or has more than 2³¹ parameters. The error gives the
    ///   field and its value.
    /// - If `vb` does not have a parameter, or has it in another shape.
    pub fn new(config: &UNet2DConfig, vb: VarBuilder<'_>) -> Result<Self> {
        config.validate()?;
        let parameters = count_parameters(|vb| Self::with_parameters(config, vb))?;
        if parameters > MAX_PARAMETERS {
            return invalid(format!(
                "block_out_channels {:?} with layers_per_block {} \
                 would have {parameters} parameters; at most {MAX_PARAMETERS} are supported",
                config.block_out_channels, config.layers_per_block
            ));
        }
        let groups = config.norm_num_groups;
        if config.resnet_time_scale_shift == TimeScaleShift::Default
            && config.block_out_channels.contains(&groups)
        {
            tracing::warn!(
                "norm_num_groups is {groups}, as many as a level has channels: the normalisation \
                 cancels the time embedding, and this level cannot see the timestep; \
                 use fewer groups, or scale_shift"
            );
        }
        Self::with_parameters(config, vb)
    }

    fn with_parameters(config: &UNet2DConfig, vb: VarBuilder<'_>) -> Result<Self> {
        let (first, levels) = (config.block_out_channels[0], config.block_out_channels.len());
        let patch_pixels = config.patch_size * config.patch_size;
        let (inputs, outputs) =
            (config.in_channels * patch_pixels, config.out_channels * patch_pixels);
        let init =
            if config.zero_init_output { Initialisation::Zeros } else { Initialisation::PyTorch };
        let down = |level| DownBlock::new(config, level, vb.pp(format!("down_blocks.{level}")));
        let up = |level| UpBlock::new(config, level, vb.pp(format!("up_blocks.{level}")));
        Ok(Self {
            conditioning: embeddings(config, &vb)?,
            conv_in: conv2d(inputs, first, Conv2dConfig::default(), vb.pp("conv_in"))?,
            down_blocks: (0..levels).map(down).collect::<Result<_>>()?,
            mid_block: MidBlock::new(config, vb.pp("mid_block"))?,
            up_blocks: (0..levels).map(up).collect::<Result<_>>()?,
            conv_norm_out: group_norm(
                config.norm_num_groups,
                first,
                config.norm_eps,
                vb.pp("conv_norm_out"),
            )?,
            conv_out: conv2d(
                first,
                outputs,
                Conv2dConfig { init, ..Conv2dConfig::default() },
                vb.pp("conv_out"),
            )?,
            config: config.clone(),
        })
    }

    fn forward_with(
        &self,
        x_t: &Tensor,
        timesteps: &Tensor,
        classes: &[Option<u32>],
        augmentation: Option<&Tensor>,
        dropout: Option<Dropout>,
    ) -> Result<Tensor> {
        let (images, _, height, width) = x_t.dims4()?;
        let multiple = self.config.size_multiple();
        if !height.is_multiple_of(multiple) || !width.is_multiple_of(multiple) {
            return invalid(format!(
                "images are {height}×{width}; with {} levels and patch_size {} \
                 both sides must be multiples of {multiple}",
                self.config.block_out_channels.len(),
                self.config.patch_size
            ));
        }
        check_counts(images, timesteps, classes)?;
        let conditioned = |timesteps: &Tensor, classes: &[_], augmentation: Option<&Tensor>| {
            kernels::silu(&self.conditioning.forward(timesteps, classes, augmentation)?)
        };
        if dropout.is_some() {
            return in_pool(|| {
                let time = conditioned(timesteps, classes, augmentation)?;
                self.forward_images(x_t, timesteps, Pass { time, dropout })
            });
        }
        in_parts(x_t, self.conv_in.is_trainable(), |x_t, part| {
            let of_part = |tensor: &Tensor| tensor.narrow(0, part.start, part.len());
            let augmentation = augmentation.map(of_part).transpose()?;
            let timesteps = of_part(timesteps)?;
            let time = conditioned(&timesteps, &classes[part.clone()], augmentation.as_ref())?;
            self.forward_images(x_t, &timesteps, Pass { time, dropout: None })
        })
    }

    fn forward_images(&self, x_t: &Tensor, timesteps: &Tensor, mut pass: Pass) -> Result<Tensor> {
        let output = self.forward_conditioned(x_t, &mut pass)?;
        match self.config.time_embedding_type {
            TimeEmbeddingType::Positional => Ok(output),
            TimeEmbeddingType::Fourier => {
                output.broadcast_div(&timesteps.to_dtype(output.dtype())?.reshape(((), 1, 1, 1))?)
            }
        }
    }

    fn forward_conditioned(&self, x_t: &Tensor, pass: &mut Pass) -> Result<Tensor> {
        let x_t =
            if self.config.center_input_sample { x_t.affine(2.0, -1.0)? } else { x_t.clone() };
        let patched = to_patches(&x_t, self.config.patch_size)?;
        let mut x = self.conv_in.forward(&FeatureMap::from_images(&patched)?)?;
        let mut skips = vec![x.clone()];
        for block in &self.down_blocks {
            x = block.forward(x, pass, &mut skips)?;
        }
        x = self.mid_block.forward(&x, pass)?;
        for block in &self.up_blocks {
            x = block.forward(x, pass, &mut skips)?;
        }
        let x = self.conv_norm_out.forward(&x, Activation::Silu)?;
        from_patches(&self.conv_out.forward(&x)?.to_images()?, self.config.patch_size)
    }
}

/// The embeddings of time, class and augmentation, with the parameters `time_embedding` and, if the
/// network has them, `time_proj`, `class_embedding` and `augment_embedding`.
fn embeddings(config: &UNet2DConfig, vb: &VarBuilder<'_>) -> Result<Conditioning> {
    let (first, width) = (config.block_out_channels[0], config.time_width());
    let features = match config.time_embedding_type {
        TimeEmbeddingType::Positional => TimeFeatures::Positional(TimestepEmbedding::new(
            first,
            config.flip_sin_to_cos,
            config.freq_shift as f64,
        )?),
        TimeEmbeddingType::Fourier => {
            TimeFeatures::Fourier(FourierEmbedding::new(first, vb.pp("time_proj"))?)
        }
    };
    let layers = [vb.pp("time_embedding.linear_1"), vb.pp("time_embedding.linear_2")];
    let classes =
        |rows| ClassEmbedding::new(rows, config.null_class, width, vb.pp("class_embedding"));
    Ok(Conditioning {
        time: TimeEmbedding::new(features, width, width, layers)?,
        classes: config.num_class_embeds.map(classes).transpose()?,
        augmentation: conditioning::augmentation(config.augmentation, width, vb)?,
    })
}

/// Turns the pixels of each square into channels: (N, C, H, W) to (N, C·side², H/side, W/side).
fn to_patches(x: &Tensor, side: usize) -> Result<Tensor> {
    if side == 1 {
        return Ok(x.clone());
    }
    let (n, c, h, w) = x.dims4()?;
    let split = x.reshape(vec![n, c, h / side, side, w / side, side])?;
    split.permute(vec![0, 1, 3, 5, 2, 4])?.reshape((n, c * side * side, h / side, w / side))
}

/// The inverse of [`to_patches`].
fn from_patches(x: &Tensor, side: usize) -> Result<Tensor> {
    if side == 1 {
        return Ok(x.clone());
    }
    let (n, c, h, w) = x.dims4()?;
    let c = c / (side * side);
    let split = x.reshape(vec![n, c, side, side, h, w])?;
    split.permute(vec![0, 1, 4, 2, 5, 3])?.reshape((n, c, h * side, w * side))
}

impl Network for UNet2D {
    fn forward(&self, x_t: &Tensor, timesteps: &Tensor) -> Result<Tensor> {
        self.forward_classes(x_t, timesteps, &vec![None; x_t.dims().first().copied().unwrap_or(0)])
    }

    /// # Errors
    /// - If height or width is not a multiple of [`UNet2DConfig::size_multiple`].
    /// - If the number of timesteps or classes is not the number of images.
    /// - If a class is unknown, or missing although the network needs one.
    /// - If a class is given to a network without classes.
    /// - With [`TimeEmbeddingType::Fourier`], if a timestep is not above 0.
    fn forward_classes(
        &self,
        x_t: &Tensor,
        timesteps: &Tensor,
        classes: &[Option<u32>],
    ) -> Result<Tensor> {
        self.forward_with(x_t, timesteps, classes, None, None)
    }
}

impl TrainingNetwork for UNet2D {
    fn forward_training(
        &self,
        x_t: &Tensor,
        timesteps: &Tensor,
        classes: &[Option<u32>],
        augmentation: Option<&Tensor>,
        noise: DropoutNoise,
    ) -> Result<Tensor> {
        let rate = self.config.dropout;
        let dropout = (rate > 0.0)
            .then(|| Dropout::new(rate, noise, x_t.dims().first().copied().unwrap_or(0)));
        self.forward_with(x_t, timesteps, classes, augmentation, dropout)
    }
}
