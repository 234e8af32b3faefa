//! How the configurable U-Net is told the timestep and the class.

use std::f64::consts::TAU;

use candle_core::{DType, Device, Result, Tensor};
use candle_nn::{Init, Module, VarBuilder};
use diffusion_kernels as kernels;
use diffusion_process::refuse_classes;

use crate::embedding::{ClassEmbedding, TimestepEmbedding};
use crate::layers::{Linear, linear};
use crate::unet2d::config::{TimeEmbeddingType, UNet2DConfig, refuse};

/// The spread of the random frequencies.
const FOURIER_SCALE: f64 = 16.0;

/// Features of a timestep.
#[derive(Clone, Debug)]
enum TimeFeatures {
    /// Of fixed frequencies.
    Positional(TimestepEmbedding),
    /// sin(2π·w·ln t), then cos(2π·w·ln t), for the frequencies w (Song et al. 2021, appendix C); they are drawn once
    /// and never trained.
    Fourier { frequencies: Tensor },
}

impl TimeFeatures {
    fn new(config: &UNet2DConfig, vb: VarBuilder<'_>) -> Result<Self> {
        let width = config.block_out_channels[0];
        match config.time_embedding_type {
            TimeEmbeddingType::Positional => {
                TimestepEmbedding::new(width, config.flip_sin_to_cos, config.freq_shift as f64)
                    .map(Self::Positional)
            }
            TimeEmbeddingType::Fourier => {
                let init = Init::Randn { mean: 0.0, stdev: FOURIER_SCALE };
                Ok(Self::Fourier { frequencies: vb.pp("time_proj").get_with_hints(width, "weight", init)? })
            }
        }
    }

    fn width(&self, config: &UNet2DConfig) -> usize {
        match self {
            Self::Positional(_) => config.block_out_channels[0],
            Self::Fourier { .. } => 2 * config.block_out_channels[0],
        }
    }

    /// `timesteps` (N) to (N, width), computed in f64.
    fn forward(&self, timesteps: &Tensor) -> Result<Tensor> {
        let frequencies = match self {
            Self::Positional(embedding) => return embedding.forward(timesteps),
            Self::Fourier { frequencies } => numbers(frequencies)?,
        };
        let timesteps_f64 = numbers(timesteps)?;
        let mut features = Vec::with_capacity(timesteps_f64.len() * 2 * frequencies.len());
        for t in &timesteps_f64 {
            if !(*t > 0.0 && t.is_finite()) {
                return refuse(format!(
                    "a timestep is {t}; the Fourier embedding takes ln(t), which wants t above 0"
                ));
            }
            let angles = frequencies.iter().map(|w| TAU * w * t.ln());
            features.extend(angles.clone().map(|angle| angle.sin() as f32));
            features.extend(angles.map(|angle| angle.cos() as f32));
        }
        Tensor::from_vec(features, (timesteps_f64.len(), 2 * frequencies.len()), timesteps.device())
    }
}

fn numbers(tensor: &Tensor) -> Result<Vec<f64>> {
    tensor.to_device(&Device::Cpu)?.to_dtype(DType::F64)?.to_vec1()
}

/// Features of the timestep, Linear, SiLU, Linear; and to their result the class's own vector is added.
#[derive(Clone, Debug)]
pub(crate) struct Conditioning {
    features: TimeFeatures,
    linear_1: Linear,
    linear_2: Linear,
    classes: Option<ClassEmbedding>,
}

impl Conditioning {
    /// Parameters `time_embedding`, and `time_proj` and `class_embedding` where the network has them.
    ///
    /// # Errors
    /// Parameters that `vb` does not have.
    pub(crate) fn new(config: &UNet2DConfig, vb: VarBuilder<'_>) -> Result<Self> {
        let (features, width) = (TimeFeatures::new(config, vb.clone())?, config.time_width());
        let classes =
            |count: usize| ClassEmbedding::new(count, config.null_class, width, vb.pp("class_embedding"));
        Ok(Self {
            linear_1: linear(features.width(config), width, vb.pp("time_embedding.linear_1"))?,
            linear_2: linear(width, width, vb.pp("time_embedding.linear_2"))?,
            features,
            classes: config.num_class_embeds.map(classes).transpose()?,
        })
    }

    /// `timesteps` (N) and `classes` (N) to (N, time width).
    ///
    /// # Errors
    /// Classes that are missing or unknown, or that a network without classes is told.
    pub(crate) fn forward(&self, timesteps: &Tensor, classes: &[Option<u32>]) -> Result<Tensor> {
        let hidden = self.linear_1.forward(&self.features.forward(timesteps)?)?;
        let time = self.linear_2.forward(&kernels::silu(&hidden)?)?;
        match &self.classes {
            Some(embedding) => time + embedding.forward(classes)?,
            None => refuse_classes(classes).map(|()| time),
        }
    }
}
