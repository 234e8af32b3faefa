//! The description of a network that a checkpoint carries.

use candle_core::Result;
use candle_nn::VarBuilder;
use diffusion_process::Network;
use serde::{Deserialize, Serialize};

use crate::simple::{SimpleUNet, SimpleUNetConfig};

/// Any network of this crate, as data. In TOML and JSON the field `kind` names the variant.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum NetworkConfig {
    /// A [`SimpleUNet`].
    SimpleUnet(SimpleUNetConfig),
}

impl NetworkConfig {
    /// The network with parameters from `vb`.
    ///
    /// # Errors
    /// A configuration that describes no network; parameters that `vb` does not have or has in another shape.
    pub fn build(&self, vb: VarBuilder<'_>) -> Result<Box<dyn Network + Send + Sync>> {
        match self {
            Self::SimpleUnet(config) => Ok(Box::new(SimpleUNet::new(config, vb)?)),
        }
    }

    /// Channels of the images that the network takes and gives.
    pub fn image_channels(&self) -> usize {
        match self {
            Self::SimpleUnet(config) => config.in_channels,
        }
    }

    /// Height and width of the images must be multiples of this.
    pub fn size_multiple(&self) -> usize {
        match self {
            Self::SimpleUnet(_) => SimpleUNet::SIZE_MULTIPLE,
        }
    }
}
