//! Images between the layers of a network, laid out as the kernels like them.

use candle_core::{Result, Tensor, bail};

use crate::channels::add_channel_embedding;
use crate::convolution::{Direction, convolution};
use crate::group_norm::group_norm;
use crate::isa::Isa;
use crate::map::Node;
use crate::stack::stacked;
use crate::storage::kernels_for;
use crate::turn::{from_images, to_images};
use crate::{Activation, ResidualBlock, block, slow};

/// Images (N, C, H, W) on their way through a network.
///
/// The kernels keep a pixel's channels together, (N, H, W, C); candle's own operations want them apart. A network
/// takes its input into a map, leads it from layer to layer, and takes the output out again, so that nothing is
/// turned around in between. What a map holds is differentiable like any tensor.
///
/// ```
/// use candle_core::{DType, Device, Result, Tensor};
/// use diffusion_kernels::FeatureMap;
///
/// # fn main() -> Result<()> {
/// let x = FeatureMap::from_images(&Tensor::ones((2, 3, 8, 8), DType::F32, &Device::Cpu)?)?;
/// let weight = Tensor::ones((5, 3, 3, 3), DType::F32, &Device::Cpu)?;
/// let y = x.conv2d(&weight, None, 2, 1)?;
/// assert_eq!(y.dims(), [2, 5, 4, 4]);
/// assert_eq!(y.cat(&y)?.to_images()?.dims(), [2, 10, 4, 4]);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct FeatureMap(Kept);

/// How a map is kept.
#[derive(Clone, Debug)]
enum Kept {
    /// (N, C, H, W), for candle's own operations.
    ChannelsFirst(Tensor),
    /// For the kernels; the channels of all parts, one after the other.
    ChannelsLast { isa: Isa, parts: Vec<Node> },
}

impl FeatureMap {
    /// The map of `images` (N, C, H, W).
    ///
    /// # Errors
    /// Tensors of another rank.
    pub fn from_images(images: &Tensor) -> Result<Self> {
        if images.rank() != 4 {
            bail!("a feature map is made of images (N, C, H, W), not of {:?}", images.shape());
        }
        match kernels_for(&[images]) {
            Some(isa) => Self::with_kernels(isa, images),
            None => Ok(Self(Kept::ChannelsFirst(images.clone()))),
        }
    }

    /// As [`Self::from_images`], for the kernels of `isa`.
    pub(crate) fn with_kernels(isa: Isa, images: &Tensor) -> Result<Self> {
        if images.elem_count() == 0 {
            bail!("a feature map wants images with something in them, got {:?}", images.shape());
        }
        Ok(Self::last(isa, from_images(isa, images)?))
    }

    fn last(isa: Isa, map: Node) -> Self {
        Self(Kept::ChannelsLast { isa, parts: vec![map] })
    }

    /// The images (N, C, H, W).
    ///
    /// # Errors
    /// None of its own; whatever the device reports.
    pub fn to_images(&self) -> Result<Tensor> {
        match &self.0 {
            Kept::ChannelsFirst(images) => Ok(images.clone()),
            Kept::ChannelsLast { isa, parts } => to_images(*isa, &joined(*isa, parts)?),
        }
    }

    /// N, C, H and W.
    #[must_use]
    pub fn dims(&self) -> [usize; 4] {
        match &self.0 {
            Kept::ChannelsFirst(images) => std::array::from_fn(|i| images.dims()[i]),
            Kept::ChannelsLast { parts, .. } => {
                let [n, h, w, _] = parts[0].map.dims;
                [n, parts.iter().map(|part| part.map.dims[3]).sum(), h, w]
            }
        }
    }

    /// The channels of this map and then the `other`'s. Nothing is copied before it is needed.
    ///
    /// # Errors
    /// Maps that differ in more than the number of channels, or are on different devices.
    pub fn cat(&self, other: &Self) -> Result<Self> {
        let ([n, _, h, w], [other_n, _, other_h, other_w]) = (self.dims(), other.dims());
        if [n, h, w] != [other_n, other_h, other_w] {
            bail!(
                "cat wants maps that differ in their channels only, not {:?} and {:?}",
                self.dims(),
                other.dims()
            );
        }
        match (&self.0, &other.0) {
            (Kept::ChannelsFirst(a), Kept::ChannelsFirst(b)) => {
                Ok(Self(Kept::ChannelsFirst(Tensor::cat(&[a, b], 1)?)))
            }
            (Kept::ChannelsLast { isa, parts: a }, Kept::ChannelsLast { parts: b, .. }) => {
                Ok(Self(Kept::ChannelsLast { isa: *isa, parts: [a.as_slice(), b].concat() }))
            }
            _ => bail!("cat wants maps of one type on one device"),
        }
    }

    /// 2-D cross-correlation: `weight` (Cout, Cin, K, K), `bias` (Cout), to (N, Cout, H', W').
    ///
    /// # Errors
    /// Shapes that do not fit together.
    pub fn conv2d(
        &self,
        weight: &Tensor,
        bias: Option<&Tensor>,
        stride: usize,
        padding: usize,
    ) -> Result<Self> {
        match &self.0 {
            Kept::ChannelsFirst(x) => {
                Ok(Self(Kept::ChannelsFirst(slow::conv2d(x, weight, bias, stride, padding)?)))
            }
            Kept::ChannelsLast { isa, parts } => {
                let y = convolution(
                    *isa,
                    Direction::Gather,
                    &joined(*isa, parts)?,
                    weight,
                    bias,
                    stride,
                    padding,
                )?;
                Ok(Self::last(*isa, y))
            }
        }
    }

    /// Transposed 2-D convolution: `weight` (Cin, Cout, K, K), `bias` (Cout), to
    /// (N, Cout, (H−1)·stride − 2·padding + K, …).
    ///
    /// # Errors
    /// Shapes that do not fit together.
    pub fn conv_transpose2d(
        &self,
        weight: &Tensor,
        bias: Option<&Tensor>,
        stride: usize,
        padding: usize,
    ) -> Result<Self> {
        match &self.0 {
            Kept::ChannelsFirst(x) => {
                Ok(Self(Kept::ChannelsFirst(slow::conv_transpose2d(x, weight, bias, stride, padding)?)))
            }
            Kept::ChannelsLast { isa, parts } => {
                let y = convolution(
                    *isa,
                    Direction::Scatter,
                    &joined(*isa, parts)?,
                    weight,
                    bias,
                    stride,
                    padding,
                )?;
                Ok(Self::last(*isa, y))
            }
        }
    }

    /// A residual block with a time embedding (Ho et al. 2020, appendix B) of width Cout: with `embedding` (N, Cout) to
    /// (N, Cout, H, W), `skip(x) + conv2(silu(norm2(conv1(silu(norm1(x))) + embedding)))`.
    ///
    /// # Errors
    /// Shapes that do not fit together.
    pub fn residual_block(&self, embedding: &Tensor, block: &ResidualBlock<'_>) -> Result<Self> {
        match &self.0 {
            Kept::ChannelsFirst(x) => {
                Ok(Self(Kept::ChannelsFirst(slow::residual_block(x, embedding, block)?)))
            }
            Kept::ChannelsLast { isa, parts } => {
                let first = parts.len().min(2) - 1;
                let parts = [&parts[..first], &[joined(*isa, &parts[first..])?]].concat();
                let sizes = block::Sizes::new(&parts, embedding, block)?;
                if !sizes.fit() {
                    return self.composed_block(*isa, embedding, block);
                }
                Ok(Self::last(*isa, block::residual_block(*isa, sizes, &parts, embedding, block)?))
            }
        }
    }

    /// The block as separate operations, for kernels of another size and the smallest images.
    fn composed_block(&self, isa: Isa, embedding: &Tensor, block: &ResidualBlock<'_>) -> Result<Self> {
        let padding = block.conv1.0.dim(2)? / 2;
        let part = |x: &Tensor, norm: (&Tensor, &Tensor), conv: (&Tensor, &Tensor)| {
            let normed = group_norm(isa, x, block.groups, norm.0, norm.1, block.eps, Activation::Silu)?;
            Self::with_kernels(isa, &normed)?.conv2d(conv.0, Some(conv.1), 1, padding)
        };
        let x = self.to_images()?;
        let hidden = part(&x, block.norm1, block.conv1)?.to_images()?;
        let hidden = add_channel_embedding(isa, &hidden, embedding)?;
        let y = part(&hidden, block.norm2, block.conv2)?.to_images()?;
        let skip = match block.skip {
            Some((weight, bias)) => self.conv2d(weight, Some(bias), 1, 0)?.to_images()?,
            None => x,
        };
        Self::with_kernels(isa, &(y + skip)?)
    }
}

/// All `parts` in one map.
fn joined(isa: Isa, parts: &[Node]) -> Result<Node> {
    let (first, rest) = parts.split_first().expect("a map has a part at least");
    rest.iter().try_fold(first.clone(), |map, part| stacked(isa, &map, part))
}
