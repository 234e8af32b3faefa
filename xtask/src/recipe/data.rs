//! What recipes are trained on, and what judges the results.

use std::ops::ControlFlow;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use candle_core::{Device, Tensor};
use diffusion_data::{ImageDataset, PictureConfig, Source, Split, prepare};
use diffusion_eval::{ClassShares, Judge, Reference, SampleQuality};
use diffusion_model::{Generation, LoadedModel};
use diffusion_train::TrainConfig;

use super::shipped_digits;
use crate::cargo::workspace_root;
use crate::judge::{SEARCH_JUDGE, with_reference};

/// The largest number of reference pictures.
const REFERENCES: usize = 10_000;

/// Pictures to train on, a judge, and its features of reference pictures.
pub(super) struct RecipeData {
    pub(super) pictures: ImageDataset,
    pub(super) judge: Judge,
    pub(super) reference: Reference,
}

/// Sampled images (N, C, H, W) and their metrics.
pub(super) struct JudgedImages {
    pub(super) images: Tensor,
    pub(super) sampling_seconds: f64,
    pub(super) quality: SampleQuality,
    pub(super) classes: ClassShares,
    /// The share of images with the class that they were sampled with; `None` without classes.
    pub(super) class_accuracy: Option<f64>,
}

impl RecipeData {
    /// The digits that ship with the program, and the judge of the search.
    pub(super) fn digits() -> Result<Self> {
        let judge = Judge::read(&workspace_root().join(SEARCH_JUDGE), &Device::Cpu)
            .context("create the judge with cargo xtask train-judge --for-search")?;
        let (judge, reference) = with_reference(judge)?;
        Ok(Self { pictures: shipped_digits()?, judge, reference })
    }

    /// The pictures of `data`, judged by the file `judge` and compared with the pictures of
    /// `against`. Both are prepared as `config` says.
    pub(super) fn of(
        data: &Path,
        judge: &Path,
        against: &Path,
        config: &TrainConfig,
    ) -> Result<Self> {
        let judge = Judge::read(judge, &Device::Cpu).context("--judge")?;
        let [_, height, _] = judge.description().network.image_shape;
        let size = Some(config.size.unwrap_or(height));
        let pictures = pictures(data, size, &config.pictures).context("--data")?;
        let appearance = config.pictures.appearance().with_channels_of(pictures.image_shape());
        let references = self::pictures(against, size, &appearance).context("--against")?;
        let references = references.limited(REFERENCES.min(references.len()))?;
        let expected = judge.description().network.image_shape;
        for set in [&pictures, &references] {
            ensure!(
                set.image_shape() == expected,
                "the judge needs pictures of {expected:?}, got {:?} (channels, height, width)",
                set.image_shape()
            );
        }
        let mut features = Vec::new();
        for first in (0..references.len()).step_by(1000) {
            let chosen: Vec<usize> = (first..references.len().min(first + 1000)).collect();
            features.push(judge.judge(&references.images(&chosen, &Device::Cpu)?)?.features);
        }
        let reference = Reference::of(&Tensor::cat(&features, 0)?)?;
        Ok(Self { pictures, judge, reference })
    }

    /// The name of the judge.
    pub(super) fn name(&self) -> &str {
        &self.judge.description().name
    }

    /// Samples images and measures their quality.
    pub(super) fn generate_and_judge(
        &self,
        model: &LoadedModel,
        generation: &Generation,
    ) -> Result<JudgedImages> {
        let start = std::time::Instant::now();
        let images = model.generate(generation, &mut |_| ControlFlow::Continue(()))?;
        // Clip to the range that an image file can hold.
        let images = images.clamp(-1f32, 1f32)?;
        let sampling_seconds = start.elapsed().as_secs_f64();
        let output = self.judge.judge(&images)?;
        let quality = self.reference.quality(&output.features)?;
        let classes = ClassShares::of(&output.logits)?;
        let indices: Vec<u64> = (0..generation.num).collect();
        let known = &model.description.classes;
        let number = |class: u32| {
            let name = &known[class as usize].name;
            self.judge.classes().iter().position(|other| other == name).map(|place| place as u32)
        };
        let requested = generation.classes.classes(generation.seed, &indices, known);
        let requested: Vec<_> = requested.into_iter().map(|class| number(class?)).collect();
        let class_accuracy = ClassShares::class_accuracy(&output.logits, &requested)?;
        Ok(JudgedImages { images, sampling_seconds, quality, classes, class_accuracy })
    }
}

fn pictures(path: &Path, size: Option<usize>, config: &PictureConfig) -> Result<ImageDataset> {
    let source = Source::open(path, Split::Train)?;
    let prepared = prepare(&source, size, config, None, &mut |_| ControlFlow::Continue(()))?;
    Ok(prepared.dataset)
}
