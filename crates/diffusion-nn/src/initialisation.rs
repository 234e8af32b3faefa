//! The initial values of weights and biases.

use candle_nn::Init;

/// The initial values of a convolution or of a fully connected layer. The fan-in is the number of
/// inputs of one output.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Initialisation {
    /// PyTorch's default, Kaiming-uniform with a = √5: weight and bias are uniform in ±1/√(fan-in).
    #[default]
    PyTorch,
    /// A normal weight of variance 2/(fan-in) (He et al. 2015, eq. 10), and a bias of zeros.
    KaimingNormal,
    /// A weight and a bias of zeros.
    Zeros,
}

impl Initialisation {
    pub(crate) fn weight(self, fan_in: usize) -> Init {
        match self {
            Self::PyTorch => {
                let bound = 1.0 / (fan_in as f64).sqrt();
                Init::Uniform { lo: -bound, up: bound }
            }
            Self::KaimingNormal => Init::Randn { mean: 0.0, stdev: (2.0 / fan_in as f64).sqrt() },
            Self::Zeros => Init::Const(0.0),
        }
    }

    pub(crate) fn bias(self, fan_in: usize) -> Init {
        match self {
            Self::PyTorch => self.weight(fan_in),
            Self::KaimingNormal | Self::Zeros => Init::Const(0.0),
        }
    }
}
