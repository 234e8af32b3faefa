//! Images between the layers of a network, laid out as the kernels like them.

use candle_core::{Result, Tensor, bail};

use crate::arith::isa::Isa;
use crate::graph::convolution::{Direction, convolution};
use crate::graph::map::Node;
use crate::graph::resample::{Resample, resample};
use crate::graph::stack::stacked;
use crate::graph::trace::operation;
use crate::graph::turn::{from_images, to_images};
use crate::graph::{attention, block, elementwise, group_norm};
use crate::memory::storage::kernels_for;
use crate::{Activation, GroupNorm, Padding, ResidualBlock, TimeConditioning, slow};

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
pub struct FeatureMap(Layout);

/// How a map lies in memory.
#[derive(Clone, Debug)]
enum Layout {
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
            None => Ok(Self::from_images_slow(images)),
        }
    }

    /// As [`Self::from_images`], for candle's own operations.
    pub(crate) fn from_images_slow(images: &Tensor) -> Self {
        Self(Layout::ChannelsFirst(images.clone()))
    }

    /// As [`Self::from_images`], for the kernels of `isa`.
    pub(crate) fn with_kernels(isa: Isa, images: &Tensor) -> Result<Self> {
        if images.elem_count() == 0 {
            bail!("a feature map wants images with something in them, got {:?}", images.shape());
        }
        Ok(Self::last(isa, from_images(isa, images)?))
    }

    fn last(isa: Isa, map: Node) -> Self {
        Self(Layout::ChannelsLast { isa, parts: vec![map] })
    }

    /// The images (N, C, H, W).
    ///
    /// # Errors
    /// None of its own; whatever the device reports.
    pub fn to_images(&self) -> Result<Tensor> {
        match self.whole()? {
            Whole::Images(images) => Ok(images.clone()),
            Whole::Node(isa, node) => to_images(isa, &node),
        }
    }

    /// N, C, H and W.
    #[must_use]
    pub fn dims(&self) -> [usize; 4] {
        match &self.0 {
            Layout::ChannelsFirst(images) => std::array::from_fn(|i| images.dims()[i]),
            Layout::ChannelsLast { parts, .. } => {
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
            (Layout::ChannelsFirst(a), Layout::ChannelsFirst(b)) => {
                Ok(Self(Layout::ChannelsFirst(Tensor::cat(&[a, b], 1)?)))
            }
            (Layout::ChannelsLast { isa, parts: a }, Layout::ChannelsLast { parts: b, .. }) => {
                Ok(Self(Layout::ChannelsLast { isa: *isa, parts: [a.as_slice(), b].concat() }))
            }
            _ => bail!("cat wants maps of one type on one device"),
        }
    }

    /// This map in one part, as the kernels take it, or as images for candle's own operations.
    fn whole(&self) -> Result<Whole<'_>> {
        Ok(match &self.0 {
            Layout::ChannelsFirst(images) => Whole::Images(images),
            Layout::ChannelsLast { isa, parts } => Whole::Node(*isa, joined(*isa, parts)?),
        })
    }

    /// One way or the other, as this map is kept.
    fn map(
        &self,
        kernel: impl FnOnce(Isa, &Node) -> Result<Node>,
        slow: impl FnOnce(&Tensor) -> Result<Tensor>,
    ) -> Result<Self> {
        match self.whole()? {
            Whole::Images(images) => Ok(Self(Layout::ChannelsFirst(slow(images)?))),
            Whole::Node(isa, node) => Ok(Self::last(isa, kernel(isa, &node)?)),
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
        padding: impl Into<Padding>,
    ) -> Result<Self> {
        let padding = padding.into();
        let convolved = || {
            self.map(
                |isa, x| convolution(isa, Direction::Gather, x, (weight, bias), stride, padding),
                |x| slow::conv2d(x, weight, bias, stride, padding),
            )
        };
        // Each result is a sum over the weights of one output channel.
        operation(convolved, |[n, _, h, w]| {
            (vec![weight.id()], (n * h * w * weight.elem_count()) as u64)
        })
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
        let convolved = || {
            self.map(
                |isa, x| {
                    convolution(isa, Direction::Scatter, x, (weight, bias), stride, padding.into())
                },
                |x| slow::conv_transpose2d(x, weight, bias, stride, padding),
            )
        };
        // Each pixel of the input goes out through the weights of its channel.
        let [n, _, h, w] = self.dims();
        operation(convolved, |_| (vec![weight.id()], (n * h * w * weight.elem_count()) as u64))
    }

    /// Group normalisation, with the modulation and the activation that follow it.
    ///
    /// # Errors
    /// A channel count that the groups do not divide; shapes that do not fit together.
    pub fn group_norm(&self, norm: &GroupNorm<'_>) -> Result<Self> {
        operation(
            || {
                self.map(
                    |isa, x| group_norm::group_norm(isa, x, norm),
                    |x| slow::group_norm(x, norm),
                )
            },
            |_| (vec![norm.weight.id()], 0),
        )
    }

    /// Softmax attention over the pixels of each image (Vaswani et al. 2017, eq. 1), of this map's queries over `keys`
    /// and `values`. Its channels are those of `heads` heads, one after the other; all three maps are of one size.
    ///
    /// # Errors
    /// Maps of different sizes; a channel count that the heads do not divide.
    pub fn attention(&self, keys: &Self, values: &Self, heads: usize) -> Result<Self> {
        let attended = || match (self.whole()?, keys.whole()?, values.whole()?) {
            (Whole::Images(q), Whole::Images(k), Whole::Images(v)) => {
                Ok(Self(Layout::ChannelsFirst(slow::attention(q, k, v, heads)?)))
            }
            (Whole::Node(isa, q), Whole::Node(_, k), Whole::Node(_, v)) => {
                Ok(Self::last(isa, attention::attention(isa, [&q, &k, &v], heads)?))
            }
            _ => bail!("attention wants maps of one type on one device"),
        };
        // Every pixel's query with every key, and the values by the result.
        operation(attended, |[n, c, h, w]| (Vec::new(), 2 * (n * c * (h * w).pow(2)) as u64))
    }

    /// Twice as high and wide: each pixel four times.
    ///
    /// # Errors
    /// None of its own; whatever the device reports.
    pub fn upsample_nearest2(&self) -> Result<Self> {
        operation(
            || self.map(|isa, x| resample(isa, Resample::Nearest, x), slow::upsample_nearest2),
            |_| (Vec::new(), 0),
        )
    }

    /// Half as high and wide: the means of 2 × 2 pixels.
    ///
    /// # Errors
    /// Sides that are not even.
    pub fn avg_pool2(&self) -> Result<Self> {
        operation(
            || self.map(|isa, x| resample(isa, Resample::Average, x), slow::avg_pool2),
            |_| (Vec::new(), 0),
        )
    }

    /// The sum of two maps of one size.
    ///
    /// # Errors
    /// Maps of different sizes, or on different devices.
    pub fn add(&self, other: &Self) -> Result<Self> {
        let sum = || match (self.whole()?, other.whole()?) {
            (Whole::Images(a), Whole::Images(b)) => Ok(Self(Layout::ChannelsFirst((a + b)?))),
            (Whole::Node(isa, a), Whole::Node(_, b)) => {
                Ok(Self::last(isa, elementwise::add(isa, &a, &b)?))
            }
            _ => bail!("add wants maps of one type on one device"),
        };
        operation(sum, |_| (Vec::new(), 0))
    }

    /// Adds a number to each channel of each image: `embedding` (N, C).
    ///
    /// # Errors
    /// An embedding of another shape.
    pub fn add_channel_embedding(&self, embedding: &Tensor) -> Result<Self> {
        self.map(
            |isa, x| elementwise::add_channel_embedding(isa, x, embedding),
            |x| slow::add_channel_embedding(x, embedding),
        )
    }

    /// A residual block with a time embedding (Ho et al. 2020, appendix B) of width Cout: with `embedding` (N, Cout) to
    /// (N, Cout, H, W), `skip(x) + conv2(silu(norm2(conv1(silu(norm1(x))) + embedding)))`, or as
    /// [`TimeConditioning`] says.
    ///
    /// # Errors
    /// Shapes that do not fit together.
    pub fn residual_block(&self, embedding: &Tensor, block: &ResidualBlock<'_>) -> Result<Self> {
        let conv = |weight: &Tensor| weight.elem_count();
        operation(
            || self.whole_block(embedding, block),
            |[n, _, h, w]| {
                let skip = block.skip.map_or(0, |(weight, _)| conv(weight));
                let products = n * h * w * (conv(block.conv1.0) + conv(block.conv2.0) + skip);
                (vec![block.conv1.0.id(), block.conv2.0.id()], products as u64)
            },
        )
    }

    fn whole_block(&self, embedding: &Tensor, block: &ResidualBlock<'_>) -> Result<Self> {
        match &self.0 {
            Layout::ChannelsFirst(_) => self.composed_block(embedding, block),
            Layout::ChannelsLast { isa, parts } => {
                let first = parts.len().min(2) - 1;
                let parts = [&parts[..first], &[joined(*isa, &parts[first..])?]].concat();
                let sizes = block::sizes_of(&parts, embedding, block)?;
                if !sizes.fit() {
                    return Self::last(*isa, joined(*isa, &parts)?)
                        .composed_block(embedding, block);
                }
                Ok(Self::last(*isa, block::residual_block(*isa, sizes, &parts, embedding, block)?))
            }
        }
    }

    /// The block as separate operations, for kernels of another size and the smallest images.
    fn composed_block(&self, embedding: &Tensor, block: &ResidualBlock<'_>) -> Result<Self> {
        let padding = block.conv1.0.dim(2)? / 2;
        let (added, modulation) = match block.conditioning {
            TimeConditioning::Add => (Some(embedding), None),
            TimeConditioning::ScaleShift => (None, Some(embedding)),
        };
        let part =
            |x: &Self, (weight, bias): (&Tensor, &Tensor), modulation, conv: (&Tensor, &Tensor)| {
                let (groups, eps, activation) = (block.groups, block.eps, Activation::Silu);
                x.group_norm(&GroupNorm { groups, eps, weight, bias, modulation, activation })?
                    .conv2d(conv.0, Some(conv.1), 1, padding)
            };
        let mut hidden = part(self, block.norm1, None, block.conv1)?;
        if let Some(added) = added {
            hidden = hidden.add_channel_embedding(added)?;
        }
        let y = part(&hidden, block.norm2, modulation, block.conv2)?;
        match block.skip {
            Some((weight, bias)) => y.add(&self.conv2d(weight, Some(bias), 1, 0)?),
            None => y.add(self),
        }
    }
}

/// A map in one part.
enum Whole<'a> {
    Images(&'a Tensor),
    Node(Isa, Node),
}

/// All `parts` in one map.
fn joined(isa: Isa, parts: &[Node]) -> Result<Node> {
    let (first, rest) = parts.split_first().expect("a map has a part at least");
    rest.iter().try_fold(first.clone(), |map, part| stacked(isa, &map, part))
}
