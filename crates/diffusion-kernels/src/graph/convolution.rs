//! Convolution and transposed convolution as one candle operation: each is the other's transpose.
//!
//! Images have their channels last.

use std::fmt;
use std::sync::Arc;

use candle_core::{Device, Result, Shape, Tensor, bail};
use rayon::prelude::*;
use tracing::trace_span;

use crate::Padding;
use crate::arith::isa::Isa;
use crate::arith::vector::add_up;
use crate::graph::map::{Map, Node};
use crate::graph::op::MapOp;
use crate::graph::tasks::{CHUNK, sum_in_order};
use crate::image::convolution::{Convolution, Geometry};
use crate::image::pixels::{Pixels, padded_len};
use crate::image::weight_gradient::WeightGradient;
use crate::memory::buffer::Buffer;
use crate::memory::fresh::Fresh;
use crate::memory::storage::with_elements;

/// More padding, on both sides together, is refused before sizes are computed with it.
const MOST_PADDING: usize = 1 << 16;

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

impl fmt::Display for Sizes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Geometry { kernel, stride, small, large, .. } = self.geometry;
        let [a, b] = self.channels;
        write!(
            f,
            "{}×{} by {}×{}, {a} and {b} channels, {kernel}×{kernel}",
            small.0, small.1, large.0, large.1
        )?;
        if stride == 1 { Ok(()) } else { write!(f, " /{stride}") }
    }
}

impl Sizes {
    /// Floats of an image on the small side, and on the large one.
    fn lens(&self) -> [usize; 2] {
        [self.channels[0] * self.geometry.small_len(), self.channels[1] * self.geometry.large_len()]
    }
}

/// What is to be done, before sizes are known.
#[derive(Clone, Copy, Debug)]
struct Plan {
    direction: Direction,
    stride: usize,
    padding: Padding,
}

/// Leads the gradient of `y` back to `x`, the weight and the bias.
struct Op {
    isa: Isa,
    direction: Direction,
    sizes: Sizes,
    x: Arc<Map>,
    y: Arc<Map>,
}

/// `x`, convolved or convolved transposed, plus the bias.
pub(crate) fn convolution(
    isa: Isa,
    direction: Direction,
    x: &Node,
    (weight, bias): (&Tensor, Option<&Tensor>),
    stride: usize,
    padding: Padding,
) -> Result<Node> {
    let plan = Plan { direction, stride, padding };
    let sizes = plan.sizes(x.map.dims, weight.shape())?;
    let _span = trace_span!("convolution, forward", shape = %sizes).entered();
    let outputs = sizes.outputs(direction);
    let y = match bias {
        Some(bias) if bias.dims() != [outputs] => {
            bail!(
                "{}: a bias of shape {:?} for {outputs} output channels",
                plan.name(),
                bias.dims()
            )
        }
        Some(bias) => with_elements([weight, bias], |[w, b]| {
            Ok(sizes.forward(isa, direction, &x.map, w, Some(b)))
        })?,
        None => with_elements([weight], |[w]| Ok(sizes.forward(isa, direction, &x.map, w, None)))?,
    };
    let parameters = [Some(weight), bias];
    let parameters: Vec<&Tensor> = parameters.into_iter().flatten().collect();
    Node::new(y, &[x], &parameters, |y| Op { isa, direction, sizes, x: x.map.clone(), y })
}

impl Plan {
    fn name(&self) -> &'static str {
        match self.direction {
            Direction::Gather => "conv2d",
            Direction::Scatter => "conv_transpose2d",
        }
    }

    fn sizes(&self, [images, h, w, inputs]: [usize; 4], weight: &Shape) -> Result<Sizes> {
        let &Self { direction, stride, padding, .. } = self;
        let name = self.name();
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
        if images * h * w * inputs * weight.elem_count() == 0 {
            bail!(
                "{name}: nothing to do for {images} images of {size} with {inputs} channels and weight {weight:?}"
            );
        }
        let Padding { before, after } = padding;
        let Some(around) = before.checked_add(after).filter(|&around| around <= MOST_PADDING)
        else {
            bail!(
                "{name}: padding of {before} and {after}; more than {MOST_PADDING} zeros are a slip of the finger"
            );
        };
        let geometry = |large, small| Geometry { kernel, stride, padding: before, large, small };
        let geometry = match direction {
            Direction::Gather => {
                if h.min(w) + around < kernel {
                    bail!(
                        "{name}: the kernel of {weight:?} is larger than images of {size} with padding {before} and {after}"
                    );
                }
                let side = |large: usize| (large + around - kernel) / stride + 1;
                geometry((h, w), (side(h), side(w)))
            }
            Direction::Scatter => {
                let side = |small: usize| {
                    small
                        .checked_sub(1)?
                        .checked_mul(stride)?
                        .checked_add(kernel)?
                        .checked_sub(around)
                };
                let (Some(large_h @ 1..), Some(large_w @ 1..)) = (side(h), side(w)) else {
                    bail!(
                        "{name}: nothing is left of images of {size} with weight {weight:?} and padding {before}"
                    );
                };
                geometry((large_h, large_w), (h, w))
            }
        };
        Ok(Sizes { images, channels: [small, large], geometry })
    }
}

impl Sizes {
    fn outputs(&self, direction: Direction) -> usize {
        self.channels[usize::from(direction == Direction::Scatter)]
    }

    fn convolution(
        &self,
        isa: Isa,
        direction: Direction,
        weight: &[f32],
        bias: Option<&[f32]>,
    ) -> Convolution {
        match direction {
            Direction::Gather => {
                Convolution::gathering(isa, self.geometry, self.channels, weight, bias)
            }
            Direction::Scatter => {
                Convolution::scattering(isa, self.geometry, self.channels, weight, bias)
            }
        }
    }

    fn forward(
        &self,
        isa: Isa,
        direction: Direction,
        x: &Map,
        weight: &[f32],
        bias: Option<&[f32]>,
    ) -> Arc<Map> {
        let convolution = self.convolution(isa, direction, weight, bias);
        let [small, large] = self.lens();
        let (input, len, (height, width)) = match direction {
            Direction::Gather => (large, small, self.geometry.small),
            Direction::Scatter => (small, large, self.geometry.large),
        };
        let mut y = Fresh::recycled(self.images * len);
        y.par_chunks(len)
            .zip(x.values.par_chunks_exact(input))
            .for_each(|(y, x)| convolution.run(x, y));
        Map::new(y.keep(), [self.images, height, width, self.outputs(direction)])
    }
}

impl MapOp for Op {
    const NAME: &'static str = "diffusion-convolution";

    /// The last gradient is the bias', whether there is one or not.
    fn backward(&self, arguments: &[&Tensor], dtoken: &Tensor) -> Result<Vec<Option<Tensor>>> {
        let (token, weight) = (arguments[0], arguments[1]);
        let &Self { isa, direction, sizes, .. } = self;
        let _span = trace_span!("convolution, backward", shape = %sizes).entered();
        let [small, large] = sizes.lens();
        let (back, input, len) = match direction {
            Direction::Gather => (Direction::Scatter, large, small),
            Direction::Scatter => (Direction::Gather, small, large),
        };
        let outputs = sizes.outputs(direction);
        let dy = self.y.take_gradient(dtoken)?;
        let by_weight = WeightGradient::new(isa, sizes.geometry, sizes.channels);
        let sum = |x: &[f32], dy: &[f32]| {
            let mut running = by_weight.begin();
            let mut db = vec![0.0; padded_len(outputs)];
            for (x, dy) in x.chunks_exact(input).zip(dy.chunks_exact(len)) {
                match direction {
                    Direction::Gather => running.add(dy, x),
                    Direction::Scatter => {
                        running.add(x, dy);
                        add_up(isa, &Pixels::new(dy, outputs), &mut db);
                    }
                }
            }
            let (dw, small) = running.finish();
            (dw, if direction == Direction::Gather { small } else { db })
        };
        let given = self.x.values.par_chunks(CHUNK * input).zip(dy.par_chunks(CHUNK * len));
        let mut back_to_x = None;
        let partials: Vec<(Buffer, Vec<f32>)> = if token.track_op() {
            let by_input =
                with_elements([weight], |[weight]| Ok(sizes.convolution(isa, back, weight, None)))?;
            let mut dx = Fresh::recycled(sizes.images * input);
            let partials = dx
                .par_chunks(CHUNK * input)
                .zip(given)
                .map(|(dx, (x, dy))| {
                    dy.chunks_exact(len)
                        .zip(dx.chunks(input))
                        .for_each(|(dy, dx)| by_input.run(dy, dx));
                    sum(x, dy)
                })
                .collect();
            back_to_x = self.x.lead_back(isa, token, || dx.keep())?;
            partials
        } else {
            given.map(|(x, dy)| sum(x, dy)).collect()
        };
        let (weights, biases): (Vec<_>, Vec<_>) = partials.into_iter().unzip();
        let dw = Tensor::from_vec(
            sum_in_order(isa, &weights, weight.elem_count()),
            weight.shape(),
            &Device::Cpu,
        )?;
        let db = Tensor::from_vec(sum_in_order(isa, &biases, outputs), outputs, &Device::Cpu)?;
        Ok(vec![back_to_x, Some(dw), Some(db)])
    }
}
