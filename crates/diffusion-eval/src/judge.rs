//! Small classifiers whose features compare images, and their file format.

use std::collections::BTreeMap;
use std::path::Path;

use candle_core::{DType, Device, Tensor};
use diffusion_assets::DIGIT_JUDGE;
use diffusion_files::{DescribedTensors, FileError, read_file};
use diffusion_kernels::in_pool;
use diffusion_nn::load_frozen;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

pub use self::network::{JudgeNetwork, JudgeNetworkConfig, JudgeOutput};
use crate::{EvalError, Reference, Statistics};

mod network;

/// The number of pixels of a batch: a larger one would need more memory without being faster.
const PIXELS: usize = 1 << 18;
/// The key of the description in the metadata of a file.
const DESCRIPTION: &str = "judge";
/// The beginning of the names of the tensors of reference images.
const REFERENCE: &str = "reference.";
/// The number of reference images whose features are stored in a file.
const STORED: usize = Reference::COMPARED;

/// What a judge was trained to predict from an image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum JudgeTask {
    /// Its class; the names are in the order of the logits.
    Classes(Vec<String>),
    /// By how many quarter turns it is rotated, 0 to 3 (Gidaris et al. 2018). This needs no labels.
    Rotations,
}

/// The description in a judge's file, next to the tensors.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JudgeDescription {
    /// The name in texts, such as "digit judge". Different judges have different names.
    pub name: String,
    /// The settings of the network.
    pub network: JudgeNetworkConfig,
    /// The task that the network was trained on.
    pub task: JudgeTask,
    /// The number of training updates.
    pub step: u64,
    /// The number of pictures that the network was trained on.
    pub pictures: usize,
    /// The number of other pictures that `accuracy` was measured on.
    pub held_out: usize,
    /// The share of right answers for the held-out pictures, in \[0, 1\]; `None` without them.
    pub accuracy: Option<f64>,
    /// A description of the reference images whose features are in the file; `None` without them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reference: Option<String>,
}

/// A trained classifier of images whose features compare images.
///
/// `diffusion train-judge` trains one on pictures of any kind. The digit judge is included.
#[derive(Clone, Debug)]
pub struct Judge {
    description: JudgeDescription,
    network: JudgeNetwork,
    reference: Option<Reference>,
    /// The weights and the tensors of the reference, as in a file.
    tensors: BTreeMap<String, Tensor>,
}

impl Judge {
    /// The judge of `description` with `weights`, and without reference images. `path` is only used
    /// in errors.
    ///
    /// # Errors
    /// If a weight is missing, unknown or of the wrong shape.
    pub fn new(
        description: JudgeDescription,
        weights: BTreeMap<String, Tensor>,
        path: &Path,
        device: &Device,
    ) -> Result<Self, EvalError> {
        let in_f32 = weights.iter().map(|(name, weight)| {
            Ok((name.clone(), weight.to_device(device)?.to_dtype(DType::F32)?))
        });
        let in_f32 = in_f32.collect::<candle_core::Result<BTreeMap<_, _>>>()?;
        let build = |vb: candle_nn::VarBuilder<'_>| JudgeNetwork::new(&description.network, vb);
        let network = load_frozen(in_f32, device, build)
            .map_err(|problem| FileError::unusable(path, problem))?;
        let description = JudgeDescription { reference: None, ..description };
        Ok(Self { description, network, reference: None, tensors: weights })
    }

    /// The digit judge, with its features of MNIST's 10,000 test digits as the reference. Metrics
    /// that compare single digits use 3,000 of them.
    ///
    /// # Errors
    /// An error of the device.
    pub fn shipped(device: &Device) -> Result<Self, EvalError> {
        Self::from_bytes(DIGIT_JUDGE, Path::new("the included digit judge"), device)
    }

    /// Reads the file at `path`.
    ///
    /// # Errors
    /// If the file cannot be read, was not written by [`write`](Self::write), or is damaged. An
    /// error of the device.
    pub fn read(path: &Path, device: &Device) -> Result<Self, EvalError> {
        Self::from_bytes(&read_file(path)?, path, device)
    }

    fn from_bytes(bytes: &[u8], path: &Path, device: &Device) -> Result<Self, EvalError> {
        let DescribedTensors { description, tensors } =
            DescribedTensors::<JudgeDescription>::from_bytes(
                bytes,
                DESCRIPTION,
                "judge",
                path,
                &Device::Cpu,
            )?;
        let outputs = match &description.task {
            JudgeTask::Classes(names) => names.len(),
            JudgeTask::Rotations => 4,
        };
        if outputs != description.network.outputs {
            let problem = format!(
                "the description has {outputs} classes, but the network has {}",
                description.network.outputs
            );
            return Err(FileError::unusable(path, problem).into());
        }
        let (reference, weights): (BTreeMap<_, _>, BTreeMap<_, _>) =
            tensors.into_iter().partition(|(name, _)| name.starts_with(REFERENCE));
        let name = description.reference.clone();
        let judge = Self::new(description, weights, path, device)?;
        let Some(name) = name else { return Ok(judge) };
        judge.with_tensors(name, reference).map_err(|problem| {
            FileError::unusable(path, format!("its reference cannot be used: {problem}")).into()
        })
    }

    /// The same judge with the features (N, D) of the reference images `name`.
    ///
    /// # Errors
    /// If there are fewer than 6 images. If a feature is not finite.
    pub fn with_reference(self, name: &str, features: &Tensor) -> Result<Self, EvalError> {
        let statistics = Statistics::of(features)?;
        let stored = features.narrow(0, 0, STORED.min(features.dim(0)?))?;
        let tensors = [
            ("mean", statistics.mean()?.to_dtype(DType::F32)?),
            ("covariance", statistics.covariance()?.to_dtype(DType::F32)?),
            ("features", stored.to_dtype(DType::F16)?),
        ];
        let tensors =
            tensors.into_iter().map(|(name, tensor)| (format!("{REFERENCE}{name}"), tensor));
        self.with_tensors(name.to_owned(), tensors.collect())
    }

    fn with_tensors(
        mut self,
        name: String,
        reference: BTreeMap<String, Tensor>,
    ) -> Result<Self, EvalError> {
        let tensor = |name: &str| {
            let name = format!("{REFERENCE}{name}");
            reference.get(&name).ok_or(EvalError::MissingTensor(name))
        };
        let statistics = Statistics::from_parts(tensor("mean")?, tensor("covariance")?)?;
        let features = tensor("features")?.to_dtype(DType::F32)?;
        self.reference = Some(Reference::new(statistics, &features)?);
        self.description.reference = Some(name);
        self.tensors.extend(reference);
        Ok(self)
    }

    /// Writes the judge and its reference, if it has one, to a safetensors file at `path`.
    ///
    /// # Errors
    /// If the file cannot be written. An existing file then stays unchanged.
    pub fn write(&self, path: &Path) -> Result<(), EvalError> {
        let (description, tensors) = (self.description.clone(), self.tensors.clone());
        Ok(DescribedTensors { description, tensors }.write(DESCRIPTION, path)?)
    }

    /// The description.
    pub fn description(&self) -> &JudgeDescription {
        &self.description
    }

    /// The weights by name, without the reference.
    pub fn weights(&self) -> BTreeMap<String, Tensor> {
        let weights = self.tensors.iter().filter(|(name, _)| !name.starts_with(REFERENCE));
        weights.map(|(name, weight)| (name.clone(), weight.clone())).collect()
    }

    /// The features of the reference images in the file, if it has any.
    pub fn reference(&self) -> Option<&Reference> {
        self.reference.as_ref()
    }

    /// The names of the classes in the order of the logits; empty for a judge of rotations.
    pub fn classes(&self) -> &[String] {
        match &self.description.task {
            JudgeTask::Classes(names) => names,
            JudgeTask::Rotations => &[],
        }
    }

    /// The features and logits of `images` (N, C, H, W) in \[−1, 1\], in batches and without
    /// gradients.
    ///
    /// # Errors
    /// If the images have another shape than the judge's. If there are no images.
    pub fn judge(&self, images: &Tensor) -> candle_core::Result<JudgeOutput> {
        let count = images.dim(0)?;
        let [_, height, width] = self.description.network.image_shape;
        let together = (PIXELS / (height * width)).max(1);
        let (mut features, mut logits) = (Vec::new(), Vec::new());
        for first in (0..count).step_by(together) {
            let batch = images.narrow(0, first, together.min(count - first))?.detach();
            let output = in_pool(|| self.network.forward(&batch))?;
            features.push(output.features.detach());
            logits.push(output.logits.detach());
        }
        Ok(JudgeOutput { features: Tensor::cat(&features, 0)?, logits: Tensor::cat(&logits, 0)? })
    }
}

/// Eight digits that identify `weights`, so that two judges of the same pictures have different
/// names.
///
/// # Errors
/// If a tensor is not of numbers in f32.
pub fn judge_id(weights: &BTreeMap<String, Tensor>) -> candle_core::Result<String> {
    let mut digest = Sha256::new();
    for (name, weight) in weights {
        digest.update(name);
        for number in weight.flatten_all()?.to_vec1::<f32>()? {
            digest.update(number.to_le_bytes());
        }
    }
    let [a, b, c, d, ..] = <[u8; 32]>::from(digest.finalize());
    Ok(format!("{:08x}", u32::from_be_bytes([a, b, c, d])))
}
