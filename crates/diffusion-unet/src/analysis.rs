//! The cost of a network: parameters, activations and multiply-adds.

mod sketch;

use std::collections::HashMap;

use candle_core::{DType, Device, Error, Result, Tensor, TensorId};
use diffusion_kernels::{Operation, in_pool, peak_bytes, traced};
use diffusion_nn::{DropoutNoise, Parameters, load_frozen, part_name};
use diffusion_random::NoiseSource;

use crate::{AUGMENTATION_LABELS, NetworkConfig};

pub use sketch::{SketchLevel, UNetSketch};

/// A part of a network: the layers with a common first name, for example `enc1` or `down_blocks.0`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetworkPart {
    /// The name.
    pub name: String,
    /// The number of trainable numbers.
    pub parameters: usize,
    /// The shape of its output, [C, H, W].
    pub output: [usize; 3],
    /// Multiply-adds for one image. Normalisations and activations are not counted.
    pub multiply_adds: u64,
    /// Bytes of the feature maps that its operations output, for the whole batch. During sampling,
    /// most are freed soon. Operations are those of the kernels: a whole residual block is one.
    pub activation_bytes: usize,
    /// Bytes of the feature maps that are kept for the backward pass, for the whole batch.
    pub training_bytes: usize,
}

/// The cost of a network, part by part, measured in one forward and one backward pass.
///
/// ```
/// use diffusion_unet::{NetworkAnalysis, NetworkConfig, SimpleUNetConfig};
///
/// let network = NetworkConfig::SimpleUnet(SimpleUNetConfig {
///     in_channels: 1,
///     base_channels: 32,
///     time_dim: 128,
///     ..Default::default()
/// });
/// let analysis = NetworkAnalysis::new(&network, [28, 28], 1)?;
/// assert_eq!(analysis.parameters(), 520_193);
/// # Ok::<(), candle_core::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetworkAnalysis {
    /// The parts, in the order of their first operation. Parts without an operation are last.
    pub parts: Vec<NetworkPart>,
    /// The number of images in the batch, which all numbers of bytes are for.
    pub batch_size: usize,
    /// The most bytes of feature maps in use at a time during inference. Buffers that wait for
    /// reuse are not included; they add up to half as much.
    pub inference_peak_bytes: usize,
    /// The most bytes of feature maps in use at a time during a forward and a backward pass.
    pub training_peak_bytes: usize,
}

impl NetworkAnalysis {
    /// Builds the network with random weights and runs one forward and one backward pass on
    /// `batch_size` images of `[height, width]`.
    ///
    /// Bytes of feature maps are counted for the whole process, so nothing else should compute at
    /// the same time. If the kernels are switched off, no bytes are counted.
    ///
    /// # Errors
    /// - If the configuration is invalid.
    /// - If the network does not support the image size.
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
        let labels = network
            .augmentation()
            .then(|| Tensor::ones((batch_size, AUGMENTATION_LABELS), DType::F32, &device))
            .transpose()?;
        let noise = DropoutNoise { source: NoiseSource::new(0), draw: 0, first_index: 0 };
        let forward =
            || trained.forward_training(&x_t, &timesteps, &classes, labels.as_ref(), noise);

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
        let (output, inference_peak_bytes) = peak_bytes(|| {
            frozen.forward_training(&x_t, &timesteps, &classes, labels.as_ref(), noise)
        });
        output?;
        let parts = parts(&operations, &parameters, batch_size);
        Ok(Self { parts, batch_size, inference_peak_bytes, training_peak_bytes })
    }

    /// The number of trainable numbers of all parts.
    pub fn parameters(&self) -> usize {
        self.parts.iter().map(|part| part.parameters).sum()
    }

    /// Multiply-adds of all parts for one image.
    pub fn multiply_adds(&self) -> u64 {
        self.parts.iter().map(|part| part.multiply_adds).sum()
    }

    /// Bytes of the feature maps that all parts output.
    pub fn activation_bytes(&self) -> usize {
        self.parts.iter().map(|part| part.activation_bytes).sum()
    }

    /// Bytes of the feature maps that all parts keep for the backward pass.
    pub fn training_bytes(&self) -> usize {
        self.parts.iter().map(|part| part.training_bytes).sum()
    }
}

fn parts(operations: &[Operation], parameters: &Parameters, batch_size: usize) -> Vec<NetworkPart> {
    let by_weight: HashMap<TensorId, String> =
        parameters.iter().map(|(name, var)| (var.as_tensor().id(), part_name(name))).collect();
    let mut grouped: Vec<(String, Vec<&Operation>)> = Vec::new();
    // An operation without weights belongs to the part of the operation before it.
    let mut current: Option<String> = None;
    for operation in operations {
        current = operation.weights.iter().find_map(|id| by_weight.get(id)).cloned().or(current);
        let Some(name) = &current else { continue };
        match grouped.iter_mut().find(|(part, _)| part == name) {
            Some((_, operations)) => operations.push(operation),
            None => grouped.push((name.clone(), vec![operation])),
        }
    }
    let counts = parameters.count_by_part();
    // Parts without an operation of their own, for example class embedding tables.
    for name in counts.keys() {
        if !grouped.iter().any(|(part, _)| part == name) {
            grouped.push((name.clone(), Vec::new()));
        }
    }
    grouped
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
    // In a part with feature maps, vectors such as a block's projection of the time embedding do
    // not count as activations.
    let is_map = |operation: &&Operation| operation.output[2] * operation.output[3] > 1;
    let has_maps = operations.iter().any(is_map);
    let counted: Vec<&Operation> =
        operations.iter().copied().filter(|o| is_map(o) || !has_maps).collect();
    let bytes =
        |operation: &&Operation| operation.output.iter().product::<usize>() * size_of::<f32>();
    let products: u64 = operations.iter().map(|operation| operation.multiply_adds).sum();
    NetworkPart {
        name,
        parameters,
        output: counted
            .last()
            .map_or([0; 3], |Operation { output: [_, c, h, w], .. }| [*c, *h, *w]),
        multiply_adds: products / batch_size as u64,
        activation_bytes: counted.iter().map(bytes).sum(),
        training_bytes: counted.iter().map(|operation| operation.kept_bytes).sum(),
    }
}
