//! The residual block as one candle operation.
//!
//! Both passes take an image through the whole block before the next one, so that everything between stays in
//! the cache, and candle's backward pass has one gradient to add where the separate operations give it seven.
//! What lies between is computed again in the backward pass, except for the first convolution's output.

use std::sync::OnceLock;

use candle_core::{CpuStorage, CustomOp3, Device, Layout, Result, Shape, Tensor, bail};
use rayon::prelude::*;

use crate::conv2d::CHUNK;
use crate::engine::{Gather, Geometry, Scatter, blocks_of};
use crate::fresh::Fresh;
use crate::group_norm::Norm;
use crate::isa::{Isa, vectorised};
use crate::scratch::Scratch;
use crate::storage::{elements, output, with_elements};
use crate::weight_gradient::{Partial, Running, WeightGradient};
use crate::{ResidualBlock, vector};

vectorised! {
    fn add(x: &[f32], y: &mut [f32]) {
        for (y, x) in y.iter_mut().zip(x) {
            *y += x;
        }
    }
}

/// What one call is about.
#[derive(Clone, Copy, Debug)]
struct Sizes {
    images: usize,
    inputs: usize,
    outputs: usize,
    height: usize,
    width: usize,
    kernel: usize,
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
        self.height * self.width
    }

    fn geometry(&self, kernel: usize) -> Geometry {
        let side = (self.height, self.width);
        Geometry { kernel, stride: 1, padding: kernel / 2, large: side, small: side }
    }

    /// Takes `parameters` apart again.
    fn parts<'a>(&self, mut parameters: &'a [f32]) -> Parts<'a> {
        let Self { inputs, outputs, kernel, skip, .. } = *self;
        let mut take = |len: usize| {
            let part;
            (part, parameters) = parameters.split_at(len);
            part
        };
        let mut pair = |weight: usize, bias: usize| [take(weight), take(bias)];
        let area = kernel * kernel;
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
    let parameters = packed(block)?;
    let tracked = [x, embedding, &parameters].iter().any(|t| t.track_op());
    let op = Op { isa, sizes, eps: block.eps as f32, hidden: tracked.then(OnceLock::new) };
    x.contiguous()?.apply_op3(&parameters, &embedding.contiguous()?, op)
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
    Ok(Sizes { images, inputs, outputs, height, width, kernel, groups, skip: block.skip.is_some() })
}

impl Op {
    fn norm<'a>(&self, [weight, bias]: [&'a [f32]; 2]) -> Norm<'a> {
        Norm { isa: self.isa, groups: self.sizes.groups, eps: self.eps, silu: true, weight, bias }
    }

    fn gather(&self, kernel: usize, inputs: usize, weight: &[f32], bias: &[f32]) -> Gather {
        let Sizes { outputs, .. } = self.sizes;
        let window = self.sizes.geometry(kernel).window(inputs);
        Gather::new(self.isa, window, outputs, Some(bias), |o, c, ky, kx| {
            weight[((o * inputs + c) * kernel + ky) * kernel + kx]
        })
    }

    fn scatter(&self, kernel: usize, inputs: usize, weight: &[f32]) -> Scatter {
        let Sizes { outputs, .. } = self.sizes;
        Scatter::new(self.isa, self.sizes.geometry(kernel), outputs, inputs, None, |i, o, ky, kx| {
            weight[((o * inputs + i) * kernel + ky) * kernel + kx]
        })
    }

    fn forward(&self, x: &[f32], parameters: &[f32], embedding: &[f32]) -> Vec<f32> {
        let Sizes { images, inputs, outputs, kernel, .. } = self.sizes;
        let pixels = self.sizes.pixels();
        let parts = self.sizes.parts(parameters);
        let (norm1, norm2) = (self.norm(parts.norm1), self.norm(parts.norm2));
        let conv1 = self.gather(kernel, inputs, parts.conv1[0], parts.conv1[1]);
        let conv2 = self.gather(kernel, outputs, parts.conv2[0], parts.conv2[1]);
        let skip = self.sizes.skip.then(|| {
            let bias: Vec<f32> = parts.skip[1].iter().zip(parts.conv2[1]).map(|(a, b)| a + b).collect();
            self.gather(1, inputs, parts.skip[0], &bias)
        });
        let image = |n: usize, hidden: &mut [f32], y: &mut [f32]| {
            let x = &x[n * inputs * pixels..(n + 1) * inputs * pixels];
            let mut normed = Scratch::new(inputs.max(outputs) * pixels);
            norm1.forward(x, &mut normed[..x.len()]);
            let embedding = &embedding[n * outputs..(n + 1) * outputs];
            let bias: Vec<f32> = embedding.iter().zip(parts.conv1[1]).map(|(a, b)| a + b).collect();
            conv1.run_from(&normed[..x.len()], hidden, pixels, Some(&blocks_of(&bias)));
            norm2.forward(hidden, &mut normed[..y.len()]);
            if let Some(skip) = &skip {
                skip.run(x, y, pixels);
                conv2.run_from(&normed[..y.len()], y, pixels, None);
            } else {
                conv2.run(&normed[..y.len()], y, pixels);
                add(self.isa, x, y);
            }
        };
        let size = outputs * pixels;
        let mut y = Fresh::new(images * size);
        if let Some(saved) = &self.hidden {
            let mut hidden = Fresh::new(images * size);
            let outputs = y.par_chunks_mut(size).zip(hidden.par_chunks_mut(size));
            outputs.enumerate().for_each(|(n, (y, hidden))| image(n, hidden, y));
            // Set once: an operation runs forward once.
            let _ = saved.set(hidden.finish());
        } else {
            y.par_chunks_mut(size).enumerate().for_each(|(n, y)| image(n, &mut Scratch::new(size), y));
        }
        y.finish()
    }

    /// Gradients of x, the packed parameters and the embedding.
    fn backward(&self, x: &[f32], parameters: &[f32], hidden: &[f32], dy: &[f32]) -> [Vec<f32>; 3] {
        let Sizes { images, inputs, outputs, kernel, .. } = self.sizes;
        let pixels = self.sizes.pixels();
        let (size_in, size_out) = (inputs * pixels, outputs * pixels);
        let parts = self.sizes.parts(parameters);
        let pass = BackwardPass {
            op: self,
            norm1: self.norm(parts.norm1),
            norm2: self.norm(parts.norm2),
            conv1: self.scatter(kernel, inputs, parts.conv1[0]),
            conv2: self.scatter(kernel, outputs, parts.conv2[0]),
            skip: self.sizes.skip.then(|| self.scatter(1, inputs, parts.skip[0])),
        };
        let gradient =
            |kernel, inputs| WeightGradient::new(self.isa, self.sizes.geometry(kernel), outputs, inputs);
        let (by_conv1, by_conv2) = (gradient(kernel, inputs), gradient(kernel, outputs));
        let by_skip = self.sizes.skip.then(|| gradient(1, inputs));

        let mut dx = Fresh::new(images * size_in);
        let mut de = vec![0.0; images * outputs];
        let mut sums1 = vec![[0.0; 2]; images * inputs];
        let mut sums2 = vec![[0.0; 2]; images * outputs];
        let partials: Vec<(Partial, Partial, Option<Partial>)> = dx
            .par_chunks_mut(CHUNK * size_in)
            .zip(de.par_chunks_mut(CHUNK * outputs))
            .zip(sums1.par_chunks_mut(CHUNK * inputs).zip(sums2.par_chunks_mut(CHUNK * outputs)))
            .zip(x.par_chunks(CHUNK * size_in).zip(hidden.par_chunks(CHUNK * size_out)))
            .zip(dy.par_chunks(CHUNK * size_out))
            .map(|((((dx, de), (sums1, sums2)), (x, hidden)), dy)| {
                let mut sums = Sums {
                    conv1: by_conv1.begin(),
                    conv2: by_conv2.begin(),
                    skip: by_skip.as_ref().map(WeightGradient::begin),
                };
                for i in 0..dx.len() / size_in {
                    let (large, small) = (i * size_in..(i + 1) * size_in, i * size_out..(i + 1) * size_out);
                    pass.image(
                        [&x[large.clone()], &hidden[small.clone()], &dy[small]],
                        &mut dx[large],
                        &mut de[i * outputs..(i + 1) * outputs],
                        &mut sums1[i * inputs..(i + 1) * inputs],
                        &mut sums2[i * outputs..(i + 1) * outputs],
                        &mut sums,
                    );
                }
                (sums.conv1.finish(), sums.conv2.finish(), sums.skip.map(Running::finish))
            })
            .collect();

        let mut dp = Vec::with_capacity(parameters.len());
        let (mut first, mut second, mut skips) = (Vec::new(), Vec::new(), Vec::new());
        for (conv1, conv2, skip) in partials {
            first.push(conv1);
            second.push(conv2);
            skips.extend(skip);
        }
        for (sums, channels, by_conv, partials) in
            [(sums1, inputs, by_conv1, first), (sums2, outputs, by_conv2, second)]
        {
            for which in 0..2 {
                dp.extend(
                    (0..channels).map(|c| sums[c..].iter().step_by(channels).map(|s| s[which]).sum::<f32>()),
                );
            }
            let (weight, bias) = by_conv.finish(&partials);
            dp.extend(weight);
            dp.extend(bias);
        }
        if let Some(by_skip) = by_skip {
            let (weight, bias) = by_skip.finish(&skips);
            dp.extend(weight);
            dp.extend(bias);
        }
        [dx.finish(), dp, de]
    }
}

/// What the backward pass of every image uses.
struct BackwardPass<'a> {
    op: &'a Op,
    norm1: Norm<'a>,
    norm2: Norm<'a>,
    conv1: Scatter,
    conv2: Scatter,
    skip: Option<Scatter>,
}

/// Weight gradients in the making.
struct Sums<'a> {
    conv1: Running<'a>,
    conv2: Running<'a>,
    skip: Option<Running<'a>>,
}

impl BackwardPass<'_> {
    /// One image: from the last layer to the first.
    fn image(
        &self,
        [x, hidden, dy]: [&[f32]; 3],
        dx: &mut [f32],
        de: &mut [f32],
        sums1: &mut [[f32; 2]],
        sums2: &mut [[f32; 2]],
        sums: &mut Sums<'_>,
    ) {
        let isa = self.op.isa;
        let pixels = self.op.sizes.pixels();
        let mut normed = Scratch::new(x.len().max(hidden.len()));
        let mut back = Scratch::new(x.len().max(hidden.len()));
        let mut d_hidden = Scratch::new(hidden.len());
        let mut slopes = Scratch::new(x.len().max(hidden.len()));

        self.norm2.forward_with_slopes(hidden, &mut normed[..hidden.len()], &mut slopes);
        sums.conv2.add(dy, &normed[..hidden.len()]);
        self.conv2.run(dy, &mut back[..hidden.len()]);
        self.norm2.backward(hidden, &back[..hidden.len()], &slopes, &mut d_hidden, sums2);
        for (de, row) in de.iter_mut().zip(d_hidden.chunks_exact(pixels)) {
            *de = vector::sum(isa, row);
        }

        self.norm1.forward_with_slopes(x, &mut normed[..x.len()], &mut slopes);
        sums.conv1.add(&d_hidden, &normed[..x.len()]);
        self.conv1.run(&d_hidden, &mut back[..x.len()]);
        self.norm1.backward(x, &back[..x.len()], &slopes, dx, sums1);
        if let (Some(skip), Some(sums)) = (&self.skip, &mut sums.skip) {
            sums.add(dy, x);
            skip.run(dy, &mut back[..x.len()]);
            add(isa, &back[..x.len()], dx);
        } else {
            add(isa, dy, dx);
        }
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
        let Sizes { images, outputs, height, width, .. } = self.sizes;
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
