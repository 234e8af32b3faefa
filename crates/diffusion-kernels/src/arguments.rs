//! The arguments of the operations: settings, and parameters as tensors.

use candle_core::Tensor;

use crate::DropoutMask;

/// The activation function after a normalisation, computed in the same pass.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Activation {
    /// No activation.
    #[default]
    Identity,
    /// SiLU: `x · sigmoid(x)`.
    Silu,
}

/// The zero padding around images, in pixels. A number converts to the same padding on all sides.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Padding {
    /// Above and to the left.
    pub before: usize,
    /// Below and to the right.
    pub after: usize,
}

impl From<usize> for Padding {
    fn from(padding: usize) -> Self {
        Self { before: padding, after: padding }
    }
}

/// A group normalisation (Wu & He 2018) with a modulation and an activation in the same pass:
/// `activation(norm(x) · (1 + scale) + shift)`.
#[derive(Clone, Copy, Debug)]
pub struct GroupNorm<'a> {
    /// The number of groups of channels. It must divide the number of channels.
    pub groups: usize,
    /// The value added to the variance.
    pub eps: f64,
    /// The weight (C) of `norm`.
    pub weight: &'a Tensor,
    /// The bias (C) of `norm`.
    pub bias: &'a Tensor,
    /// Scales and shifts for each image, (N, 2·C), the C scales first (Dhariwal & Nichol 2021,
    /// section 3.1). Without it, `scale` and `shift` are 0.
    pub modulation: Option<&'a Tensor>,
    /// The activation, applied last.
    pub activation: Activation,
}

/// How a residual block is conditioned on the time embedding.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TimeConditioning {
    /// The embedding (N, C) is added to the first convolution's output (Ho et al. 2020).
    #[default]
    Add,
    /// The embedding (N, 2·C) scales and shifts the second normalisation's output (Dhariwal &
    /// Nichol 2021).
    ScaleShift,
}

impl TimeConditioning {
    /// The width of the embedding for a block with `channels` output channels.
    pub fn width(self, channels: usize) -> usize {
        match self {
            Self::Add => channels,
            Self::ScaleShift => 2 * channels,
        }
    }
}

/// The settings and parameters of a residual block. Each pair is a weight and a bias.
#[derive(Clone, Copy, Debug)]
pub struct ResidualBlock<'a> {
    /// The number of groups of both normalisations.
    pub groups: usize,
    /// The value that both normalisations add to the variance.
    pub eps: f64,
    /// How the block uses the time embedding.
    pub conditioning: TimeConditioning,
    /// The first normalisation: (Cin), (Cin).
    pub norm1: (&'a Tensor, &'a Tensor),
    /// The first convolution: (Cout, Cin, K, K), (Cout). K must be odd; the padding is K / 2,
    /// rounded down.
    pub conv1: (&'a Tensor, &'a Tensor),
    /// The second normalisation: (Cout), (Cout).
    pub norm2: (&'a Tensor, &'a Tensor),
    /// The second convolution: (Cout, Cout, K, K), (Cout).
    pub conv2: (&'a Tensor, &'a Tensor),
    /// The skip convolution: (Cout, Cin, 1, 1), (Cout). Without it, the input itself is added, and
    /// Cin must equal Cout.
    pub skip: Option<(&'a Tensor, &'a Tensor)>,
    /// The dropout before the second convolution, (N, Cout, H, W).
    pub dropout: Option<&'a DropoutMask>,
}
