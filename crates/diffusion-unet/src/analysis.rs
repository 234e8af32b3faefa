//! What a network costs: parameters, activations, multiply-adds.

mod sketch;

use std::collections::HashMap;

use candle_core::{DType, Device, Error, Result, Tensor, TensorId};
use diffusion_kernels::{Operation, in_pool, peak_bytes, traced};
use diffusion_nn::{DropoutNoise, Parameters, load_frozen, part_of};
use diffusion_random::NoiseSource;

use crate::NetworkConfig;

pub use sketch::{SketchLevel, UNetSketch};

/// A part of a network: the layers under one name below the root. For example, `enc1` or `down_blocks.0`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetworkPart {
    /// The name.
    pub name: String,
    /// Trainable numbers.
    pub parameters: usize,
    /// [C, H, W] of what it gives.
    pub output: [usize; 3],
    /// For one image. Normalisations and activations are not counted.
    pub multiply_adds: u64,
    /// Bytes of feature maps that its operations give, for the whole batch; when sampling, most are soon given back. Operations are
    /// those of the kernels: a whole residual block is one.
    pub activation_bytes: usize,
    /// Bytes of feature maps that are kept until its backward pass, for the whole batch.
    pub training_bytes: usize,
}

/// A network, part by part, as one forward pass and one backward pass of the real thing show it.
///
/// ```
/// use diffusion_unet::{NetworkAnalysis, NetworkConfig, SimpleUNetConfig};
///
/// let network = NetworkConfig::SimpleUnet(SimpleUNetConfig { in_channels: 1, base_channels: 32, time_dim: 128, ..Default::default() });
/// let analysis = NetworkAnalysis::new(&network, [28, 28], 1)?;
/// assert_eq!(analysis.parameters(), 520_193);
/// # Ok::<(), candle_core::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetworkAnalysis {
    /// In the order in which they compute first.
    pub parts: Vec<NetworkPart>,
    /// Images computed together, for all numbers of bytes.
    pub batch_size: usize,
    /// The most bytes of feature maps in use at a time, when the network is used. Buffers that wait to be used again come on top, up to
    /// half as much.
    pub inference_peak_bytes: usize,
    /// The same through a forward and a backward pass.
    pub training_peak_bytes: usize,
}

impl NetworkAnalysis {
    /// Builds the network with random weights, and runs one forward and one backward pass on `batch_size` images of
    /// `[height, width]`.
    ///
    /// Bytes of feature maps are those of the whole process: nothing else should compute at the same time. Where
    /// the kernels are switched off, there are none to be counted.
    ///
    /// # Errors
    /// A configuration that describes no network; a size that it cannot take.
    pub fn new(
        network: &NetworkConfig,
        [height, width]: [usize; 2],
        batch_size: usize,
    ) -> Result<Self> {
        let device = Device::Cpu;
        let (trained, parameters) = network.initialise(0, &device)?;
        let shape = (batch_size, network.image_channels(), height, width);
        let x_t = Tensor::zeros(shape, DType::F32, &device)?;
        let timesteps = Tensor::ones(batch_size, DType::F32, &device)?;
        let classes = vec![(network.classes() > 0).then_some(0); batch_size];
        let noise = DropoutNoise { source: NoiseSource::new(0), draw: 0, first_index: 0 };
        let forward = || trained.forward_training(&x_t, &timesteps, &classes, noise);

        let (operations, training_peak_bytes) = in_pool(|| {
            let (operations, peak) = peak_bytes(|| {
                let (output, operations) = traced(forward);
                output?.sqr()?.mean_all()?.backward()?;
                Ok::<_, Error>(operations)
            });
            Ok::<_, Error>((operations?, peak))
        })?;

        let tensors = parameters.tensors();
        let frozen = load_frozen(tensors, &device, |vb| network.build_for_training(vb))
            .map_err(|e| Error::Msg(e.to_string()))?;
        let (output, inference_peak_bytes) =
            peak_bytes(|| frozen.forward_training(&x_t, &timesteps, &classes, noise));
        output?;
        let parts = parts(&operations, &parameters, batch_size);
        Ok(Self { parts, batch_size, inference_peak_bytes, training_peak_bytes })
    }

    /// Trainable numbers in all.
    pub fn parameters(&self) -> usize {
        self.parts.iter().map(|part| part.parameters).sum()
    }

    /// For one image.
    pub fn multiply_adds(&self) -> u64 {
        self.parts.iter().map(|part| part.multiply_adds).sum()
    }

    /// Bytes of feature maps that all parts give.
    pub fn activation_bytes(&self) -> usize {
        self.parts.iter().map(|part| part.activation_bytes).sum()
    }

    /// Bytes of feature maps that wait for the backward pass.
    pub fn training_bytes(&self) -> usize {
        self.parts.iter().map(|part| part.training_bytes).sum()
    }
}

fn parts(operations: &[Operation], parameters: &Parameters, batch_size: usize) -> Vec<NetworkPart> {
    let by_weight: HashMap<TensorId, String> =
        parameters.iter().map(|(name, var)| (var.as_tensor().id(), part_of(name))).collect();
    let mut of_parts: Vec<(String, Vec<&Operation>)> = Vec::new();
    // What has no weights belongs to what came before it.
    let mut current: Option<String> = None;
    for operation in operations {
        current = operation.weights.iter().find_map(|id| by_weight.get(id)).cloned().or(current);
        let Some(name) = &current else { continue };
        match of_parts.iter_mut().find(|(part, _)| part == name) {
            Some((_, operations)) => operations.push(operation),
            None => of_parts.push((name.clone(), vec![operation])),
        }
    }
    let counts = parameters.count_by_part();
    // Parts without an operation of their own: tables of classes.
    for name in counts.keys() {
        if !of_parts.iter().any(|(part, _)| part == name) {
            of_parts.push((name.clone(), Vec::new()));
        }
    }
    of_parts
        .into_iter()
        .map(|(name, operations)| part(counts[&name], name, &operations, batch_size))
        .collect()
}

fn part(
    parameters: usize,
    name: String,
    operations: &[&Operation],
    batch_size: usize,
) -> NetworkPart {
    // Beside maps, rows of numbers, like a block's projection of the time, do not count.
    let is_map = |operation: &&Operation| operation.output[2] * operation.output[3] > 1;
    let has_maps = operations.iter().any(is_map);
    let shown: Vec<&Operation> =
        operations.iter().copied().filter(|o| is_map(o) || !has_maps).collect();
    let bytes =
        |operation: &&Operation| operation.output.iter().product::<usize>() * size_of::<f32>();
    let products: u64 = operations.iter().map(|operation| operation.multiply_adds).sum();
    NetworkPart {
        name,
        parameters,
        output: shown.last().map_or([0; 3], |Operation { output: [_, c, h, w], .. }| [*c, *h, *w]),
        multiply_adds: products / batch_size as u64,
        activation_bytes: shown.iter().map(bytes).sum(),
        training_bytes: shown.iter().map(|operation| operation.kept_bytes).sum(),
    }
}
