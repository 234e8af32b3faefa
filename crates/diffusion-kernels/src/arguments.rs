//! What operations are called with: choices, and parameters as tensors.

use candle_core::Tensor;

/// What is applied to the output of a normalisation, in the same pass.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Activation {
    /// Nothing.
    #[default]
    Identity,
    /// `x · sigmoid(x)`.
    Silu,
}

/// Zeros around images: `before` the first row and column, `after` the last ones. A number means as many on all sides.
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

/// A group normalisation (Wu & He 2018), and what is done to its result in the same pass:
/// `activation(norm(x) · (1 + scale) + shift)`.
#[derive(Clone, Copy, Debug)]
pub struct GroupNorm<'a> {
    /// Groups of channels; must divide their number.
    pub groups: usize,
    /// What is added to the variance.
    pub eps: f64,
    /// (C).
    pub weight: &'a Tensor,
    /// (C).
    pub bias: &'a Tensor,
    /// Each image's scales and then its shifts, (N, 2·C) (Dhariwal & Nichol 2021, section 3.1).
    pub modulation: Option<&'a Tensor>,
    /// Comes last.
    pub activation: Activation,
}

/// How a block is told the time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TimeConditioning {
    /// The embedding (N, C) is added to the first convolution's output (Ho et al. 2020).
    #[default]
    Add,
    /// The embedding (N, 2·C) scales and shifts the second normalisation's output (Dhariwal & Nichol 2021).
    ScaleShift,
}

impl TimeConditioning {
    /// The width of the embedding for a block of `channels`.
    pub fn width(self, channels: usize) -> usize {
        match self {
            Self::Add => channels,
            Self::ScaleShift => 2 * channels,
        }
    }
}

/// The parameters of [`crate::residual_block`], each pair a weight and a bias.
#[derive(Clone, Copy, Debug)]
pub struct ResidualBlock<'a> {
    /// Groups of both normalisations.
    pub groups: usize,
    /// What both normalisations add to the variance.
    pub eps: f64,
    /// What the embedding does.
    pub conditioning: TimeConditioning,
    /// (Cin), (Cin).
    pub norm1: (&'a Tensor, &'a Tensor),
    /// (Cout, Cin, K, K), (Cout), with an odd K; the padding is K / 2.
    pub conv1: (&'a Tensor, &'a Tensor),
    /// (Cout), (Cout).
    pub norm2: (&'a Tensor, &'a Tensor),
    /// (Cout, Cout, K, K), (Cout).
    pub conv2: (&'a Tensor, &'a Tensor),
    /// (Cout, Cin, 1, 1), (Cout); without it x itself is added.
    pub skip: Option<(&'a Tensor, &'a Tensor)>,
}
