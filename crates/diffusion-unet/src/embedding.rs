//! How a network is told the timestep.

use candle_core::{DType, Device, Error, Result, Tensor};
use candle_nn::{Init, Module, VarBuilder};
use diffusion_kernels as kernels;

use crate::layers::{Linear, linear};

/// Sinusoidal features of the timestep: sin(t·f_k) and cos(t·f_k) with f_k = exp(−ln(10000)·k/(half − shift)),
/// k = 0..half (Vaswani et al. 2017; Ho et al. 2020).
#[derive(Clone, Debug)]
pub struct TimestepEmbedding {
    frequencies: Vec<f64>,
    dim: usize,
    cosine_first: bool,
}

impl TimestepEmbedding {
    /// Features of width `dim`: sines first (or cosines, if `cosine_first`), one zero at the end when `dim` is odd.
    /// `frequency_shift` is 1 in DDPM and in the source of [`crate::SimpleUNet`], 0 in later models.
    ///
    /// # Errors
    /// A width too small for the shift: `dim / 2` must exceed it.
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

    /// The features of `timesteps` (N), computed in f64: (N, dim) in f32 on the same device.
    ///
    /// # Errors
    /// Those of the device.
    pub fn forward(&self, timesteps: &Tensor) -> Result<Tensor> {
        let t = timesteps.to_device(&Device::Cpu)?.to_dtype(DType::F64)?.to_vec1::<f64>()?;
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

/// Sinusoidal features, then Linear dim → 4·dim, SiLU, Linear 4·dim → dim. Parameters `mlp.0` and `mlp.2`.
#[derive(Clone, Debug)]
pub struct TimeEmbedding {
    features: TimestepEmbedding,
    expand: Linear,
    contract: Linear,
}

impl TimeEmbedding {
    /// An embedding of width `dim`, at least 4.
    ///
    /// # Errors
    /// A width that is too small; parameters that `vb` does not have.
    pub fn new(dim: usize, vb: VarBuilder<'_>) -> Result<Self> {
        Ok(Self {
            features: TimestepEmbedding::new(dim, false, 1.0)?,
            expand: linear(dim, 4 * dim, vb.pp("mlp.0"))?,
            contract: linear(4 * dim, dim, vb.pp("mlp.2"))?,
        })
    }
}

impl Module for TimeEmbedding {
    /// `timesteps` (N) to (N, dim).
    fn forward(&self, timesteps: &Tensor) -> Result<Tensor> {
        let features = self.features.forward(timesteps)?;
        self.contract.forward(&kernels::silu(&self.expand.forward(&features)?)?)
    }
}

/// A learned vector for each class. Where there is a row for none, it is the last.
#[derive(Clone, Debug)]
pub(crate) struct ClassEmbedding {
    /// (rows, width).
    table: Tensor,
    null_class: bool,
}

impl ClassEmbedding {
    /// `rows` vectors of `width` numbers, the last of them for "none" if `null_class`. Parameter `weight`.
    ///
    /// # Errors
    /// Parameters that `vb` does not have.
    pub(crate) fn new(rows: usize, null_class: bool, width: usize, vb: VarBuilder<'_>) -> Result<Self> {
        let init = Init::Randn { mean: 0.0, stdev: 1.0 };
        Ok(Self { table: vb.get_with_hints((rows, width), "weight", init)?, null_class })
    }

    /// (N, width), the row of each of N images.
    ///
    /// # Errors
    /// A class that is not there; none, without a row for it.
    pub(crate) fn forward(&self, classes: &[Option<u32>]) -> Result<Tensor> {
        let rows = self.table.dim(0)?;
        let known = if self.null_class { rows - 1 } else { rows };
        let row = |class: &Option<u32>| match class {
            Some(class) if (*class as usize) < known => Ok(*class),
            Some(class) => {
                Err(Error::Msg(format!("class {class} is not among the {known} that the network knows")))
            }
            None if self.null_class => Ok(known as u32),
            None => Err(Error::Msg(format!(
                "the network knows {known} classes; it must be told each image's class"
            ))),
        };
        let rows = classes.iter().map(row).collect::<Result<Vec<u32>>>()?;
        self.table.index_select(&Tensor::new(rows, self.table.device())?, 0)
    }
}
