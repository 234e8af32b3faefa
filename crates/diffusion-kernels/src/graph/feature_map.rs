//! A batch of images between two layers, in the memory layout of the kernels.

use candle_core::{Result, Tensor, bail};

use crate::arith::isa::Isa;
use crate::graph::convert::{from_images, to_images};
use crate::graph::convolution::{Direction, convolution};
use crate::graph::map::Node;
use crate::graph::resample::{Resample, resample};
use crate::graph::scope::current_scope;
use crate::graph::stack::stacked;
use crate::graph::trace::operation;
use crate::graph::{attention, block, dropout, elementwise, group_norm};
use crate::memory::storage::kernels_for;
use crate::{Activation, DropoutMask, GroupNorm, Padding, ResidualBlock, TimeConditioning, slow};

/// A batch of images (N, C, H, W) between the layers of a network.
///
/// The kernels store images as (N, H, W, C), candle's own operations as (N, C, H, W). A network
/// converts its input to a map once, passes the map from layer to layer, and converts the output
/// back. A map is differentiable like any tensor.
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

/// The memory layout of a map.
#[derive(Clone, Debug)]
enum Layout {
    /// (N, C, H, W), for candle's own operations.
    ChannelsFirst(Tensor),
    /// (N, H, W, C), for the kernels. The map is the concatenation of the channels of all parts.
    ChannelsLast { isa: Isa, parts: Vec<Node> },
}

impl FeatureMap {
    /// Converts `images` (N, C, H, W) to a map. The kernels for this map, and for those computed
    /// from it, multiply in the precision of [`autocast`](crate::autocast).
    ///
    /// # Errors
    /// If `images` does not have four dimensions or, for the kernels, is empty.
    pub fn from_images(images: &Tensor) -> Result<Self> {
        if images.rank() != 4 {
            bail!("a feature map needs images (N, C, H, W), got {:?}", images.shape());
        }
        match kernels_for(&[images]) {
            Some(isa) => Self::with_kernels(isa.in_precision(current_scope().precision), images),
            None => Ok(Self::from_images_slow(images)),
        }
    }

    /// Like [`Self::from_images`], for candle's own operations.
    pub(crate) fn from_images_slow(images: &Tensor) -> Self {
        Self(Layout::ChannelsFirst(images.clone()))
    }

    /// Like [`Self::from_images`], for the kernels of `isa`.
    pub(crate) fn with_kernels(isa: Isa, images: &Tensor) -> Result<Self> {
        if images.elem_count() == 0 {
            bail!("a feature map needs non-empty images, got {:?}", images.shape());
        }
        Ok(Self::last(isa, from_images(isa, images)?))
    }

    fn last(isa: Isa, map: Node) -> Self {
        Self(Layout::ChannelsLast { isa, parts: vec![map] })
    }

    /// Converts the map to images (N, C, H, W).
    ///
    /// # Errors
    /// An error of the device.
    pub fn to_images(&self) -> Result<Tensor> {
        match self.single_part()? {
            SinglePart::Images(images) => Ok(images.clone()),
            SinglePart::Node(isa, node) => to_images(isa, &node),
        }
    }

    /// The shape `[N, C, H, W]`.
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

    /// Concatenates the channels of this map and of `other`. The kernels' maps are not copied until
    /// an operation needs them in one piece.
    ///
    /// # Errors
    /// If the maps differ in N, H, W, type or device.
    pub fn cat(&self, other: &Self) -> Result<Self> {
        let ([n, _, h, w], [other_n, _, other_h, other_w]) = (self.dims(), other.dims());
        if [n, h, w] != [other_n, other_h, other_w] {
            bail!(
                "cat: the maps may differ in their channels only, got {:?} and {:?}",
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
            _ => bail!("cat: the maps must have the same type and device"),
        }
    }

    /// This map as one part for the kernels, or as images for candle's own operations.
    fn single_part(&self) -> Result<SinglePart<'_>> {
        Ok(match &self.0 {
            Layout::ChannelsFirst(images) => SinglePart::Images(images),
            Layout::ChannelsLast { isa, parts } => {
                SinglePart::Node(*isa, concatenated(*isa, parts)?)
            }
        })
    }

    /// Applies `kernel` or `slow`, depending on the layout of this map.
    fn map(
        &self,
        kernel: impl FnOnce(Isa, &Node) -> Result<Node>,
        slow: impl FnOnce(&Tensor) -> Result<Tensor>,
    ) -> Result<Self> {
        match self.single_part()? {
            SinglePart::Images(images) => Ok(Self(Layout::ChannelsFirst(slow(images)?))),
            SinglePart::Node(isa, node) => Ok(Self::last(isa, kernel(isa, &node)?)),
        }
    }

    /// 2-D convolution (cross-correlation) to (N, Cout, H', W'). `weight` has the shape (Cout, Cin,
    /// K, K), or (Cout, Cin) for K = 1, and `bias` (Cout). `stride` must be at least 1.
    ///
    /// # Errors
    /// If the shapes do not match, a shape is empty, `stride` is 0, the padding exceeds 65536, or
    /// the kernel is larger than the padded images.
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
        // Each output is a sum over the weights of one output channel.
        operation(convolved, |[n, _, h, w]| {
            (vec![weight.id()], (n * h * w * weight.elem_count()) as u64)
        })
    }

    /// Transposed 2-D convolution to (N, Cout, H', W') with H' = (H − 1)·stride − 2·padding + K,
    /// and W' likewise. `weight` has the shape (Cin, Cout, K, K) and `bias` (Cout). `stride` must
    /// be at least 1.
    ///
    /// # Errors
    /// If the shapes do not match, a shape is empty, `stride` is 0, the padding exceeds 65536, or
    /// the output would be empty.
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
        // Each input is multiplied by all weights of its channel.
        let [n, _, h, w] = self.dims();
        operation(convolved, |_| (vec![weight.id()], (n * h * w * weight.elem_count()) as u64))
    }

    /// Group normalisation with its optional modulation and activation.
    ///
    /// # Errors
    /// If C is not divisible by the number of groups, or the shapes do not match.
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

    /// Softmax attention over the pixels of each image (Vaswani et al. 2017, eq. 1). This map holds
    /// the queries. Head h has the channels from h·C/`heads` on. All three maps must have the same
    /// shape.
    ///
    /// # Errors
    /// If the shapes differ, C is not divisible by `heads`, or the maps differ in type or device.
    pub fn attention(&self, keys: &Self, values: &Self, heads: usize) -> Result<Self> {
        let attended = || match (self.single_part()?, keys.single_part()?, values.single_part()?) {
            (SinglePart::Images(q), SinglePart::Images(k), SinglePart::Images(v)) => {
                Ok(Self(Layout::ChannelsFirst(slow::attention(q, k, v, heads)?)))
            }
            (SinglePart::Node(isa, q), SinglePart::Node(_, k), SinglePart::Node(_, v)) => {
                Ok(Self::last(isa, attention::attention(isa, [&q, &k, &v], heads)?))
            }
            _ => bail!("attention: the maps must have the same type and device"),
        };
        // Each query times each key, and each attention weight times a value.
        operation(attended, |[n, c, h, w]| (Vec::new(), 2 * (n * c * (h * w).pow(2)) as u64))
    }

    /// Doubles height and width by repeating each pixel four times (nearest neighbour).
    ///
    /// # Errors
    /// An error of the device.
    pub fn upsample_nearest2(&self) -> Result<Self> {
        operation(
            || self.map(|isa, x| resample(isa, Resample::Nearest, x), slow::upsample_nearest2),
            |_| (Vec::new(), 0),
        )
    }

    /// Halves height and width by averaging 2 × 2 pixels.
    ///
    /// # Errors
    /// If height or width is odd.
    pub fn avg_pool2(&self) -> Result<Self> {
        operation(
            || self.map(|isa, x| resample(isa, Resample::Average, x), slow::avg_pool2),
            |_| (Vec::new(), 0),
        )
    }

    /// Adds two maps of the same shape.
    ///
    /// # Errors
    /// If the shapes, types or devices differ.
    pub fn add(&self, other: &Self) -> Result<Self> {
        let sum = || match (self.single_part()?, other.single_part()?) {
            (SinglePart::Images(a), SinglePart::Images(b)) => {
                Ok(Self(Layout::ChannelsFirst((a + b)?)))
            }
            (SinglePart::Node(isa, a), SinglePart::Node(_, b)) => {
                Ok(Self::last(isa, elementwise::add(isa, &a, &b)?))
            }
            _ => bail!("add: the maps must have the same type and device"),
        };
        operation(sum, |_| (Vec::new(), 0))
    }

    /// Adds `embedding` (N, C) to all pixels: one number for each channel of each image.
    ///
    /// # Errors
    /// If `embedding` has another shape.
    pub fn add_channel_embedding(&self, embedding: &Tensor) -> Result<Self> {
        self.map(
            |isa, x| elementwise::add_channel_embedding(isa, x, embedding),
            |x| slow::add_channel_embedding(x, embedding),
        )
    }

    /// Removes the activations that `mask` does not keep, and scales the others.
    ///
    /// # Errors
    /// If the mask is for maps of another shape.
    pub fn dropout(&self, mask: &DropoutMask) -> Result<Self> {
        let dropped =
            || self.map(|isa, x| dropout::dropout(isa, x, mask), |x| slow::dropout(x, mask));
        operation(dropped, |_| (Vec::new(), 0))
    }

    /// A residual block with a time embedding (Ho et al. 2020, appendix B), to (N, Cout, H, W):
    ///
    /// `skip(x) + conv2(dropout(silu(norm2(conv1(silu(norm1(x))) + embedding))))`
    ///
    /// This is [`TimeConditioning::Add`] with `embedding` (N, Cout). With
    /// [`TimeConditioning::ScaleShift`], `embedding` (N, 2·Cout) modulates the output of `norm2`
    /// instead.
    ///
    /// # Errors
    /// If the shapes do not match or are empty, the kernel size is even, a channel count is not
    /// divisible by the number of groups, or Cin differs from Cout without a skip convolution.
    pub fn residual_block(&self, embedding: &Tensor, block: &ResidualBlock<'_>) -> Result<Self> {
        let conv = |weight: &Tensor| weight.elem_count();
        operation(
            || self.block_by_layout(embedding, block),
            |[n, _, h, w]| {
                let skip = block.skip.map_or(0, |(weight, _)| conv(weight));
                let products = n * h * w * (conv(block.conv1.0) + conv(block.conv2.0) + skip);
                (vec![block.conv1.0.id(), block.conv2.0.id()], products as u64)
            },
        )
    }

    fn block_by_layout(&self, embedding: &Tensor, block: &ResidualBlock<'_>) -> Result<Self> {
        match &self.0 {
            Layout::ChannelsFirst(_) => self.composed_block(embedding, block),
            Layout::ChannelsLast { isa, parts } => {
                let first = parts.len().min(2) - 1;
                let parts = [&parts[..first], &[concatenated(*isa, &parts[first..])?]].concat();
                let sizes = block::sizes_of(&parts, embedding, block)?;
                if !sizes.fit() {
                    return Self::last(*isa, concatenated(*isa, &parts)?)
                        .composed_block(embedding, block);
                }
                Ok(Self::last(*isa, block::residual_block(*isa, sizes, &parts, embedding, block)?))
            }
        }
    }

    /// The block as separate operations: for kernels other than 3 × 3, images with a side below 4
    /// pixels, and candle's own operations.
    fn composed_block(&self, embedding: &Tensor, block: &ResidualBlock<'_>) -> Result<Self> {
        let padding = block.conv1.0.dim(2)? / 2;
        let (added, modulation) = match block.conditioning {
            TimeConditioning::Add => (Some(embedding), None),
            TimeConditioning::ScaleShift => (None, Some(embedding)),
        };
        let norm = |x: &Self, (weight, bias): (&Tensor, &Tensor), modulation| {
            let (groups, eps, activation) = (block.groups, block.eps, Activation::Silu);
            x.group_norm(&GroupNorm { groups, eps, weight, bias, modulation, activation })
        };
        let conv =
            |x: &Self, (weight, bias): (&Tensor, &Tensor)| x.conv2d(weight, Some(bias), 1, padding);
        let mut hidden = conv(&norm(self, block.norm1, None)?, block.conv1)?;
        if let Some(added) = added {
            hidden = hidden.add_channel_embedding(added)?;
        }
        hidden = norm(&hidden, block.norm2, modulation)?;
        if let Some(mask) = block.dropout {
            hidden = hidden.dropout(mask)?;
        }
        let y = conv(&hidden, block.conv2)?;
        match block.skip {
            Some((weight, bias)) => y.add(&self.conv2d(weight, Some(bias), 1, 0)?),
            None => y.add(self),
        }
    }
}

/// A map whose parts are concatenated.
enum SinglePart<'a> {
    Images(&'a Tensor),
    Node(Isa, Node),
}

/// Concatenates `parts` to one map.
fn concatenated(isa: Isa, parts: &[Node]) -> Result<Node> {
    let (first, rest) = parts.split_first().expect("a map has at least one part");
    rest.iter().try_fold(first.clone(), |map, part| stacked(isa, &map, part))
}
