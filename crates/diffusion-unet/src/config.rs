//! The description of a network, as stored in checkpoints.

use candle_core::{Device, Result, Tensor};
use candle_nn::VarBuilder;
use diffusion_nn::{DropoutNoise, Parameters};
use diffusion_process::Network;
use serde::{Deserialize, Serialize};

use crate::simple::{SimpleUNet, SimpleUNetConfig};
use crate::unet2d::{UNet2D, UNet2DConfig};

/// The description of a network of this crate, as data. In TOML and JSON the field `kind` names the
/// variant.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum NetworkConfig {
    /// A [`SimpleUNet`].
    SimpleUnet(SimpleUNetConfig),
    /// A [`UNet2D`].
    Unet2d(UNet2DConfig),
}

/// A network that can be trained.
pub trait TrainingNetwork: Network {
    /// The output of [`Network::forward_classes`] with the configured dropout, for pictures that
    /// were transformed as the labels `augmentation` (N, 9) say. `noise` determines which
    /// activations are removed.
    ///
    /// # Errors
    /// - If the network does not support the shapes.
    /// - If a class is unknown to the network, or missing although the network needs one.
    /// - If there are labels and the network has no augmentation.
    fn forward_training(
        &self,
        x_t: &Tensor,
        timesteps: &Tensor,
        classes: &[Option<u32>],
        augmentation: Option<&Tensor>,
        noise: DropoutNoise,
    ) -> Result<Tensor>;
}

impl NetworkConfig {
    /// The name of the parameter with the class embedding table.
    pub const CLASS_TABLE: &str = "class_embedding.weight";
    /// The name of the parameter of the augmentation, which has no effect in sampling.
    pub const AUGMENTATION: &str = "augment_embedding.weight";

    /// The network with parameters from `vb`.
    ///
    /// # Errors
    /// - If the configuration is invalid.
    /// - If `vb` does not have a parameter, or has it in another shape.
    pub fn build(&self, vb: VarBuilder<'_>) -> Result<Box<dyn Network + Send + Sync>> {
        Ok(self.build_for_training(vb)?)
    }

    /// The network with parameters from `vb`, for training.
    ///
    /// # Errors
    /// - If the configuration is invalid.
    /// - If `vb` does not have a parameter, or has it in another shape.
    pub fn build_for_training(
        &self,
        vb: VarBuilder<'_>,
    ) -> Result<Box<dyn TrainingNetwork + Send + Sync>> {
        match self {
            Self::SimpleUnet(config) => Ok(Box::new(SimpleUNet::new(config, vb)?)),
            Self::Unet2d(config) => Ok(Box::new(UNet2D::new(config, vb)?)),
        }
    }

    /// The network with newly initialised trainable parameters on `device`. The values of each are
    /// a function of (`seed`, name). The parameters have the network's outer layers set, see
    /// [`Parameters::is_hidden_matrix`].
    ///
    /// # Errors
    /// If the configuration is invalid.
    pub fn initialise(
        &self,
        seed: u64,
        device: &Device,
    ) -> Result<(Box<dyn TrainingNetwork + Send + Sync>, Parameters)> {
        let (network, parameters) =
            Parameters::initialise(seed, device, |vb| self.build_for_training(vb))?;
        let outer_layers = match self {
            Self::SimpleUnet(_) => SimpleUNet::OUTER_LAYERS,
            Self::Unet2d(_) => UNet2D::OUTER_LAYERS,
        };
        Ok((network, parameters.with_outer_layers(outer_layers)))
    }

    /// Whether the output layer is initialised with zeros. The other layers then get no gradient
    /// before the output layer has been updated.
    pub fn has_zero_init_output(&self) -> bool {
        matches!(self, Self::Unet2d(config) if config.zero_init_output)
    }

    /// Channels of the input images.
    pub fn image_channels(&self) -> usize {
        match self {
            Self::SimpleUnet(config) => config.in_channels,
            Self::Unet2d(config) => config.in_channels,
        }
    }

    /// The default configuration of the same kind of network.
    #[must_use]
    pub fn default_of_kind(&self) -> Self {
        match self {
            Self::SimpleUnet(_) => Self::SimpleUnet(SimpleUNetConfig::default()),
            Self::Unet2d(_) => Self::Unet2d(UNet2DConfig::default()),
        }
    }

    /// The same network for images of `channels` channels. The ratio of output channels to image
    /// channels stays the same.
    #[must_use]
    pub fn with_image_channels(&self, channels: usize) -> Self {
        let before = self.image_channels();
        let rescaled = |out: usize| channels.saturating_mul(out.checked_div(before).unwrap_or(1));
        match self {
            Self::SimpleUnet(config) => Self::SimpleUnet(SimpleUNetConfig {
                in_channels: channels,
                out_channels: config.out_channels.map(rescaled),
                ..config.clone()
            }),
            Self::Unet2d(config) => Self::Unet2d(UNet2DConfig {
                in_channels: channels,
                out_channels: rescaled(config.out_channels),
                ..config.clone()
            }),
        }
    }

    /// Channels of the output.
    pub fn output_channels(&self) -> usize {
        match self {
            Self::SimpleUnet(config) => config.out_channels.unwrap_or(config.in_channels),
            Self::Unet2d(config) => config.out_channels,
        }
    }

    /// The same network with `channels` output channels. A network with a learned variance needs
    /// twice as many as the images have.
    #[must_use]
    pub fn with_output_channels(&self, channels: usize) -> Self {
        match self {
            Self::SimpleUnet(config) => Self::SimpleUnet(SimpleUNetConfig {
                out_channels: Some(channels),
                ..config.clone()
            }),
            Self::Unet2d(config) => {
                Self::Unet2d(UNet2DConfig { out_channels: channels, ..config.clone() })
            }
        }
    }

    /// The number of classes, without the row for "no class". 0 if the network is unconditional.
    pub fn classes(&self) -> usize {
        let (rows, null_class) = match self {
            Self::SimpleUnet(config) => (config.num_class_embeds, config.null_class),
            Self::Unet2d(config) => (config.num_class_embeds, config.null_class),
        };
        rows.unwrap_or(0).saturating_sub(usize::from(null_class))
    }

    /// Whether the network can predict without a class: it is unconditional, or its table has a row
    /// for "no class".
    pub fn supports_unconditional(&self) -> bool {
        let null_class = match self {
            Self::SimpleUnet(config) => config.null_class,
            Self::Unet2d(config) => config.null_class,
        };
        null_class || self.classes() == 0
    }

    /// The same network for `classes` classes, with a row for "no class" if `null_class`. With 0
    /// classes the network is unconditional.
    #[must_use]
    pub fn with_classes(&self, classes: usize, null_class: bool) -> Self {
        let null_class = null_class && classes > 0;
        let num_class_embeds = (classes > 0).then_some(classes + usize::from(null_class));
        match self {
            Self::SimpleUnet(config) => Self::SimpleUnet(SimpleUNetConfig {
                num_class_embeds,
                null_class,
                ..config.clone()
            }),
            Self::Unet2d(config) => {
                Self::Unet2d(UNet2DConfig { num_class_embeds, null_class, ..config.clone() })
            }
        }
    }

    /// The same network, with or without a layer for the labels of augmentation.
    #[must_use]
    pub fn with_augmentation(&self, augmentation: bool) -> Self {
        match self {
            Self::SimpleUnet(config) => {
                Self::SimpleUnet(SimpleUNetConfig { augmentation, ..config.clone() })
            }
            Self::Unet2d(config) => Self::Unet2d(UNet2DConfig { augmentation, ..config.clone() }),
        }
    }

    /// Whether the network has a layer for the labels of augmentation.
    pub fn augmentation(&self) -> bool {
        match self {
            Self::SimpleUnet(config) => config.augmentation,
            Self::Unet2d(config) => config.augmentation,
        }
    }

    /// Height and width of the images must be multiples of this.
    pub fn size_multiple(&self) -> usize {
        match self {
            Self::SimpleUnet(_) => SimpleUNet::SIZE_MULTIPLE,
            Self::Unet2d(config) => config.size_multiple(),
        }
    }
}
