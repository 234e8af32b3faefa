//! Convolution and transposed convolution as one candle operation: each is the other's transpose.
//!
//! Images have their channels last.

use candle_core::{CpuStorage, CustomOp2, CustomOp3, Device, Layout, Result, Shape, Tensor, bail};
use rayon::prelude::*;

use crate::engine::{Convolution, Geometry};
use crate::fresh::Fresh;
use crate::isa::Isa;
use crate::pixels::{Pixels, padded_len};
use crate::storage::{elements, output, with_elements};
use crate::vector::{add, add_up};
use crate::weight_gradient::WeightGradient;

/// Images whose weight gradients one task adds up. A constant: the order of additions is the same for any
/// number of threads.
pub(crate) const CHUNK: usize = 4;

/// Which of the two an operation is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Direction {
    /// Convolution: a window of inputs to one output.
    Gather,
    /// Transposed convolution: one input to a window of outputs.
    Scatter,
}

/// The sizes of one call. The small side has one element a window; weights are (small, large, K, K).
#[derive(Clone, Copy, Debug)]
struct Sizes {
    images: usize,
    /// Channels of the small side and of the large one.
    channels: [usize; 2],
    geometry: Geometry,
}

impl Sizes {
    /// Floats of an image on the small side, and on the large one.
    fn lens(&self) -> [usize; 2] {
        [self.channels[0] * self.geometry.small_len(), self.channels[1] * self.geometry.large_len()]
    }
}

#[derive(Clone, Copy, Debug)]
struct Op {
    isa: Isa,
    direction: Direction,
    stride: usize,
    padding: usize,
}

/// Images `x` (N, H, W, Cin), convolved to (N, H', W', Cout).
pub(crate) fn convolution(
    isa: Isa,
    direction: Direction,
    x: &Tensor,
    weight: &Tensor,
    bias: Option<&Tensor>,
    stride: usize,
    padding: usize,
) -> Result<Tensor> {
    let op = Op { isa, direction, stride, padding };
    let [small, large] = op.sizes(x.shape(), weight.shape())?.channels;
    let outputs = if direction == Direction::Gather { small } else { large };
    let weight = weight.contiguous()?;
    match bias {
        Some(bias) if bias.dims() != [outputs] => {
            bail!("{}: a bias of shape {:?} for {outputs} output channels", op.name(), bias.dims())
        }
        Some(bias) => x.apply_op3(&weight, &bias.contiguous()?, op),
        None => x.apply_op2(&weight, op),
    }
}

impl Op {
    fn name(&self) -> &'static str {
        match self.direction {
            Direction::Gather => "conv2d",
            Direction::Scatter => "conv_transpose2d",
        }
    }

    fn sizes(&self, x: &Shape, weight: &Shape) -> Result<Sizes> {
        let &Self { direction, stride, padding, .. } = self;
        let name = self.name();
        let &[images, h, w, inputs] = x.dims() else { bail!("{name} wants images, got {x:?}") };
        let &[small, large, kernel, kernel_w] = weight.dims() else {
            let order = if direction == Direction::Gather { "Cout, Cin" } else { "Cin, Cout" };
            bail!("{name} wants a weight ({order}, K, K), got {weight:?}");
        };
        let size = format!("{h}×{w}");
        let wanted = if direction == Direction::Gather { large } else { small };
        if inputs != wanted {
            bail!("{name}: the images have {inputs} channels, weight {weight:?} wants {wanted}");
        }
        if kernel != kernel_w || kernel == 0 {
            bail!("{name} wants a square kernel, got weight {weight:?}");
        }
        if stride == 0 {
            bail!("{name}: the stride must not be 0");
        }
        if x.elem_count() == 0 || weight.elem_count() == 0 {
            bail!("{name}: nothing to do for {images} images of {size} with {inputs} channels and weight {weight:?}");
        }
        let geometry = |large, small| Geometry { kernel, stride, padding, large, small };
        let geometry = match direction {
            Direction::Gather => {
                if h.min(w) + 2 * padding < kernel {
                    bail!("{name}: the kernel of {weight:?} is larger than images of {size} with padding {padding}");
                }
                let side = |large: usize| (large + 2 * padding - kernel) / stride + 1;
                geometry((h, w), (side(h), side(w)))
            }
            Direction::Scatter => {
                let side = |small: usize| (small.checked_sub(1)? * stride + kernel).checked_sub(2 * padding);
                let (Some(large_h @ 1..), Some(large_w @ 1..)) = (side(h), side(w)) else {
                    bail!("{name}: nothing is left of images of {size} with weight {weight:?} and padding {padding}");
                };
                geometry((large_h, large_w), (h, w))
            }
        };
        Ok(Sizes { images, channels: [small, large], geometry })
    }

    fn convolution(
        direction: Direction,
        isa: Isa,
        sizes: &Sizes,
        weight: &[f32],
        bias: Option<&[f32]>,
    ) -> Convolution {
        match direction {
            Direction::Gather => Convolution::gathering(isa, sizes.geometry, sizes.channels, weight, bias),
            Direction::Scatter => Convolution::scattering(isa, sizes.geometry, sizes.channels, weight, bias),
        }
    }

    fn forward(
        &self,
        x: &[f32],
        lx: &Layout,
        weight: &[f32],
        lw: &Layout,
        bias: Option<&[f32]>,
    ) -> Result<(CpuStorage, Shape)> {
        let sizes = self.sizes(lx.shape(), lw.shape())?;
        let convolution = Self::convolution(self.direction, self.isa, &sizes, weight, bias);
        let ([small, large], Geometry { small: small_side, large: large_side, .. }) =
            (sizes.lens(), sizes.geometry);
        let (input, len, channels, (height, width)) = match self.direction {
            Direction::Gather => (large, small, sizes.channels[0], small_side),
            Direction::Scatter => (small, large, sizes.channels[1], large_side),
        };
        let mut y = Fresh::new(sizes.images * len);
        y.par_chunks(len).zip(x.par_chunks_exact(input)).for_each(|(y, x)| convolution.run(x, y));
        Ok(output(y.finish(), (sizes.images, height, width, channels)))
    }

    /// Gradients of x (if wanted), weight and bias.
    fn backward(&self, x: &Tensor, weight: &Tensor, dy: &Tensor) -> Result<(Option<Tensor>, Tensor, Tensor)> {
        let sizes = self.sizes(x.shape(), weight.shape())?;
        let ([small, large], [small_channels, large_channels]) = (sizes.lens(), sizes.channels);
        let (back, input, len, outputs) = match self.direction {
            Direction::Gather => (Direction::Scatter, large, small, small_channels),
            Direction::Scatter => (Direction::Gather, small, large, large_channels),
        };
        let (dx, dw, db) = with_elements([x, weight, dy], |[x_data, w, dy]| {
            let by_weight = WeightGradient::new(self.isa, sizes.geometry, sizes.channels);
            let by_input = x.track_op().then(|| Self::convolution(back, self.isa, &sizes, w, None));
            let mut dx = Fresh::new(if by_input.is_some() { sizes.images * input } else { 0 });
            let sum = |x: &[f32], dy: &[f32]| {
                let mut running = by_weight.begin();
                let mut db = vec![0.0; padded_len(outputs)];
                for (x, dy) in x.chunks_exact(input).zip(dy.chunks_exact(len)) {
                    match self.direction {
                        Direction::Gather => running.add(dy, x),
                        Direction::Scatter => {
                            running.add(x, dy);
                            add_up(self.isa, &Pixels::new(dy, outputs), &mut db);
                        }
                    }
                }
                let (dw, small) = running.finish();
                (dw, if self.direction == Direction::Gather { small } else { db })
            };
            let given = x_data.par_chunks(CHUNK * input).zip(dy.par_chunks(CHUNK * len));
            let partials: Vec<(Vec<f32>, Vec<f32>)> = if let Some(by_input) = &by_input {
                dx.par_chunks(CHUNK * input)
                    .zip(given)
                    .map(|(dx, (x, dy))| {
                        for (dy, dx) in dy.chunks_exact(len).zip(dx.chunks(input)) {
                            by_input.run(dy, dx);
                        }
                        sum(x, dy)
                    })
                    .collect()
            } else {
                given.map(|(x, dy)| sum(x, dy)).collect()
            };
            let (mut dw, mut db) = (vec![0.0; w.len()], vec![0.0; outputs]);
            for (weights, bias) in &partials {
                add(self.isa, weights, &mut dw);
                add(self.isa, bias, &mut db);
            }
            Ok((by_input.is_some().then(|| dx.finish()), dw, db))
        })?;
        let dx = dx.map(|dx| Tensor::from_vec(dx, x.shape(), &Device::Cpu)).transpose()?;
        let dw = Tensor::from_vec(dw, weight.shape(), &Device::Cpu)?;
        Ok((dx, dw, Tensor::from_vec(db, outputs, &Device::Cpu)?))
    }
}

impl CustomOp2 for Op {
    fn name(&self) -> &'static str {
        "diffusion-convolution"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        lx: &Layout,
        w: &CpuStorage,
        lw: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        self.forward(elements(x, lx)?, lx, elements(w, lw)?, lw, None)
    }

    fn bwd(
        &self,
        x: &Tensor,
        w: &Tensor,
        _: &Tensor,
        dy: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let (dx, dw, _) = self.backward(x, w, dy)?;
        Ok((dx, Some(dw)))
    }
}

impl CustomOp3 for Op {
    fn name(&self) -> &'static str {
        "diffusion-convolution-bias"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        lx: &Layout,
        w: &CpuStorage,
        lw: &Layout,
        b: &CpuStorage,
        lb: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        self.forward(elements(x, lx)?, lx, elements(w, lw)?, lw, Some(elements(b, lb)?))
    }

    fn bwd(
        &self,
        x: &Tensor,
        w: &Tensor,
        _b: &Tensor,
        _: &Tensor,
        dy: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let (dx, dw, db) = self.backward(x, w, dy)?;
        Ok((dx, Some(dw), Some(db)))
    }
}
