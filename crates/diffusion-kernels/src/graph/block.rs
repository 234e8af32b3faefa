//! The residual block as one candle operation.
//!
//! Candle's backward pass then adds one gradient; separate operations would give it seven.

use std::sync::Arc;

use candle_core::{Device, Result, Tensor, bail};
use rayon::prelude::*;
use tracing::trace_span;

use crate::ResidualBlock;
use crate::arith::isa::Isa;
use crate::graph::dropout;
use crate::graph::map::{Map, Node};
use crate::graph::op::MapOp;
use crate::graph::scope::current_scope;
use crate::graph::tasks::{CHUNK, total};
use crate::image::block::{BackwardPass, ForwardPass, Parameters, Settings, Sizes, Stack};
use crate::image::norm::Statistics;
use crate::image::winograd::{STRIP, Tiles};
use crate::memory::buffer::Buffer;
use crate::memory::scratch::Scratch;
use crate::memory::storage::with_all_elements;
use crate::memory::uninit::{UninitSlice, UninitVec};

/// Checks all shapes. `parts` have Cin channels in total and otherwise the same shape.
pub(crate) fn sizes_of(
    parts: &[Node],
    embedding: &Tensor,
    block: &ResidualBlock<'_>,
) -> Result<Sizes> {
    let [images, height, width, _] = parts[0].map.dims;
    let parts: Vec<usize> = parts.iter().map(|part| part.map.dims[3]).collect();
    let inputs = parts.iter().sum();
    let &[outputs, _, kernel, _] = block.conv1.0.dims() else {
        bail!("residual_block: weights must be (Cout, Cin, K, K), got {:?}", block.conv1.0.shape());
    };
    if images * inputs * height * width * outputs == 0 || kernel % 2 == 0 {
        bail!(
            "residual_block: the kernel must be odd and nothing may be empty, got a kernel of {kernel} and \
             {images} images of {height}×{width} from {inputs} to {outputs} channels"
        );
    }
    let groups = block.groups;
    if groups == 0 || inputs % groups != 0 || outputs % groups != 0 {
        bail!("residual_block: {inputs} or {outputs} channels do not divide into {groups} groups");
    }
    if block.skip.is_none() && inputs != outputs {
        bail!("residual_block: a skip convolution is needed from {inputs} to {outputs} channels");
    }
    let check = |name: &str, tensor: &Tensor, expected: &[usize]| {
        if tensor.dims() == expected {
            Ok(())
        } else {
            bail!(
                "residual_block: {name} must have the shape {expected:?}, got {:?}",
                tensor.dims()
            )
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
    if let Some(mask) = block.dropout {
        dropout::check([images, outputs, height, width], mask)?;
    }
    let tiles = Tiles::new((height, width));
    let (conditioning, skip) = (block.conditioning, block.skip.is_some());
    Ok(Sizes { images, parts, inputs, outputs, kernel, tiles, groups, conditioning, skip })
}

/// The embedding and the parameters, in the order of [`Parameters::new`].
fn arguments<'a>(embedding: &'a Tensor, block: &ResidualBlock<'a>) -> Vec<&'a Tensor> {
    let mut all = vec![block.norm1, block.conv1, block.norm2, block.conv2];
    all.extend(block.skip);
    let parameters = all.into_iter().flat_map(|(weight, bias)| [weight, bias]);
    std::iter::once(embedding).chain(parameters).collect()
}

/// The backward operation: from `y` to the parts of x and to the [`arguments`].
struct Op {
    settings: Settings,
    parts: Vec<Arc<Map>>,
    y: Arc<Map>,
    /// The first convolution's output; empty if the backward pass computes it again.
    hidden: Buffer,
    /// The statistics of both normalisations for each image.
    statistics: Vec<[Statistics; 2]>,
}

/// [`crate::FeatureMap::residual_block`] by the kernels, for a map in one part or two.
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
    let arguments = arguments(embedding, block);
    let tracked =
        arguments.iter().any(|tensor| tensor.track_op()) || parts.iter().any(Node::is_tracked);
    let settings = Settings { isa, sizes, eps: block.eps as f32, dropout: block.dropout.cloned() };
    let maps: Vec<Arc<Map>> = parts.iter().map(|part| part.map.clone()).collect();
    let keep = tracked && !current_scope().checkpointing;
    let (y, hidden, statistics) = with_all_elements(&arguments, |slices| {
        Ok(forward(&settings, &maps, Parameters::new(slices), keep))
    })?;
    let sources: Vec<&Node> = parts.iter().collect();
    Node::new(y, &sources, &arguments, |y| Op { settings, parts: maps, y, hidden, statistics })
}

fn stack<'a>(settings: &Settings, parts: &'a [Arc<Map>]) -> Stack<'a> {
    let parts = parts.iter().map(|part| (&*part.values, part.dims[3]));
    Stack { parts: parts.collect(), pixels: settings.sizes.pixels() }
}

/// The result, the first convolution's outputs if they are to be kept, and the statistics of the
/// normalisations.
fn forward(
    settings: &Settings,
    parts: &[Arc<Map>],
    parameters: Parameters<'_>,
    keep: bool,
) -> (Arc<Map>, Buffer, Vec<[Statistics; 2]>) {
    let Sizes { images, outputs, tiles: Tiles { side: (height, width), .. }, .. } = settings.sizes;
    let pixels = settings.sizes.pixels();
    let kernel = ForwardPass::new(settings, parameters);
    let x = stack(settings, parts);
    let group = group_of(settings);
    let mut y = UninitVec::from_pool(images * outputs * pixels);
    let results = y.chunks(group * outputs * pixels);
    let last = settings.sizes.padded_outputs() * pixels;
    let mut hidden = UninitVec::from_pool(if keep { images * last } else { 0 });
    let mut kept: Vec<Option<UninitSlice<'_>>> =
        hidden.chunks(group * last).into_iter().map(Some).collect();
    kept.resize_with(results.len(), || None);
    let run = |(i, (y, hidden)): (usize, (UninitSlice<'_>, Option<UninitSlice<'_>>))| {
        if let Some(hidden) = hidden {
            return kernel.images(&x, i * group, hidden.arbitrary(), y);
        }
        let mut hidden = Scratch::new(y.len() / outputs * settings.sizes.padded_outputs());
        kernel.images(&x, i * group, &mut hidden, y)
    };
    let statistics: Vec<Vec<_>> = if settings.sizes.shares_groups() {
        results.into_iter().zip(kept).enumerate().map(run).collect()
    } else {
        results.into_par_iter().zip(kept).enumerate().map(run).collect()
    };
    let y = Map::new(y.into_buffer(), [images, height, width, outputs]);
    (y, hidden.into_buffer(), statistics.into_iter().flatten().collect())
}

/// The number of images that the forward pass processes together.
fn group_of(settings: &Settings) -> usize {
    let sizes = &settings.sizes;
    if sizes.by_image() {
        return 1;
    }
    sizes.group(STRIP).min(if sizes.is_wide() { sizes.images } else { CHUNK })
}

impl Op {
    /// The first convolution's output, computed again.
    fn hidden_again(&self, parameters: Parameters<'_>) -> Buffer {
        let (settings, sizes) = (&self.settings, &self.settings.sizes);
        let kernel = ForwardPass::new(settings, parameters);
        let (x, group) = (stack(settings, &self.parts), group_of(settings));
        let size = sizes.padded_outputs() * sizes.pixels();
        let mut hidden = UninitVec::from_pool(sizes.images * size);
        let groups = hidden.chunks(group * size);
        let run = |(i, hidden): (usize, UninitSlice<'_>)| {
            kernel.hidden(&x, i * group, hidden.arbitrary());
        };
        if sizes.shares_groups() {
            groups.into_iter().enumerate().for_each(run);
        } else {
            groups.into_par_iter().enumerate().for_each(run);
        }
        hidden.into_buffer()
    }
}

impl MapOp for Op {
    const NAME: &'static str = "diffusion-residual-block";

    fn backward(&self, arguments: &[&Tensor], dtoken: &Tensor) -> Result<Vec<Option<Tensor>>> {
        let (tokens, arguments) = arguments.split_at(self.parts.len());
        let Sizes { images, outputs, .. } = self.settings.sizes;
        let (isa, sizes, pixels) =
            (self.settings.isa, &self.settings.sizes, self.settings.sizes.pixels());
        let _span = trace_span!("residual block, backward", shape = %sizes).entered();
        let dy = self.y.take_gradient(dtoken)?;
        let x = stack(&self.settings, &self.parts);
        let mut dx: Vec<UninitVec> =
            sizes.parts.iter().map(|part| UninitVec::from_pool(images * part * pixels)).collect();
        // For wide blocks, all threads work on one task.
        let chunk = if sizes.is_wide() { images } else { CHUNK };
        let mut tasks: Vec<Vec<(UninitSlice<'_>, usize)>> = Vec::new();
        tasks.resize_with(images.div_ceil(chunk), Vec::new);
        for (dx, &channels) in dx.iter_mut().zip(&sizes.parts) {
            let chunks = dx.chunks(chunk * channels * pixels);
            tasks.iter_mut().zip(chunks).for_each(|(task, chunk)| task.push((chunk, channels)));
        }
        let (last, size) = (sizes.padded_outputs() * pixels, outputs * pixels);
        let width = sizes.embedding();
        let mut de = vec![0.0; images * width];
        let partials: Vec<Vec<Buffer>> = with_all_elements(arguments, |slices| {
            let again = self.hidden.is_empty().then(|| self.hidden_again(Parameters::new(slices)));
            let hidden = again.as_ref().unwrap_or(&self.hidden);
            let backward =
                BackwardPass::new(&self.settings, Parameters::new(slices), &self.statistics);
            Ok(tasks
                .into_par_iter()
                .zip(de.par_chunks_mut(chunk * width))
                .zip(hidden.par_chunks(chunk * last).zip(dy.par_chunks(chunk * size)))
                .enumerate()
                .map(|(i, ((dx, de), (hidden, dy)))| {
                    backward.chunk(&x, i * chunk, [hidden, dy], dx, de)
                })
                .collect())
        })?;
        let parts = self.parts.iter().zip(dx).zip(tokens);
        let parts = parts
            .map(|((part, dx), token)| part.accumulate_gradient(isa, token, || dx.into_buffer()));
        let mut gradients = parts.collect::<Result<Vec<_>>>()?;
        gradients.push(Some(Tensor::from_vec(de, arguments[0].shape(), &Device::Cpu)?));
        let mut by_task: Vec<_> = partials.into_iter().map(Vec::into_iter).collect();
        for parameter in &arguments[1..] {
            let partials = by_task.iter_mut().filter_map(Iterator::next).collect();
            let gradient = total(isa, partials);
            gradients.push(Some(Tensor::from_vec(gradient, parameter.shape(), &Device::Cpu)?));
        }
        Ok(gradients)
    }
}
