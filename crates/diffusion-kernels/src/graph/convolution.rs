//! Convolution and transposed convolution as one candle operation. Each computes the other's input
//! gradient.

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
use crate::graph::tasks::{CHUNK, sum_in_order, total};
use crate::image::convolution::{Convolution, Geometry};
use crate::image::pixels::{Pixels, padded_len};
use crate::image::weight_gradient::WeightGradient;
use crate::memory::buffer::Buffer;
use crate::memory::storage::with_elements;
use crate::memory::uninit::UninitVec;

/// The largest padding, before and after together, in pixels. It keeps the size computations from
/// overflow.
const MAX_PADDING: usize = 1 << 16;

/// The kind of convolution.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Direction {
    /// A convolution, from a window of inputs to one output.
    Gather,
    /// A transposed convolution, from one input to a window of outputs.
    Scatter,
}

/// The sizes of one call. The small side has one pixel for each window of the large side. Weights
/// are (small, large, K, K).
#[derive(Clone, Copy, Debug)]
struct Sizes {
    images: usize,
    /// The numbers of channels of the small side and of the large side.
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
    /// The numbers of floats of an image on the small side and on the large side.
    fn lens(&self) -> [usize; 2] {
        [self.channels[0] * self.geometry.small_len(), self.channels[1] * self.geometry.large_len()]
    }
}

/// The arguments of one call.
#[derive(Clone, Copy, Debug)]
struct Plan {
    direction: Direction,
    stride: usize,
    padding: Padding,
}

/// The backward operation: from `y` to `x`, the weight and the bias.
struct Op {
    isa: Isa,
    direction: Direction,
    sizes: Sizes,
    x: Arc<Map>,
    y: Arc<Map>,
}

/// The convolution or transposed convolution of `x`, plus the bias.
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
                "{}: {outputs} output channels need a bias of shape [{outputs}], got {:?}",
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
        let dims = match *weight.dims() {
            [small, large] => Some([small, large, 1, 1]),
            [small, large, kernel, kernel_w] => Some([small, large, kernel, kernel_w]),
            _ => None,
        };
        let Some([small, large, kernel, kernel_w]) = dims else {
            let order = if direction == Direction::Gather { "Cout, Cin" } else { "Cin, Cout" };
            bail!("{name}: the weight must have the shape ({order}, K, K), got {weight:?}");
        };
        let size = format!("{h}×{w}");
        let expected = if direction == Direction::Gather { large } else { small };
        if inputs != expected {
            bail!("{name}: the images have {inputs} channels, weight {weight:?} needs {expected}");
        }
        if kernel != kernel_w || kernel == 0 {
            bail!("{name}: the kernel must be square and not empty, got weight {weight:?}");
        }
        if stride == 0 {
            bail!("{name}: the stride must not be 0");
        }
        if images * h * w * inputs * weight.elem_count() == 0 {
            bail!(
                "{name}: images and weight must not be empty, got {images} images of {size} with {inputs} channels \
                 and weight {weight:?}"
            );
        }
        let Padding { before, after } = padding;
        let Some(around) = before.checked_add(after).filter(|&around| around <= MAX_PADDING) else {
            bail!(
                "{name}: padding must be at most {MAX_PADDING} (before + after), got {before} + {after}"
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
                        "{name}: the output would be empty or too large for images of {size} with weight {weight:?} \
                         and padding {before}"
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
        let mut y = UninitVec::from_pool(self.images * len);
        run_all(&convolution, (&x.values, input), (&mut y, len));
        Map::new(y.into_buffer(), [self.images, height, width, self.outputs(direction)])
    }
}

/// Convolves all images of `x` into `y`, each given with the number of floats of an image.
fn run_all(
    convolution: &Convolution,
    (x, input): (&[f32], usize),
    (y, output): (&mut UninitVec, usize),
) {
    if let Some(group) = convolution.group() {
        let pairs = y.chunks(group * output).into_iter().zip(x.chunks(group * input));
        pairs.for_each(|(y, x)| convolution.run(x, y));
    } else {
        let pairs = y.par_chunks(output).zip(x.par_chunks_exact(input));
        pairs.for_each(|(y, x)| convolution.run(x, y));
    }
}

impl MapOp for Op {
    const NAME: &'static str = "diffusion-convolution";

    /// The last gradient is that of the bias. It is computed even without a bias, and then ignored.
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
        let weight_gradient = WeightGradient::new(isa, sizes.geometry, sizes.channels);
        let group = weight_gradient.group();
        let together = group.unwrap_or(1);
        let sum = |x: &[f32], dy: &[f32]| {
            let mut sums = weight_gradient.begin();
            let mut db = vec![0.0; padded_len(outputs)];
            for (x, dy) in x.chunks(together * input).zip(dy.chunks(together * len)) {
                match direction {
                    Direction::Gather => sums.add(dy, x),
                    Direction::Scatter => {
                        sums.add(x, dy);
                        add_up(isa, &Pixels::new(dy, outputs), &mut db);
                    }
                }
            }
            let (dw, small) = sums.finish();
            (dw, if direction == Direction::Gather { small } else { db })
        };
        let mut dx_token = None;
        if token.track_op() {
            let transposed =
                with_elements([weight], |[weight]| Ok(sizes.convolution(isa, back, weight, None)))?;
            let mut dx = UninitVec::from_pool(sizes.images * input);
            run_all(&transposed, (&dy, len), (&mut dx, input));
            dx_token = self.x.accumulate_gradient(isa, token, || dx.into_buffer())?;
        }
        let partials: Vec<(Buffer, Vec<f32>)> = if group.is_some() {
            vec![sum(&self.x.values, &dy)]
        } else {
            let pairs = self.x.values.par_chunks(CHUNK * input).zip(dy.par_chunks(CHUNK * len));
            pairs.map(|(x, dy)| sum(x, dy)).collect()
        };
        let (weights, biases): (Vec<_>, Vec<_>) = partials.into_iter().unzip();
        let dw = Tensor::from_vec(total(isa, weights), weight.shape(), &Device::Cpu)?;
        let db = Tensor::from_vec(sum_in_order(isa, &biases, outputs), outputs, &Device::Cpu)?;
        Ok(vec![dx_token, Some(dw), Some(db)])
    }
}
