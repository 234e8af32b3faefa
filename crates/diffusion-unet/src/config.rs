//! The description of a network that a checkpoint carries.

use candle_core::{Result, Tensor};
use candle_nn::VarBuilder;
use diffusion_process::Network;
use serde::{Deserialize, Serialize};

use crate::dropout::DropoutNoise;
use crate::simple::{SimpleUNet, SimpleUNetConfig};
use crate::unet2d::{UNet2D, UNet2DConfig};

/// Any network of this crate, as data. In TOML and JSON the field `kind` names the variant.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum NetworkConfig {
    /// A [`SimpleUNet`].
    SimpleUnet(SimpleUNetConfig),
    /// A [`UNet2D`].
    Unet2d(UNet2DConfig),
}

/// A network as training sees it.
pub trait TrainingNetwork: Network {
    /// As [`Network::forward_classes`], with the dropout that the network was configured with, by `noise`.
    ///
    /// # Errors
    /// As there.
    fn forward_training(
        &self,
        x_t: &Tensor,
        timesteps: &Tensor,
        classes: &[Option<u32>],
        noise: DropoutNoise,
    ) -> Result<Tensor>;
}

impl TrainingNetwork for UNet2D {
    fn forward_training(
        &self,
        x_t: &Tensor,
        timesteps: &Tensor,
        classes: &[Option<u32>],
        noise: DropoutNoise,
    ) -> Result<Tensor> {
        UNet2D::forward_training(self, x_t, timesteps, classes, noise)
    }
}

impl TrainingNetwork for SimpleUNet {
    /// Has no dropout.
    fn forward_training(
        &self,
        x_t: &Tensor,
        timesteps: &Tensor,
        classes: &[Option<u32>],
        _: DropoutNoise,
    ) -> Result<Tensor> {
        self.forward_classes(x_t, timesteps, classes)
    }
}

impl NetworkConfig {
    /// The network with parameters from `vb`.
    ///
    /// # Errors
    /// A configuration that describes no network; parameters that `vb` does not have or has in another shape.
    pub fn build(&self, vb: VarBuilder<'_>) -> Result<Box<dyn Network + Send + Sync>> {
        match self {
            Self::SimpleUnet(config) => Ok(Box::new(SimpleUNet::new(config, vb)?)),
            Self::Unet2d(config) => Ok(Box::new(UNet2D::new(config, vb)?)),
        }
    }

    /// As [`build`](Self::build), for training.
    ///
    /// # Errors
    /// As there.
    pub fn build_for_training(&self, vb: VarBuilder<'_>) -> Result<Box<dyn TrainingNetwork + Send + Sync>> {
        match self {
            Self::SimpleUnet(config) => Ok(Box::new(SimpleUNet::new(config, vb)?)),
            Self::Unet2d(config) => Ok(Box::new(UNet2D::new(config, vb)?)),
        }
    }

    /// Whether the output begins with zeros, so that the other layers get no gradient before it has learned something.
    pub fn begins_with_zeros(&self) -> bool {
        matches!(self, Self::Unet2d(config) if config.zero_init_output)
    }

    /// Channels of the images that the network takes.
    pub fn image_channels(&self) -> usize {
        match self {
            Self::SimpleUnet(config) => config.in_channels,
            Self::Unet2d(config) => config.in_channels,
        }
    }

    /// The same network for images of `channels` channels. What it gives stays as many times as wide as what it takes.
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

    /// Channels of what the network gives.
    pub fn output_channels(&self) -> usize {
        match self {
            Self::SimpleUnet(config) => config.out_channels.unwrap_or(config.in_channels),
            Self::Unet2d(config) => config.out_channels,
        }
    }

    /// The same network with an output of `channels` channels: twice the images' where it is to learn a variance.
    #[must_use]
    pub fn with_output_channels(&self, channels: usize) -> Self {
        match self {
            Self::SimpleUnet(config) => {
                Self::SimpleUnet(SimpleUNetConfig { out_channels: Some(channels), ..config.clone() })
            }
            Self::Unet2d(config) => Self::Unet2d(UNet2DConfig { out_channels: channels, ..config.clone() }),
        }
    }

    /// The number of classes that the network knows, "none" not counted; 0 if it knows no classes.
    pub fn classes(&self) -> usize {
        let (rows, null_class) = match self {
            Self::SimpleUnet(config) => (config.num_class_embeds, config.null_class),
            Self::Unet2d(config) => (config.num_class_embeds, config.null_class),
        };
        rows.unwrap_or(0).saturating_sub(usize::from(null_class))
    }

    /// Whether the network can be told no class in particular: it knows no classes, or "none" besides.
    pub fn takes_no_class(&self) -> bool {
        let null_class = match self {
            Self::SimpleUnet(config) => config.null_class,
            Self::Unet2d(config) => config.null_class,
        };
        null_class || self.classes() == 0
    }

    /// The same network for `classes` classes, and for none in particular besides if `null_class`; with 0 classes, for none at all.
    #[must_use]
    pub fn with_classes(&self, classes: usize, null_class: bool) -> Self {
        let null_class = null_class && classes > 0;
        let num_class_embeds = (classes > 0).then_some(classes + usize::from(null_class));
        match self {
            Self::SimpleUnet(config) => {
                Self::SimpleUnet(SimpleUNetConfig { num_class_embeds, null_class, ..config.clone() })
            }
            Self::Unet2d(config) => {
                Self::Unet2d(UNet2DConfig { num_class_embeds, null_class, ..config.clone() })
            }
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
