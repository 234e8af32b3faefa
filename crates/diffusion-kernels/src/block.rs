//! The residual block as one candle operation, on images with their channels last.
//!
//! Both passes take an image through the whole block before the next one, so that everything between stays in
//! the cache, and candle's backward pass has one gradient to add where the separate operations give it seven.
//! What lies between is computed again in the backward pass, except for the first convolution's output.

mod backward;
mod conv;
mod forward;

use std::fmt;
use std::sync::Arc;

use candle_core::{CpuStorage, CustomOp2, CustomOp3, Device, Layout, Result, Shape, Tensor, bail};
use rayon::prelude::*;
use tracing::trace_span;

use crate::buffer::Buffer;
use crate::fresh::{Fresh, Unwritten};
use crate::isa::Isa;
use crate::map::{Map, Node, token};
use crate::norm::{Modulated, Norm};
use crate::pixels::{Pixels, padded_len};
use crate::scratch::Scratch;
use crate::storage::with_elements;
use crate::tasks::CHUNK;
use crate::vector::sum_in_order;
use crate::winograd::{self, STRIP, Tiles};
use crate::{ResidualBlock, TimeConditioning};
use backward::BackwardPass;
use conv::KERNEL;
use forward::ForwardPass;

/// What one call is about.
#[derive(Clone, Debug)]
pub(crate) struct Sizes {
    images: usize,
    /// The input's channels, by the tensors that hold them.
    parts: Vec<usize>,
    inputs: usize,
    outputs: usize,
    kernel: usize,
    tiles: Tiles,
    groups: usize,
    conditioning: TimeConditioning,
    skip: bool,
}

impl fmt::Display for Sizes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (height, width) = self.tiles.side;
        write!(f, "{height}×{width}, {} to {} channels", self.inputs, self.outputs)
    }
}

impl Sizes {
    /// Checks every shape; `parts` have Cin channels in all, and are of one size otherwise.
    pub(crate) fn new(parts: &[Node], embedding: &Tensor, block: &ResidualBlock<'_>) -> Result<Self> {
        let [images, height, width, _] = parts[0].map.dims;
        let parts: Vec<usize> = parts.iter().map(|part| part.map.dims[3]).collect();
        let inputs = parts.iter().sum();
        let &[outputs, _, kernel, _] = block.conv1.0.dims() else {
            bail!("residual_block wants weights (Cout, Cin, K, K), got {:?}", block.conv1.0.shape());
        };
        if images * inputs * height * width * outputs == 0 || kernel % 2 == 0 {
            bail!(
                "residual_block wants an odd kernel and something to do, got a kernel of {kernel} and {images} images \
                 of {height}×{width} that go from {inputs} to {outputs} channels"
            );
        }
        let groups = block.groups;
        if groups == 0 || inputs % groups != 0 || outputs % groups != 0 {
            bail!("residual_block: {inputs} or {outputs} channels do not divide into {groups} groups");
        }
        if block.skip.is_none() && inputs != outputs {
            bail!("residual_block: {inputs} channels become {outputs}, which wants a skip convolution");
        }
        let check = |name: &str, tensor: &Tensor, wanted: &[usize]| {
            if tensor.dims() == wanted {
                Ok(())
            } else {
                bail!("residual_block: {name} should have the shape {wanted:?}, not {:?}", tensor.dims())
            }
        };
        check("the embedding", embedding, &[images, block.conditioning.width(outputs)])?;
        let mut pairs = vec![
            ("the first normalisation's", block.norm1, vec![inputs]),
            ("the first convolution's", block.conv1, vec![outputs, inputs, kernel, kernel]),
            ("the second normalisation's", block.norm2, vec![outputs]),
            ("the second convolution's", block.conv2, vec![outputs, outputs, kernel, kernel]),
        ];
        pairs.extend(block.skip.map(|skip| ("the skip's", skip, vec![outputs, inputs, 1, 1])));
        for (name, (weight, bias), shape) in pairs {
            check(&format!("{name} weight"), weight, &shape)?;
            check(&format!("{name} bias"), bias, &shape[..1])?;
        }
        let tiles = Tiles::new((height, width));
        let (conditioning, skip) = (block.conditioning, block.skip.is_some());
        Ok(Self { images, parts, inputs, outputs, kernel, tiles, groups, conditioning, skip })
    }

    /// Whether [`residual_block`] is for this block: 3 × 3 kernels, and images that are not too small.
    pub(crate) fn fit(&self) -> bool {
        self.kernel == KERNEL && winograd::fits_side(self.tiles.side)
    }

    fn pixels(&self) -> usize {
        self.tiles.pixels()
    }

    /// Numbers of an image's embedding.
    fn embedding(&self) -> usize {
        self.conditioning.width(self.outputs)
    }

    fn padded_outputs(&self) -> usize {
        padded_len(self.outputs)
    }

    /// Whether the convolution from `inputs` channels goes by Winograd's method, in all directions.
    fn winograd(&self, inputs: usize) -> bool {
        winograd::pays(inputs, self.outputs, self.pixels())
    }

    /// How many images to take together, for about `tiles` tiles.
    fn group(&self, tiles: usize) -> usize {
        (tiles / self.tiles.per_image()).clamp(1, CHUNK)
    }

    /// Takes the parameters of [`packed`] apart again, and the embedding.
    fn parameters<'a>(&self, mut packed: &'a [f32]) -> Parameters<'a> {
        let &Self { images, inputs, outputs, skip, .. } = self;
        let mut take = |len: usize| {
            let part;
            (part, packed) = packed.split_at(len);
            part
        };
        let mut pair = |weight: usize, bias: usize| [take(weight), take(bias)];
        let area = KERNEL * KERNEL;
        Parameters {
            norm1: pair(inputs, inputs),
            conv1: pair(outputs * inputs * area, outputs),
            norm2: pair(outputs, outputs),
            conv2: pair(outputs * outputs * area, outputs),
            skip: if skip { pair(outputs * inputs, outputs) } else { [&[], &[]] },
            embedding: take(images * self.embedding()),
        }
    }
}

/// The parameters, or their gradients, as slices: weight before bias, in the order of [`packed`].
struct Parameters<'a> {
    norm1: [&'a [f32]; 2],
    conv1: [&'a [f32]; 2],
    norm2: [&'a [f32]; 2],
    conv2: [&'a [f32]; 2],
    skip: [&'a [f32]; 2],
    /// (N, Cout), or (N, 2·Cout) for scale and shift.
    embedding: &'a [f32],
}

/// The parameters and the embedding in one vector: a candle operation takes three tensors at most.
fn packed(embedding: &Tensor, block: &ResidualBlock<'_>) -> Result<Tensor> {
    let mut all = vec![block.norm1, block.conv1, block.norm2, block.conv2];
    all.extend(block.skip);
    let parameters = all.iter().flat_map(|(weight, bias)| [*weight, *bias]).chain([embedding]);
    Tensor::cat(&parameters.map(Tensor::flatten_all).collect::<Result<Vec<_>>>()?, 0)
}

/// Images whose channels come from one tensor or two, each given with its number of channels.
struct Stack<'a> {
    parts: Vec<(&'a [f32], usize)>,
    pixels: usize,
}

impl<'a> Stack<'a> {
    /// Some images, their channels padded.
    fn images(&self, first: usize, count: usize) -> Pixels<'a> {
        let part = |&(x, channels): &(&'a [f32], usize)| {
            (&x[first * self.pixels * channels..][..count * self.pixels * channels], channels)
        };
        Pixels::stacked(&self.parts.iter().map(part).collect::<Vec<_>>())
    }
}

/// Leads the gradient of `y` back to the parts of x and to what is [`packed`].
struct Op {
    pass: Pass,
    parts: Vec<Arc<Map>>,
    y: Arc<Map>,
    /// The first convolution's output.
    hidden: Buffer,
}

/// What both passes know.
#[derive(Clone, Debug)]
struct Pass {
    isa: Isa,
    sizes: Sizes,
    eps: f32,
}

/// [`crate::FeatureMap::residual_block`] of a map in one part or two, by the kernels.
///
/// # Panics
/// If the sizes do not [fit](Sizes::fit).
pub(crate) fn residual_block(
    isa: Isa,
    sizes: Sizes,
    parts: &[Node],
    embedding: &Tensor,
    block: &ResidualBlock<'_>,
) -> Result<Node> {
    assert!(sizes.fit());
    let _span = trace_span!("residual block, forward", shape = %sizes).entered();
    let packed = packed(embedding, block)?;
    let tracked = packed.track_op() || parts.iter().any(Node::is_tracked);
    let pass = Pass { isa, sizes, eps: block.eps as f32 };
    let maps: Vec<Arc<Map>> = parts.iter().map(|part| part.map.clone()).collect();
    let (y, hidden) = with_elements([&packed], |[packed]| Ok(pass.forward(&maps, packed, tracked)))?;
    let op = |y: &Arc<Map>| Op { pass, parts: maps, y: y.clone(), hidden };
    match parts {
        [x] => Node::new(y, [x], &[&packed], |[x], y| x.apply_op2(&packed, op(y))),
        [a, b] => Node::new(y, [a, b], &[&packed], |[a, b], y| a.apply_op3(&b, &packed, op(y))),
        _ => bail!("residual_block takes one part or two, got {}", parts.len()),
    }
}

impl Pass {
    fn norm<'a>(&self, [weight, bias]: [&'a [f32]; 2]) -> Norm<'a> {
        Norm { isa: self.isa, groups: self.sizes.groups, eps: self.eps, weight, bias }
    }

    /// The second normalisation's parameters as they act on image i.
    fn modulated<'a>(&self, [weight, bias]: [&'a [f32]; 2], embedding: &'a [f32], i: usize) -> Modulated<'a> {
        let width = self.sizes.embedding();
        let modulation = match self.sizes.conditioning {
            TimeConditioning::Add => &[],
            TimeConditioning::ScaleShift => &embedding[i * width..(i + 1) * width],
        };
        Modulated { weight, bias, modulation }
    }

    fn stack<'a>(&self, parts: &'a [Arc<Map>]) -> Stack<'a> {
        let parts = parts.iter().map(|part| (&*part.values, part.dims[3]));
        Stack { parts: parts.collect(), pixels: self.sizes.pixels() }
    }

    /// The result and, if they are to be kept for a backward pass, the first convolution's outputs.
    fn forward(&self, parts: &[Arc<Map>], packed: &[f32], keep: bool) -> (Arc<Map>, Buffer) {
        let Sizes { images, outputs, tiles: Tiles { side: (height, width), .. }, .. } = self.sizes;
        let pixels = self.sizes.pixels();
        let pass = ForwardPass::new(self, self.sizes.parameters(packed));
        let x = self.stack(parts);
        let group = self.sizes.group(STRIP);
        let mut y = Fresh::recycled(images * outputs * pixels);
        let results = y.par_chunks(group * outputs * pixels).enumerate();
        let last = self.sizes.padded_outputs() * pixels;
        let mut hidden = Fresh::recycled(if keep { images * last } else { 0 });
        if keep {
            results
                .zip(hidden.par_chunks_mut(group * last))
                .for_each(|((i, y), hidden)| pass.images(&x, i * group, hidden, y));
        } else {
            results.for_each(|(i, y)| {
                let mut hidden = Scratch::new(y.len() / outputs * self.sizes.padded_outputs());
                pass.images(&x, i * group, &mut hidden, y);
            });
        }
        (Map::new(y.keep(), [images, height, width, outputs]), hidden.keep())
    }
}

impl Op {
    /// The gradients of the tokens of the parts of x, whose own are led back to their maps, and that of what is [`packed`].
    fn backward(
        &self,
        packed: &Tensor,
        tokens: &[&Tensor],
        dtoken: &Tensor,
    ) -> Result<(Vec<Option<Tensor>>, Tensor)> {
        let Sizes { images, outputs, .. } = self.pass.sizes;
        let (isa, sizes, pixels) = (self.pass.isa, &self.pass.sizes, self.pass.sizes.pixels());
        let _span = trace_span!("residual block, backward", shape = %sizes).entered();
        let dy = self.y.take_gradient(dtoken)?;
        let x = self.pass.stack(&self.parts);
        let mut dx: Vec<Fresh> =
            sizes.parts.iter().map(|part| Fresh::recycled(images * part * pixels)).collect();
        let mut tasks: Vec<Vec<(Unwritten<'_>, usize)>> = Vec::new();
        tasks.resize_with(images.div_ceil(CHUNK), Vec::new);
        for (dx, &channels) in dx.iter_mut().zip(&sizes.parts) {
            let chunks = dx.chunks(CHUNK * channels * pixels);
            tasks.iter_mut().zip(chunks).for_each(|(task, chunk)| task.push((chunk, channels)));
        }
        let (last, size) = (sizes.padded_outputs() * pixels, outputs * pixels);
        let width = sizes.embedding();
        let mut de = vec![0.0; images * width];
        let partials: Vec<Buffer> = with_elements([packed], |[packed]| {
            let pass = BackwardPass::new(&self.pass, sizes.parameters(packed));
            Ok(tasks
                .into_par_iter()
                .zip(de.par_chunks_mut(CHUNK * width))
                .zip(self.hidden.par_chunks(CHUNK * last).zip(dy.par_chunks(CHUNK * size)))
                .enumerate()
                .map(|(i, ((dx, de), (hidden, dy)))| pass.chunk(&x, i * CHUNK, [hidden, dy], dx, de))
                .collect())
        })?;
        let parts = self.parts.iter().zip(dx).zip(tokens);
        let parts = parts.map(|((part, dx), token)| part.lead_back(isa, token, || dx.keep()));
        let parts = parts.collect::<Result<Vec<_>>>()?;
        let mut gradient = sum_in_order(isa, &partials, packed.elem_count() - de.len());
        gradient.extend(de);
        Ok((parts, Tensor::from_vec(gradient, packed.shape(), &Device::Cpu)?))
    }
}

impl CustomOp2 for Op {
    fn name(&self) -> &'static str {
        "diffusion-residual-block"
    }

    fn cpu_fwd(&self, _: &CpuStorage, _: &Layout, _: &CpuStorage, _: &Layout) -> Result<(CpuStorage, Shape)> {
        Ok(token())
    }

    fn bwd(
        &self,
        x: &Tensor,
        packed: &Tensor,
        _: &Tensor,
        dtoken: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let (mut parts, gradient) = self.backward(packed, &[x], dtoken)?;
        Ok((parts.remove(0), Some(gradient)))
    }
}

impl CustomOp3 for Op {
    fn name(&self) -> &'static str {
        "diffusion-residual-block-of-two"
    }

    fn cpu_fwd(
        &self,
        _: &CpuStorage,
        _: &Layout,
        _: &CpuStorage,
        _: &Layout,
        _: &CpuStorage,
        _: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        Ok(token())
    }

    fn bwd(
        &self,
        a: &Tensor,
        b: &Tensor,
        packed: &Tensor,
        _: &Tensor,
        dtoken: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let (mut parts, gradient) = self.backward(packed, &[a, b], dtoken)?;
        Ok((parts.remove(0), parts.remove(0), Some(gradient)))
    }
}
