//! The residual block as one candle operation.
//!
//! Both passes take an image through the whole block before the next one, so that everything between stays in
//! the cache, and candle's backward pass has one gradient to add where the separate operations give it seven.
//! What lies between is computed again in the backward pass, except for the first convolution's output.

mod conv;
mod norm;

use std::sync::OnceLock;

use candle_core::{CpuStorage, CustomOp3, Device, Layout, Result, Shape, Tensor, bail};
use rayon::prelude::*;

use crate::convolution::{CHUNK, Direction, convolution};
use crate::engine::{Geometry, padded_len};
use crate::fresh::{Fresh, Unwritten};
use crate::isa::Isa;
use crate::product::{self, Factor, product};
use crate::scratch::Scratch;
use crate::storage::{elements, output, with_elements};
use crate::transpose::{Start, channels_last, to_channels_first};
use crate::vector::{add, add_up, padded};
use crate::winograd::{self, Canvas, STRIP, SUM_STRIP, Tiles};
use crate::{Activation, ResidualBlock, channels, group_norm};
use conv::{Conv, ConvSums, KERNEL};
use norm::Norm;

/// What one call is about.
#[derive(Clone, Copy, Debug)]
struct Sizes {
    images: usize,
    inputs: usize,
    outputs: usize,
    tiles: Tiles,
    groups: usize,
    skip: bool,
}

/// The parameters, or their gradients, as slices: weight before bias, in the order of [`packed`].
struct Parts<'a> {
    norm1: [&'a [f32]; 2],
    conv1: [&'a [f32]; 2],
    norm2: [&'a [f32]; 2],
    conv2: [&'a [f32]; 2],
    skip: [&'a [f32]; 2],
}

impl Sizes {
    fn pixels(&self) -> usize {
        self.tiles.pixels()
    }

    fn padded_outputs(&self) -> usize {
        padded_len(self.outputs)
    }

    /// Whether the convolution from `inputs` channels goes by Winograd's method, in all directions.
    fn winograd(&self, inputs: usize) -> bool {
        winograd::pays(inputs, self.outputs, self.pixels())
    }

    fn conv(&self, isa: Isa, weight: &[f32], inputs: usize) -> Conv {
        Conv::new(isa, self.winograd(inputs), weight, [self.outputs, inputs])
    }

    fn transposed(&self, isa: Isa, weight: &[f32], inputs: usize) -> Conv {
        Conv::transposed(isa, self.winograd(inputs), weight, [self.outputs, inputs])
    }

    fn sums(&self, isa: Isa, inputs: usize) -> ConvSums {
        ConvSums::new(isa, self.winograd(inputs), [self.outputs, inputs])
    }

    /// How many images to take together, for about `tiles` tiles.
    fn group(&self, tiles: usize) -> usize {
        (tiles / self.tiles.per_image()).clamp(1, CHUNK)
    }

    /// Takes `parameters` apart again.
    fn parts<'a>(&self, mut parameters: &'a [f32]) -> Parts<'a> {
        let Self { inputs, outputs, skip, .. } = *self;
        let mut take = |len: usize| {
            let part;
            (part, parameters) = parameters.split_at(len);
            part
        };
        let mut pair = |weight: usize, bias: usize| [take(weight), take(bias)];
        let area = KERNEL * KERNEL;
        Parts {
            norm1: pair(inputs, inputs),
            conv1: pair(outputs * inputs * area, outputs),
            norm2: pair(outputs, outputs),
            conv2: pair(outputs * outputs * area, outputs),
            skip: if skip { pair(outputs * inputs, outputs) } else { [&[], &[]] },
        }
    }
}

/// The parameters in one vector: a candle operation takes three tensors at most.
fn packed(block: &ResidualBlock<'_>) -> Result<Tensor> {
    let mut all = vec![block.norm1, block.conv1, block.norm2, block.conv2];
    all.extend(block.skip);
    let flat = all.iter().flat_map(|(weight, bias)| [weight, bias]).map(|t| t.flatten_all());
    Tensor::cat(&flat.collect::<Result<Vec<_>>>()?, 0)
}

struct Op {
    isa: Isa,
    sizes: Sizes,
    eps: f32,
    /// The first convolution's output, if a backward pass is to come.
    hidden: Option<OnceLock<Vec<f32>>>,
}

/// [`crate::residual_block`] by the kernels.
pub(crate) fn residual_block(
    isa: Isa,
    x: &Tensor,
    embedding: &Tensor,
    block: &ResidualBlock<'_>,
) -> Result<Tensor> {
    let sizes = sizes(x, embedding, block)?;
    let kernel = block.conv1.0.dims()[3];
    let geometry =
        Geometry { kernel, stride: 1, padding: kernel / 2, large: sizes.tiles.side, small: sizes.tiles.side };
    if !winograd::fits(&geometry.window(sizes.inputs)) {
        return composed(isa, x, embedding, block);
    }
    let parameters = packed(block)?;
    let tracked = [x, embedding, &parameters].iter().any(|t| t.track_op());
    let op = Op { isa, sizes, eps: block.eps as f32, hidden: tracked.then(OnceLock::new) };
    x.contiguous()?.apply_op3(&parameters, &embedding.contiguous()?, op)
}

/// The block as separate operations, for kernels of another size and the smallest images.
fn composed(isa: Isa, x: &Tensor, embedding: &Tensor, block: &ResidualBlock<'_>) -> Result<Tensor> {
    let padding = block.conv1.0.dims()[3] / 2;
    let norm = |x: &Tensor, (weight, bias): (&Tensor, &Tensor)| {
        group_norm::group_norm(isa, x, block.groups, weight, bias, block.eps, Activation::Silu)
    };
    let conv = |x: &Tensor, (weight, bias): (&Tensor, &Tensor), padding| {
        convolution(isa, Direction::Gather, x, weight, Some(bias), 1, padding)
    };
    let hidden = conv(&norm(x, block.norm1)?, block.conv1, padding)?;
    let hidden = channels::add_channel_embedding(isa, &hidden, embedding)?;
    let y = conv(&norm(&hidden, block.norm2)?, block.conv2, padding)?;
    match block.skip {
        Some(skip) => y + conv(x, skip, 0)?,
        None => y + x,
    }
}

/// Checks every shape.
fn sizes(x: &Tensor, embedding: &Tensor, block: &ResidualBlock<'_>) -> Result<Sizes> {
    let &[images, inputs, height, width] = x.dims() else {
        bail!("residual_block wants x (N, Cin, H, W), got {:?}", x.shape());
    };
    let &[outputs, _, kernel, _] = block.conv1.0.dims() else {
        bail!("residual_block wants weights (Cout, Cin, K, K), got {:?}", block.conv1.0.shape());
    };
    if x.elem_count() == 0 || outputs == 0 || kernel % 2 == 0 {
        bail!("residual_block wants an odd kernel and something to do, got x {:?} and {kernel}", x.shape());
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
    check("the embedding", embedding, &[images, outputs])?;
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
    Ok(Sizes { images, inputs, outputs, tiles, groups, skip: block.skip.is_some() })
}

/// The gradients of one task's parameters, which it sums over its images.
struct Sums {
    conv1: ConvSums,
    conv2: ConvSums,
    /// `[input][output padded]`.
    skip: Vec<f32>,
    /// Pairs of weight and bias, a channel each.
    norm1: Vec<[f32; 2]>,
    norm2: Vec<[f32; 2]>,
    /// Sums of dy, padded: the gradient of the second convolution's bias and of the skip's.
    dy: Vec<f32>,
}

impl Op {
    fn norm<'a>(&self, [weight, bias]: [&'a [f32]; 2]) -> Norm<'a> {
        Norm { isa: self.isa, groups: self.sizes.groups, eps: self.eps, weight, bias }
    }

    fn forward(&self, x: &[f32], parameters: &[f32], embedding: &[f32]) -> Vec<f32> {
        let Sizes { images, inputs, outputs, .. } = self.sizes;
        let pixels = self.sizes.pixels();
        let pass = ForwardPass::new(self, parameters);
        let group = self.sizes.group(STRIP);
        let mut y = Fresh::new(images * outputs * pixels);
        let given = x.par_chunks(group * inputs * pixels).zip(embedding.par_chunks(group * outputs));
        let given = given.zip(y.par_chunks(group * outputs * pixels));
        let last = self.sizes.padded_outputs() * pixels;
        if let Some(saved) = &self.hidden {
            let mut hidden = Fresh::new(images * last);
            given
                .zip(hidden.par_chunks_mut(group * last))
                .for_each(|(((x, embedding), y), hidden)| pass.images(x, embedding, hidden, y));
            // Set once: an operation runs forward once.
            let _ = saved.set(hidden.finish());
        } else {
            given.for_each(|((x, embedding), y)| {
                let mut hidden = Scratch::new(y.len() / (outputs * pixels) * last);
                pass.images(x, embedding, &mut hidden, y);
            });
        }
        y.finish()
    }

    /// Gradients of x, the packed parameters and the embedding.
    fn backward(&self, x: &[f32], parameters: &[f32], hidden: &[f32], dy: &[f32]) -> [Vec<f32>; 3] {
        let Sizes { images, inputs, outputs, .. } = self.sizes;
        let pixels = self.sizes.pixels();
        let (size_in, size_out) = (inputs * pixels, outputs * pixels);
        let last = self.sizes.padded_outputs() * pixels;
        let pass = BackwardPass::new(self, parameters);
        let group = self.sizes.group(SUM_STRIP);
        let mut dx = Fresh::new(images * size_in);
        let mut de = vec![0.0; images * outputs];
        let partials: Vec<Vec<f32>> = dx
            .par_chunks(CHUNK * size_in)
            .zip(de.par_chunks_mut(CHUNK * outputs))
            .zip(x.par_chunks(CHUNK * size_in).zip(hidden.par_chunks(CHUNK * last)))
            .zip(dy.par_chunks(CHUNK * size_out))
            .map(|(((dx, de), (x, hidden)), dy)| {
                let mut sums = pass.begin();
                let results = dx.chunks(group * size_in).zip(de.chunks_mut(group * outputs));
                let given = x.chunks(group * size_in).zip(hidden.chunks(group * last));
                for (((dx, de), (x, hidden)), dy) in results.zip(given).zip(dy.chunks(group * size_out)) {
                    pass.images([x, hidden, dy], dx, de, &mut sums);
                }
                pass.finish(&sums, de)
            })
            .collect();
        let mut dp = vec![0.0; parameters.len()];
        for partial in &partials {
            add(self.isa, partial, &mut dp);
        }
        [dx.finish(), dp, de]
    }
}

/// What the forward pass of every image uses.
struct ForwardPass<'a> {
    op: &'a Op,
    norm1: Norm<'a>,
    norm2: Norm<'a>,
    conv1: Conv,
    conv2: Conv,
    /// `[input][output padded]`.
    skip: Option<Scratch>,
    bias1: &'a [f32],
    /// The second convolution's bias and the skip's together, padded.
    bias2: Vec<f32>,
}

impl<'a> ForwardPass<'a> {
    fn new(op: &'a Op, parameters: &'a [f32]) -> Self {
        let Sizes { inputs, outputs, .. } = op.sizes;
        let parts = op.sizes.parts(parameters);
        let skip_bias = parts.skip[1].iter().chain(std::iter::repeat(&0.0));
        let bias2: Vec<f32> = parts.conv2[1].iter().zip(skip_bias).map(|(a, b)| a + b).collect();
        Self {
            op,
            norm1: op.norm(parts.norm1),
            norm2: op.norm(parts.norm2),
            conv1: op.sizes.conv(op.isa, parts.conv1[0], inputs),
            conv2: op.sizes.conv(op.isa, parts.conv2[0], outputs),
            skip: op.sizes.skip.then(|| channels_last(op.isa, parts.skip[0], [outputs, inputs])),
            bias1: parts.conv1[1],
            bias2: padded(&bias2),
        }
    }

    /// Some images, `hidden` with channels last.
    fn images(&self, x: &[f32], embedding: &[f32], hidden: &mut [f32], y: Unwritten<'_>) {
        let (op, isa) = (self.op, self.op.isa);
        let Sizes { inputs, outputs, tiles, .. } = op.sizes;
        let (pixels, pitch) = (tiles.pixels(), op.sizes.padded_outputs());
        let images = embedding.len() / outputs;
        let x_last = channels_last(isa, x, [inputs, pixels]);
        let mut canvas = Canvas::new(tiles, images, inputs);
        for (i, x) in x_last.chunks_exact(x_last.len() / images).enumerate() {
            self.norm1.forward(x, &mut canvas, i);
        }
        let starts = embedding.chunks_exact(outputs);
        let start = |e: &[f32]| padded(&e.iter().zip(self.bias1).map(|(e, b)| e + b).collect::<Vec<_>>());
        let start: Vec<f32> = starts.flat_map(start).collect();
        self.conv1.run(&canvas, &start, hidden);

        let mut canvas = Canvas::new(tiles, images, outputs);
        for (i, hidden) in hidden.chunks_exact(pixels * pitch).enumerate() {
            self.norm2.forward(hidden, &mut canvas, i);
        }
        let mut y_last = Scratch::new(images * pixels * pitch);
        self.conv2.run(&canvas, &self.bias2, &mut y_last);
        if let Some(skip) = &self.skip {
            let x = Factor::matrix(&x_last, padded_len(inputs), inputs);
            let y = product::Result { data: &mut y_last, row: pitch, onto: true };
            product(isa, x, skip, [images * pixels, pitch], y);
        }
        let last = y_last.chunks_exact(pixels * pitch).zip(x.chunks_exact(pixels * inputs));
        for ((last, x), y) in last.zip(y.chunks(pixels * outputs)) {
            let start = if self.skip.is_some() { Start::Zero } else { Start::Image(x) };
            to_channels_first(isa, last, pitch, [outputs, pixels], start, y);
        }
    }
}

/// What the backward pass of every image uses.
struct BackwardPass<'a> {
    op: &'a Op,
    norm1: Norm<'a>,
    norm2: Norm<'a>,
    conv1: Conv,
    conv2: Conv,
    /// `[output][input padded]`.
    skip: Option<Scratch>,
}

impl<'a> BackwardPass<'a> {
    fn new(op: &'a Op, parameters: &'a [f32]) -> Self {
        let Sizes { inputs, outputs, .. } = op.sizes;
        let parts = op.sizes.parts(parameters);
        let padded_in = padded_len(inputs);
        let skip = op.sizes.skip.then(|| {
            let mut skip = Scratch::zeroed(outputs * padded_in);
            let rows = skip.chunks_exact_mut(padded_in).zip(parts.skip[0].chunks_exact(inputs));
            rows.for_each(|(to, from)| to[..inputs].copy_from_slice(from));
            skip
        });
        Self {
            op,
            norm1: op.norm(parts.norm1),
            norm2: op.norm(parts.norm2),
            conv1: op.sizes.transposed(op.isa, parts.conv1[0], inputs),
            conv2: op.sizes.transposed(op.isa, parts.conv2[0], outputs),
            skip,
        }
    }

    /// Nothing summed yet.
    fn begin(&self) -> Sums {
        let Sizes { inputs, outputs, skip, .. } = self.op.sizes;
        let pitch = self.op.sizes.padded_outputs();
        Sums {
            conv1: self.op.sizes.sums(self.op.isa, inputs),
            conv2: self.op.sizes.sums(self.op.isa, outputs),
            skip: vec![0.0; if skip { inputs * pitch } else { 0 }],
            norm1: vec![[0.0; 2]; inputs],
            norm2: vec![[0.0; 2]; outputs],
            dy: vec![0.0; pitch],
        }
    }

    /// Some images: from the last layer to the first.
    fn images(&self, [x, hidden, dy]: [&[f32]; 3], dx: Unwritten<'_>, de: &mut [f32], sums: &mut Sums) {
        let (op, isa) = (self.op, self.op.isa);
        let Sizes { inputs, outputs, tiles, .. } = op.sizes;
        let (pixels, pitch_in, pitch) = (tiles.pixels(), padded_len(inputs), op.sizes.padded_outputs());
        let images = de.len() / outputs;
        let zeros = Scratch::zeroed(pitch_in.max(pitch));
        let mut back = Scratch::new(images * pixels * pitch_in.max(pitch));
        let mut slopes = Scratch::new(images * pixels * pitch_in.max(pitch));

        let mut dy_canvas = Canvas::new(tiles, images, outputs);
        dy_canvas.fill(isa, dy, outputs);
        let mut normed = Canvas::new(tiles, images, outputs);
        let size = pixels * pitch;
        let statistics: Vec<_> = (0..images)
            .map(|i| {
                let range = i * size..(i + 1) * size;
                self.norm2.forward_with_slopes(&hidden[range.clone()], &mut normed, i, &mut slopes[range])
            })
            .collect();
        sums.conv2.add(images, &normed, &dy_canvas);
        self.conv2.run(&dy_canvas, &zeros[..pitch], &mut back[..images * size]);
        let mut d_hidden = Canvas::new(tiles, images, outputs);
        for (i, (statistics, de)) in statistics.iter().zip(de.chunks_exact_mut(outputs)).enumerate() {
            let range = i * size..(i + 1) * size;
            let (hidden, dz) = (&hidden[range.clone()], &mut back[range.clone()]);
            let combination = self.norm2.backward(hidden, statistics, &slopes[range], dz, &mut sums.norm2);
            let mut totals = Scratch::zeroed(pitch);
            let row = tiles.side.1 * pitch;
            for (y, (hidden, dz)) in hidden.chunks_exact(row).zip(dz.chunks_exact(row)).enumerate() {
                combination.write(dz, hidden, d_hidden.row_mut(i, y), &mut totals);
                add_up(isa, dy_canvas.row(i, y), &mut sums.dy);
            }
            de.copy_from_slice(&totals[..outputs]);
        }

        let x_last = channels_last(isa, x, [inputs, pixels]);
        let mut normed = Canvas::new(tiles, images, inputs);
        let size = pixels * pitch_in;
        let statistics: Vec<_> = (0..images)
            .map(|i| {
                let range = i * size..(i + 1) * size;
                self.norm1.forward_with_slopes(&x_last[range.clone()], &mut normed, i, &mut slopes[range])
            })
            .collect();
        sums.conv1.add(images, &normed, &d_hidden);
        self.conv1.run(&d_hidden, &zeros[..pitch_in], &mut back[..images * size]);
        let mut dx_last = Scratch::new(images * size);
        for (i, statistics) in statistics.iter().enumerate() {
            let range = i * size..(i + 1) * size;
            let (x, dz) = (&x_last[range.clone()], &mut back[range.clone()]);
            let combination = self.norm1.backward(x, statistics, &slopes[range.clone()], dz, &mut sums.norm1);
            combination.write(dz, x, &mut dx_last[range], &mut Scratch::zeroed(pitch_in));
        }
        if let Some(skip) = &self.skip {
            for (i, (x, dx)) in x_last.chunks_exact(size).zip(dx_last.chunks_exact_mut(size)).enumerate() {
                let row = tiles.side.1 * pitch_in;
                for (y, (x, dx)) in x.chunks_exact(row).zip(dx.chunks_exact_mut(row)).enumerate() {
                    let dy = dy_canvas.row(i, y);
                    let x = Factor::transposed(x, pitch_in, tiles.side.1);
                    let dw = product::Result { data: &mut sums.skip, row: pitch, onto: true };
                    product(isa, x, dy, [inputs, pitch], dw);
                    let dy = Factor::matrix(dy, pitch, outputs);
                    let dx = product::Result { data: dx, row: pitch_in, onto: true };
                    product(isa, dy, skip, [tiles.side.1, pitch_in], dx);
                }
            }
        }
        let last = dx_last.chunks_exact(size).zip(dy.chunks_exact(outputs * pixels));
        for ((last, dy), dx) in last.zip(dx.chunks(inputs * pixels)) {
            let start = if self.skip.is_some() { Start::Zero } else { Start::Image(dy) };
            to_channels_first(isa, last, pitch_in, [inputs, pixels], start, dx);
        }
    }

    /// The sums as gradients of the packed parameters; `de` are the gradients of the embeddings.
    fn finish(&self, sums: &Sums, de: &[f32]) -> Vec<f32> {
        let Sizes { inputs, outputs, .. } = self.op.sizes;
        let pitch = self.op.sizes.padded_outputs();
        let mut dp = Vec::new();
        let pairs = |dp: &mut Vec<f32>, sums: &[[f32; 2]]| {
            (0..2).for_each(|which| dp.extend(sums.iter().map(|pair| pair[which])));
        };
        pairs(&mut dp, &sums.norm1);
        dp.extend(sums.conv1.weights());
        let mut bias1 = vec![0.0; outputs];
        de.chunks_exact(outputs).for_each(|de| add(self.op.isa, de, &mut bias1));
        dp.extend(bias1);
        pairs(&mut dp, &sums.norm2);
        dp.extend(sums.conv2.weights());
        dp.extend(&sums.dy[..outputs]);
        if self.skip.is_some() {
            dp.extend(
                (0..outputs)
                    .flat_map(|o| (0..inputs).map(move |c| (o, c)))
                    .map(|(o, c)| sums.skip[c * pitch + o]),
            );
            dp.extend(&sums.dy[..outputs]);
        }
        dp
    }
}

impl CustomOp3 for Op {
    fn name(&self) -> &'static str {
        "diffusion-residual-block"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        lx: &Layout,
        parameters: &CpuStorage,
        lp: &Layout,
        embedding: &CpuStorage,
        le: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let y = self.forward(elements(x, lx)?, elements(parameters, lp)?, elements(embedding, le)?);
        let Sizes { images, outputs, tiles: Tiles { side: (height, width), .. }, .. } = self.sizes;
        Ok(output(y, (images, outputs, height, width)))
    }

    fn bwd(
        &self,
        x: &Tensor,
        parameters: &Tensor,
        embedding: &Tensor,
        _: &Tensor,
        dy: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let Some(hidden) = self.hidden.as_ref().and_then(OnceLock::get) else {
            bail!("residual_block: a backward pass without a forward pass that expected one");
        };
        let [dx, dp, de] = with_elements([x, parameters, dy], |[x, parameters, dy]| {
            Ok(self.backward(x, parameters, hidden, dy))
        })?;
        let tensor = |data, like: &Tensor| Tensor::from_vec(data, like.shape(), &Device::Cpu).map(Some);
        Ok((tensor(dx, x)?, tensor(dp, parameters)?, tensor(de, embedding)?))
    }
}
