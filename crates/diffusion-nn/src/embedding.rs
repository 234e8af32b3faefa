//! Embeddings of timesteps and classes as vectors.

use std::f64::consts::TAU;

use candle_core::{DType, Device, Error, Result, Tensor};
use candle_nn::{Init, Module, VarBuilder};
use diffusion_kernels as kernels;

use crate::Linear;

/// Sinusoidal features of the timestep: sin(t·f_k) and cos(t·f_k) with
/// f_k = exp(−ln(10000)·k/(half − shift)), k = 0..half (Vaswani et al. 2017; Ho et al. 2020).
#[derive(Clone, Debug)]
pub struct TimestepEmbedding {
    frequencies: Vec<f64>,
    dim: usize,
    cosine_first: bool,
}

impl TimestepEmbedding {
    /// Features of width `dim`: the sines first, or the cosines first if `cosine_first`, and one
    /// zero at the end if `dim` is odd. `frequency_shift` is 1 in DDPM and 0 in later models.
    ///
    /// # Errors
    /// If `dim / 2` is not larger than `frequency_shift`.
    pub fn new(dim: usize, cosine_first: bool, frequency_shift: f64) -> Result<Self> {
        let half = dim / 2;
        if half as f64 <= frequency_shift {
            return Err(Error::Msg(format!(
                "a timestep embedding of width {dim} is too narrow; it needs more than {} features",
                2.0 * frequency_shift + 1.0
            )));
        }
        let decay = -10_000f64.ln() / (half as f64 - frequency_shift);
        let frequencies = (0..half).map(|k| (decay * k as f64).exp()).collect();
        Ok(Self { frequencies, dim, cosine_first })
    }

    /// The features of `timesteps` (N): (N, dim) in f32 on the same device. Computed in f64.
    ///
    /// # Errors
    /// An error of the device.
    pub fn forward(&self, timesteps: &Tensor) -> Result<Tensor> {
        let t = numbers(timesteps)?;
        let mut features = Vec::with_capacity(t.len() * self.dim);
        for &t in &t {
            let sines = self.frequencies.iter().map(|f| (t * f).sin() as f32);
            let cosines = self.frequencies.iter().map(|f| (t * f).cos() as f32);
            if self.cosine_first {
                features.extend(cosines.chain(sines));
            } else {
                features.extend(sines.chain(cosines));
            }
            features.extend(std::iter::repeat_n(0.0, self.dim % 2));
        }
        Tensor::from_vec(features, (t.len(), self.dim), timesteps.device())
    }
}

/// Sinusoidal features of the logarithm of the timestep: sin(2π·w·ln t), then cos(2π·w·ln t). The
/// frequencies w are random and never trained (Song et al. 2021, appendix C).
#[derive(Clone, Debug)]
pub struct FourierEmbedding {
    /// The frequencies w, of shape (frequencies).
    weight: Tensor,
}

impl FourierEmbedding {
    /// The standard deviation of the frequencies.
    const SCALE: f64 = 16.0;

    /// Two features for each of `frequencies` frequencies. Parameter `weight`.
    ///
    /// # Errors
    /// If `vb` does not have the parameter, or has it in another shape.
    pub fn new(frequencies: usize, vb: VarBuilder<'_>) -> Result<Self> {
        let init = Init::Randn { mean: 0.0, stdev: Self::SCALE };
        Ok(Self { weight: vb.get_with_hints(frequencies, "weight", init)? })
    }

    /// The features of `timesteps` (N): (N, 2·frequencies) in f32 on the same device. Computed in
    /// f64.
    ///
    /// # Errors
    /// If a timestep is not above 0 or not finite.
    pub fn forward(&self, timesteps: &Tensor) -> Result<Tensor> {
        let (t, frequencies) = (numbers(timesteps)?, numbers(&self.weight)?);
        let mut features = Vec::with_capacity(t.len() * 2 * frequencies.len());
        for &t in &t {
            if !(t > 0.0 && t.is_finite()) {
                return Err(Error::Msg(format!(
                    "a timestep is {t}; the Fourier embedding uses ln(t), so t must be above 0"
                )));
            }
            let angles = frequencies.iter().map(|w| TAU * w * t.ln());
            features.extend(angles.clone().map(|angle| angle.sin() as f32));
            features.extend(angles.map(|angle| angle.cos() as f32));
        }
        Tensor::from_vec(features, (t.len(), 2 * frequencies.len()), timesteps.device())
    }
}

fn numbers(tensor: &Tensor) -> Result<Vec<f64>> {
    tensor.to_device(&Device::Cpu)?.to_dtype(DType::F64)?.to_vec1()
}

/// The features that a [`TimeEmbedding`] starts from.
#[derive(Clone, Debug)]
pub enum TimeFeatures {
    /// Sinusoids of fixed frequencies.
    Positional(TimestepEmbedding),
    /// Sinusoids of random frequencies.
    Fourier(FourierEmbedding),
}

impl TimeFeatures {
    fn width(&self) -> usize {
        match self {
            Self::Positional(embedding) => embedding.dim,
            Self::Fourier(embedding) => 2 * embedding.weight.elem_count(),
        }
    }

    fn forward(&self, timesteps: &Tensor) -> Result<Tensor> {
        match self {
            Self::Positional(embedding) => embedding.forward(timesteps),
            Self::Fourier(embedding) => embedding.forward(timesteps),
        }
    }
}

/// The embedding of the timestep: features, a fully connected layer, SiLU, a fully connected layer.
/// (N) to (N, width).
#[derive(Clone, Debug)]
pub struct TimeEmbedding {
    features: TimeFeatures,
    expand: Linear,
    contract: Linear,
}

impl TimeEmbedding {
    /// An embedding of width `width`, with `hidden` units between its two layers. `layers` provide
    /// the parameters of these.
    ///
    /// # Errors
    /// If `layers` do not have a parameter, or have it in another shape.
    pub fn new(
        features: TimeFeatures,
        hidden: usize,
        width: usize,
        layers: [VarBuilder<'_>; 2],
    ) -> Result<Self> {
        let [first, second] = layers;
        Ok(Self {
            expand: crate::linear(features.width(), hidden, first)?,
            contract: crate::linear(hidden, width, second)?,
            features,
        })
    }
}

impl Module for TimeEmbedding {
    /// The embedding (N, width) of `timesteps` (N).
    fn forward(&self, timesteps: &Tensor) -> Result<Tensor> {
        let features = self.features.forward(timesteps)?;
        self.contract.forward(&kernels::silu(&self.expand.forward(&features)?)?)
    }
}

/// A table with a learned vector for each class. Its last row may stand for "no class".
#[derive(Clone, Debug)]
pub struct ClassEmbedding {
    /// (rows, width).
    table: Tensor,
    null_class: bool,
}

impl ClassEmbedding {
    /// A table of `rows` vectors of width `width`. With `null_class` the last row is for images
    /// without a class. Parameter `weight`, initialised with normal numbers of variance 1.
    ///
    /// # Errors
    /// If `vb` does not have the parameter, or has it in another shape.
    pub fn new(rows: usize, null_class: bool, width: usize, vb: VarBuilder<'_>) -> Result<Self> {
        let init = Init::Randn { mean: 0.0, stdev: 1.0 };
        Ok(Self { table: vb.get_with_hints((rows, width), "weight", init)?, null_class })
    }

    /// The vectors (N, width) of N images.
    ///
    /// # Errors
    /// - If a class is unknown.
    /// - If an image has no class and the table has no row for it.
    pub fn forward(&self, classes: &[Option<u32>]) -> Result<Tensor> {
        let rows = self.table.dim(0)?;
        let num_classes = if self.null_class { rows - 1 } else { rows };
        let row = |class: &Option<u32>| match class {
            Some(class) if (*class as usize) < num_classes => Ok(*class),
            Some(class) => Err(Error::Msg(format!(
                "class {class} is not among the {num_classes} classes of the network, \
                 which count from 0"
            ))),
            None if self.null_class => Ok(num_classes as u32),
            None => Err(Error::Msg(format!(
                "the network has {num_classes} classes and needs one for each image"
            ))),
        };
        let rows = classes.iter().map(row).collect::<Result<Vec<u32>>>()?;
        self.table.index_select(&Tensor::new(rows, self.table.device())?, 0)
    }
}
