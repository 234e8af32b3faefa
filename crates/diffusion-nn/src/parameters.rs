//! Named parameters: seeded initialisation, strict loading and counting.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use candle_core::{DType, Device, Error, Result, Shape, Tensor, Var};
use candle_nn::var_builder::SimpleBackend;
use candle_nn::{Init, VarBuilder};
use diffusion_random::{Domain, NoiseSource};
use rand::RngExt;
use rand_distr::{Distribution, StandardNormal};
use thiserror::Error;

/// Why tensors are not the parameters of a network. Each variant names the tensor.
#[derive(Debug, Error)]
pub enum ParameterError {
    /// The network needs the tensor, but it was not given.
    #[error("tensor `{0}` is missing")]
    Missing(String),
    /// The tensor was given, but the network has no such parameter.
    #[error("tensor `{0}` is not a parameter of this network")]
    Unexpected(String),
    /// The tensor does not have the shape of the network's parameter.
    #[error("tensor `{name}` has shape {found:?}, the network needs {expected:?}")]
    Shape {
        /// The name of the parameter.
        name: String,
        /// The shape that the network needs.
        expected: Vec<usize>,
        /// The shape of the given tensor.
        found: Vec<usize>,
    },
    /// An error of the device or of the network.
    #[error(transparent)]
    Candle(#[from] Error),
}

/// The trainable parameters of a network, sorted by name.
#[derive(Clone, Debug)]
pub struct Parameters {
    vars: BTreeMap<String, Var>,
    outer_layers: &'static [&'static str],
}

impl Parameters {
    /// Builds a network with newly initialised trainable parameters on `device`.
    ///
    /// The values of a parameter are a function of (seed, name). They do not depend on the order in
    /// which the network gets its parameters.
    ///
    /// # Errors
    /// - If `build` fails.
    /// - If a parameter needs Kaiming initialisation, which is not supported here.
    pub fn initialise<M>(
        seed: u64,
        device: &Device,
        build: impl FnOnce(VarBuilder<'_>) -> Result<M>,
    ) -> Result<(M, Self)> {
        let vars = Arc::new(Mutex::new(BTreeMap::new()));
        let backend = SeededBackend { source: NoiseSource::new(seed), vars: Arc::clone(&vars) };
        let network =
            build(VarBuilder::from_backend(Box::new(backend), DType::F32, device.clone()))?;
        let vars = std::mem::take(&mut *lock(&vars));
        Ok((network, Self { vars, outer_layers: &[] }))
    }

    /// The parameters with the given names and variables.
    pub fn from_vars(vars: impl IntoIterator<Item = (String, Var)>) -> Self {
        Self { vars: vars.into_iter().collect(), outer_layers: &[] }
    }

    /// The same parameters with the names of the network's outer layers: the layers that take
    /// images or classes or give the output.
    #[must_use]
    pub fn with_outer_layers(self, outer_layers: &'static [&'static str]) -> Self {
        Self { outer_layers, ..self }
    }

    /// Whether the parameter `name` is a matrix or a convolution kernel of a layer that is not an
    /// outer layer. The optimiser Muon updates these parameters (Jordan et al. 2024).
    pub fn is_hidden_matrix(&self, name: &str) -> bool {
        let layer = name.split('.').next();
        let is_outer = self.outer_layers.iter().any(|outer| Some(*outer) == layer);
        !is_outer && self.vars.get(name).is_some_and(|var| var.rank() >= 2)
    }

    /// The names and variables, sorted by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Var)> {
        self.vars.iter().map(|(name, var)| (name.as_str(), var))
    }

    /// The number of trainable numbers in all parameters.
    pub fn count(&self) -> usize {
        self.vars.values().map(|var| var.elem_count()).sum()
    }

    /// The number of trainable numbers in each part of the network ([`part_name`]), sorted by the
    /// name of the part.
    pub fn count_by_part(&self) -> BTreeMap<String, usize> {
        let mut counts = BTreeMap::new();
        for (name, var) in &self.vars {
            *counts.entry(part_name(name)).or_default() += var.elem_count();
        }
        counts
    }

    /// The current values. The tensors share memory with the parameters: save or copy them before
    /// the next update.
    pub fn tensors(&self) -> BTreeMap<String, Tensor> {
        self.vars.iter().map(|(name, var)| (name.clone(), var.as_detached_tensor())).collect()
    }

    /// Overwrites all parameters with `tensors`. If any tensor does not fit, nothing changes.
    ///
    /// # Errors
    /// - If a tensor is missing, or has another shape than the parameter.
    /// - If a tensor is not a parameter.
    /// - An error of the device. Only in this case may some parameters have changed.
    pub fn load(
        &self,
        tensors: &BTreeMap<String, Tensor>,
    ) -> std::result::Result<(), ParameterError> {
        for (name, var) in self.iter() {
            check_shape(name, var.dims(), tensors.get(name))?;
        }
        check_no_extra(tensors, |name| self.vars.contains_key(name))?;
        for (name, var) in self.iter() {
            var.set(&tensors[name].to_dtype(var.dtype())?.to_device(var.device())?)?;
        }
        Ok(())
    }
}

/// Builds a network from `tensors` for inference. It records no gradients.
///
/// # Errors
/// - If a tensor is missing, or has another shape than the parameter.
/// - If a tensor is not a parameter of the network.
/// - If `build` fails.
pub fn load_frozen<M>(
    tensors: BTreeMap<String, Tensor>,
    device: &Device,
    build: impl FnOnce(VarBuilder<'_>) -> Result<M>,
) -> std::result::Result<M, ParameterError> {
    let used = Arc::new(Mutex::new(BTreeSet::new()));
    let tensors = Arc::new(tensors);
    let backend = FrozenBackend { tensors: Arc::clone(&tensors), used: Arc::clone(&used) };
    let network = build(VarBuilder::from_backend(Box::new(backend), DType::F32, device.clone()))?;
    let used = lock(&used);
    check_no_extra(&tensors, |name| used.contains(name))?;
    Ok(network)
}

/// The number of trainable numbers of a network, without initialising or allocating them.
///
/// # Errors
/// If `build` fails.
pub fn count_parameters<M>(build: impl FnOnce(VarBuilder<'_>) -> Result<M>) -> Result<usize> {
    let count = Arc::new(AtomicUsize::new(0));
    let backend = CountingBackend { count: Arc::clone(&count) };
    build(VarBuilder::from_backend(Box::new(backend), DType::F32, Device::Cpu))?;
    Ok(count.load(Ordering::Relaxed))
}

/// The name of the part of the network that contains a parameter, for example `enc1` or
/// `down_blocks.0`.
///
/// It is the first component of the parameter's name, with the second one if that is the number of
/// a block.
pub fn part_name(parameter: &str) -> String {
    let components: Vec<&str> = parameter.split('.').collect();
    match components.as_slice() {
        [first, number, _, _, ..] if number.parse::<usize>().is_ok() => format!("{first}.{number}"),
        _ => components[0].to_owned(),
    }
}

fn check_shape(
    name: &str,
    expected: &[usize],
    found: Option<&Tensor>,
) -> std::result::Result<(), ParameterError> {
    match found {
        None => Err(ParameterError::Missing(name.to_owned())),
        Some(tensor) if tensor.dims() != expected => Err(ParameterError::Shape {
            name: name.to_owned(),
            expected: expected.to_vec(),
            found: tensor.dims().to_vec(),
        }),
        Some(_) => Ok(()),
    }
}

fn check_no_extra(
    tensors: &BTreeMap<String, Tensor>,
    is_parameter: impl Fn(&str) -> bool,
) -> std::result::Result<(), ParameterError> {
    match tensors.keys().find(|name| !is_parameter(name)) {
        Some(name) => Err(ParameterError::Unexpected(name.clone())),
        None => Ok(()),
    }
}

/// Locks `mutex`. A poisoned lock only means that another builder panicked; the map is still valid.
fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// Creates trainable variables with values that are a function of (seed, name).
struct SeededBackend {
    source: NoiseSource,
    vars: Arc<Mutex<BTreeMap<String, Var>>>,
}

impl SimpleBackend for SeededBackend {
    fn get(
        &self,
        shape: Shape,
        name: &str,
        init: Init,
        dtype: DType,
        device: &Device,
    ) -> Result<Tensor> {
        let values: Vec<f32> = match init {
            Init::Const(value) => vec![value as f32; shape.elem_count()],
            Init::Uniform { lo, up } => {
                let mut rng = self.source.rng(Domain::Weights, 0, hash(name));
                (0..shape.elem_count()).map(|_| rng.random_range(lo..up) as f32).collect()
            }
            Init::Randn { mean, stdev } => {
                let rng = self.source.rng(Domain::Weights, 0, hash(name));
                let normal = Distribution::<f64>::sample_iter(StandardNormal, rng);
                normal.take(shape.elem_count()).map(|z| (mean + stdev * z) as f32).collect()
            }
            other @ Init::Kaiming { .. } => {
                return Err(Error::Msg(format!(
                    "seeded initialisation with {other:?} is not supported"
                )));
            }
        };
        let var = Var::from_tensor(&Tensor::from_vec(values, shape, device)?.to_dtype(dtype)?)?;
        let tensor = var.as_tensor().clone();
        lock(&self.vars).insert(name.to_owned(), var);
        Ok(tensor)
    }

    fn get_unchecked(&self, name: &str, _: DType, _: &Device) -> Result<Tensor> {
        Err(missing_shape(name))
    }

    fn contains_tensor(&self, _: &str) -> bool {
        true
    }
}

/// Gives the tensors it was made with, and records which of them were used.
struct FrozenBackend {
    tensors: Arc<BTreeMap<String, Tensor>>,
    used: Arc<Mutex<BTreeSet<String>>>,
}

impl SimpleBackend for FrozenBackend {
    fn get(
        &self,
        shape: Shape,
        name: &str,
        _: Init,
        dtype: DType,
        device: &Device,
    ) -> Result<Tensor> {
        let found = self.tensors.get(name);
        check_shape(name, shape.dims(), found).map_err(|e| Error::Msg(e.to_string()))?;
        self.get_unchecked(name, dtype, device)
    }

    fn get_unchecked(&self, name: &str, dtype: DType, device: &Device) -> Result<Tensor> {
        let Some(tensor) = self.tensors.get(name) else {
            return Err(Error::Msg(ParameterError::Missing(name.to_owned()).to_string()));
        };
        lock(&self.used).insert(name.to_owned());
        tensor.to_dtype(dtype)?.to_device(device)
    }

    fn contains_tensor(&self, name: &str) -> bool {
        self.tensors.contains_key(name)
    }
}

/// Gives tensors of the requested shape that take no memory, and adds up their sizes.
struct CountingBackend {
    count: Arc<AtomicUsize>,
}

impl SimpleBackend for CountingBackend {
    fn get(&self, shape: Shape, _: &str, _: Init, dtype: DType, device: &Device) -> Result<Tensor> {
        let size = shape.dims().iter().fold(1usize, |size, dim| size.saturating_mul(*dim));
        let so_far = self.count.load(Ordering::Relaxed);
        self.count.store(so_far.saturating_add(size), Ordering::Relaxed);
        Tensor::zeros((), dtype, device)?.broadcast_as(shape)
    }

    fn get_unchecked(&self, name: &str, _: DType, _: &Device) -> Result<Tensor> {
        Err(missing_shape(name))
    }

    fn contains_tensor(&self, _: &str) -> bool {
        true
    }
}

fn missing_shape(name: &str) -> Error {
    Error::Msg(format!("parameter `{name}` was requested without a shape, which is needed here"))
}

/// FNV-1a, 64 bits: a hash that is the same in every build.
fn hash(name: &str) -> u64 {
    name.bytes()
        .fold(0xcbf2_9ce4_8422_2325, |h, byte| (h ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}
