//! The precision of a training.

use candle_core::Device;
use diffusion_kernels::Precision;
use serde::{Deserialize, Serialize};

/// The number format in which convolutions and attention multiply. Weights, gradients,
/// normalisations, the optimiser and the moving average are f32 in all of them; so are the grids
/// and evaluations of a training. Sums are f32 on the CPU; a GPU rounds the results of products.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TrainingPrecision {
    /// Single precision.
    #[default]
    F32,
    /// bfloat16 on CPUs with AVX512-BF16 and on GPUs, and f32 elsewhere. It is faster, and results
    /// of the two differ.
    Bf16,
    /// bf16 if the device has it, otherwise f32.
    Auto,
}

impl TrainingPrecision {
    /// All variants.
    pub const ALL: [Self; 3] = [Self::F32, Self::Bf16, Self::Auto];

    /// The name in configurations and on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::Bf16 => "bf16",
            Self::Auto => "auto",
        }
    }

    /// The precision of networks on `device`: f32 if the device does not have this one.
    pub fn on(self, device: &Device) -> Precision {
        match self {
            Self::Bf16 | Self::Auto if Precision::Bf16.is_available(device) => Precision::Bf16,
            _ => Precision::F32,
        }
    }

    /// This precision, or for [`Auto`](Self::Auto) the one that it stands for on `device`. A run
    /// saves this, so that it is the same when it is resumed elsewhere.
    #[must_use]
    pub fn resolved(self, device: &Device) -> Self {
        match (self, self.on(device)) {
            (Self::Auto, Precision::Bf16) => Self::Bf16,
            (Self::Auto, Precision::F32) => Self::F32,
            (known, _) => known,
        }
    }
}
