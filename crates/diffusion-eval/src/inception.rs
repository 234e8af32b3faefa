//! Inception-v3, whose features define the FID.

mod plan;
mod resize;

use std::collections::HashMap;
use std::path::Path;

use candle_core::{DType, Device, Tensor, bail};
use diffusion_kernels::{FeatureMap, in_pool};
use diffusion_nn::Conv2d;

use crate::EvalError;
use plan::{Plan, Pool, Step};

/// The height and width of the network's input, in pixels.
const SIDE: usize = 299;

/// Added to the variances of batch normalisation before the square root.
const EPS: f64 = 1e-3;

/// Inception-v3 up to its last pooling, for the FID (Heusel et al. 2017).
///
/// Weights and arithmetic are those of the package `pytorch-fid`, so results can be compared with
/// published ones. The weights are those of `pt_inception-2015-12-05-6726825d.pth`, saved as
/// safetensors with the same tensor names. Other tensors of the file, such as the classifier, are
/// ignored.
#[derive(Clone, Debug)]
pub struct Inception {
    steps: Vec<Step<Convolution>>,
}

impl Inception {
    /// The number of features of an image.
    pub const WIDTH: usize = 2048;

    /// Reads the weights from the safetensors file `path` and places them on `device`.
    ///
    /// # Errors
    /// Fails with [`EvalError::Weights`] if the file does not exist or is not a safetensors file,
    /// or if a tensor is missing, has another shape or gives weights that are not finite.
    pub fn open(path: &Path, device: &Device) -> Result<Self, EvalError> {
        candle_core::safetensors::load(path, &Device::Cpu)
            .map_err(EvalError::from)
            .and_then(|tensors| Self::new(&tensors, device))
            .map_err(|reason| EvalError::Weights {
                path: path.to_owned(),
                reason: Box::new(reason),
            })
    }

    /// The network on `device`, from `tensors` by name, such as
    /// `Mixed_5b.branch1x1.bn.running_var`. The tensors must be on the CPU and can have any float
    /// type.
    ///
    /// # Errors
    /// If a tensor is missing, has another shape or gives weights that are not finite.
    pub fn new(tensors: &HashMap<String, Tensor>, device: &Device) -> Result<Self, EvalError> {
        let (steps, channels) = Weights { tensors, device }.load(plan::network(), 3)?;
        debug_assert_eq!(channels, Self::WIDTH);
        Ok(Self { steps })
    }

    /// The features (N, 2048) in f32 of `images` (N, 1 or 3, H, W) in \[−1, 1\], on the network's
    /// device.
    ///
    /// Images can have any size. A grey channel is repeated three times. Images are resized to
    /// 299 × 299 by bilinear interpolation without smoothing. This is a poor way to shrink images,
    /// but the FID is defined with it. The network takes about 25 MB of memory per image.
    ///
    /// # Errors
    /// If `images` has another shape or is empty. An error of the device.
    pub fn features(&self, images: &Tensor) -> candle_core::Result<Tensor> {
        let (n, channels, h, w) = images.dims4()?;
        if !matches!(channels, 1 | 3) || images.elem_count() == 0 {
            bail!("Inception needs images (N, 1 or 3, H, W), got {:?}", images.shape());
        }
        let images = images.to_dtype(DType::F32)?.broadcast_as((n, 3, h, w))?.contiguous()?;
        in_pool(|| run(&self.steps, resize::resize(&images, SIDE)?)?.mean((2, 3)))
    }
}

/// A convolution with its normalisation folded in: the factors into the weight, the shifts into the
/// bias.
#[derive(Clone, Debug)]
struct Convolution {
    /// If `line` is set: a 1 × 1 convolution of K·Cin channels, ordered by position in the kernel.
    conv: Conv2d,
    line: Option<Line>,
}

/// The direction and padding of a 1 × K or K × 1 kernel.
#[derive(Clone, Copy, Debug)]
struct Line {
    /// The dimension of the images along the kernel.
    dim: usize,
    /// Zeros at both ends of that dimension, (K − 1)/2.
    padding: usize,
}

impl Convolution {
    fn forward(&self, x: &Tensor) -> candle_core::Result<Tensor> {
        let x = match self.line {
            None => x.clone(),
            // Only square kernels exist: the neighbours along the line become channels of a pixel.
            Some(Line { dim, padding }) => {
                let size = x.dim(dim)?;
                let padded = x.pad_with_zeros(dim, padding, padding)?;
                let neighbours = (0..=2 * padding).map(|i| padded.narrow(dim, i, size));
                Tensor::cat(&neighbours.collect::<candle_core::Result<Vec<_>>>()?, 1)?
            }
        };
        self.conv.forward(&FeatureMap::from_images(&x)?)?.to_images()?.relu()
    }
}

fn run(steps: &[Step<Convolution>], mut x: Tensor) -> candle_core::Result<Tensor> {
    for step in steps {
        x = match step {
            Step::Convolution(convolution) => convolution.forward(&x)?,
            Step::Pool(pool) => pool.apply(&x)?,
            Step::Branches(branches) => {
                let outputs = branches.iter().map(|branch| run(branch, x.clone()));
                Tensor::cat(&outputs.collect::<candle_core::Result<Vec<_>>>()?, 1)?
            }
        };
    }
    Ok(x)
}

impl Pool {
    fn apply(self, x: &Tensor) -> candle_core::Result<Tensor> {
        let bordered = |x: &Tensor| x.pad_with_zeros(2, 1, 1)?.pad_with_zeros(3, 1, 1);
        let mean = |x: &Tensor| bordered(x)?.avg_pool2d_with_stride(3, 1);
        match self {
            Self::Halve => x.max_pool2d_with_stride(3, 2),
            // After a ReLU, zeros at the border are never larger than the values inside.
            Self::Max => bordered(x)?.max_pool2d_with_stride(3, 1),
            // The mean of ones is the share of each window inside the image.
            Self::Mean => {
                let (_, _, h, w) = x.dims4()?;
                mean(x)?.broadcast_div(&mean(&Tensor::ones((1, 1, h, w), x.dtype(), x.device())?)?)
            }
        }
    }
}

/// The tensors of the file and the device of the network.
struct Weights<'a> {
    tensors: &'a HashMap<String, Tensor>,
    device: &'a Device,
}

impl Weights<'_> {
    /// Loads the weights of `steps` for input with `channels` channels. Also returns the number of
    /// output channels.
    fn load(
        &self,
        steps: Vec<Step<Plan>>,
        mut channels: usize,
    ) -> Result<(Vec<Step<Convolution>>, usize), EvalError> {
        let mut loaded = Vec::with_capacity(steps.len());
        for step in steps {
            loaded.push(match step {
                Step::Convolution(plan) => {
                    let convolution = self.convolution(&plan, channels)?;
                    channels = plan.outputs;
                    Step::Convolution(convolution)
                }
                Step::Pool(pool) => Step::Pool(pool),
                Step::Branches(branches) => {
                    let branches = branches.into_iter().map(|branch| self.load(branch, channels));
                    let (branches, outputs): (Vec<_>, Vec<_>) =
                        branches.collect::<Result<Vec<_>, _>>()?.into_iter().unzip();
                    channels = outputs.iter().sum();
                    Step::Branches(branches)
                }
            });
        }
        Ok((loaded, channels))
    }

    fn convolution(&self, plan: &Plan, inputs: usize) -> Result<Convolution, EvalError> {
        let &Plan { ref name, outputs, kernel: [h, w], stride, padded } = plan;
        let weight = self.tensor(&format!("{name}.conv.weight"), &[outputs, inputs, h, w])?;
        let norm = |part| self.tensor(&format!("{name}.bn.{part}"), &[outputs]);
        let factors = (norm("weight")? / (norm("running_var")? + EPS)?.sqrt()?)?;
        let bias = (norm("bias")? - norm("running_mean")?.mul(&factors)?)?;
        let weight = weight.broadcast_mul(&factors.reshape((outputs, 1, 1, 1))?)?;
        // A ReLU turns NaN into 0, so broken weights would go unnoticed later.
        let sum = (weight.sum_all()? + bias.sum_all()?)?.to_scalar::<f64>()?;
        if !sum.is_finite() {
            return Err(EvalError::Convolution(name.clone()));
        }
        let padding = if padded { h.max(w) / 2 } else { 0 };
        let line = (h != w).then_some(Line { dim: if h == 1 { 3 } else { 2 }, padding });
        let (weight, stride, padding) = match line {
            None => (weight, stride, padding),
            Some(_) => {
                (weight.flatten_from(2)?.transpose(1, 2)?.reshape((outputs, (), 1, 1))?, 1, 0)
            }
        };
        let placed = |tensor: &Tensor| tensor.to_dtype(DType::F32)?.to_device(self.device);
        let conv = Conv2d::from_tensors(placed(&weight)?, Some(placed(&bias)?), stride, padding);
        Ok(Convolution { conv, line })
    }

    /// A tensor in f64, so that folding rounds only once.
    fn tensor(&self, name: &str, shape: &[usize]) -> Result<Tensor, EvalError> {
        let Some(tensor) = self.tensors.get(name) else {
            return Err(EvalError::MissingTensor(name.to_owned()));
        };
        if tensor.dims() != shape {
            let (found, expected) = (tensor.dims().to_vec(), shape.to_vec());
            return Err(EvalError::TensorShape { name: name.to_owned(), found, expected });
        }
        Ok(tensor.to_dtype(DType::F64)?)
    }
}
