//! Judging generated images: by what, beside what, and what is said of them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use candle_core::{Device, Tensor};
use diffusion_data::{ImageDataset, PictureConfig, Prepared};
use diffusion_eval::{
    ClassShares, DigitJudge, Inception, Memorisation, Reference, SampleQuality, TrainingImages,
};
use serde_json::{Value, json};

use crate::usage::bail_usage;
use crate::{data, runs};

/// Real pictures that features are computed of, and those of training that copies are looked for in: at most.
const REAL: usize = 10_000;
/// Images that copies are looked for among.
const CHECKED: usize = 2000;
/// Images that Inception looks at together: each takes 25 MB.
const BATCH: usize = 8;
/// What `--against` calls the digits that the shipped judge knows.
const MNIST: &str = "mnist";

/// What images are judged by.
#[derive(clap::Args, Clone)]
pub(crate) struct JudgeArgs {
    /// The real pictures: mnist, for its 10,000 test digits, or whatever --data of train understands [default: mnist for a model of
    /// the digits that come with the program, else what the model was trained on]
    #[arg(long, value_name = "mnist|PATH", help_heading = "Judging")]
    pub(crate) against: Option<PathBuf>,
    /// Judge by the features of Inception-v3, so that the distance is the FID: its standard weights as a safetensors file
    #[arg(long, value_name = "FILE.safetensors", help_heading = "Judging")]
    pub(crate) inception: Option<PathBuf>,
}

/// The network whose features are compared.
enum Eyes {
    Digits(Box<DigitJudge>),
    Inception(Box<Inception>),
}

impl Eyes {
    /// Features of `images`, and logits where they are classified.
    fn look(&self, images: &Tensor) -> anyhow::Result<(Tensor, Option<Tensor>)> {
        match self {
            Self::Digits(judge) => {
                let verdict = judge.judge(images)?;
                Ok((verdict.features, Some(verdict.logits)))
            }
            Self::Inception(network) => {
                let count = images.dim(0)?;
                let parts = (0..count).step_by(BATCH).map(|first| {
                    let batch = images.narrow(0, first, BATCH.min(count - first))?;
                    Ok(network.features(&batch)?.to_device(&Device::Cpu)?)
                });
                Ok((Tensor::cat(&parts.collect::<anyhow::Result<Vec<_>>>()?, 0)?, None))
            }
        }
    }
}

/// Real pictures as a network sees them, beside which others are judged.
pub(crate) struct Judge {
    eyes: Eyes,
    reference: Reference,
    /// What the real pictures are.
    pub(crate) against: String,
    /// Whether classes of the judge's are classes of the pictures.
    classifies: bool,
    /// What the model learnt from.
    training: Option<Training>,
}

/// Pictures that a model learnt from.
struct Training {
    pictures: Tensor,
    /// The same, to look for copies of.
    known: TrainingImages,
}

/// What a judge says of a set of images.
#[derive(Clone, Debug)]
pub(crate) struct Judgement {
    /// What the distance is called: FID by Inception's features only.
    pub(crate) distance: &'static str,
    pub(crate) quality: SampleQuality,
    pub(crate) classes: Option<ClassShares>,
    pub(crate) memorisation: Option<Memorisation>,
}

impl Judge {
    /// A judge of images of `shape`. `training` are the pictures that the model learnt from and the name of their source; no name
    /// stands for the digits that come with the program.
    pub(crate) fn new(
        args: &JudgeArgs,
        shape: [usize; 3],
        training: Option<(&ImageDataset, Option<&Path>)>,
        cache: &data::CacheArgs,
        device: &Device,
        quiet: bool,
    ) -> anyhow::Result<Self> {
        let known = training.map(|(dataset, _)| first_images(dataset, REAL, device)).transpose()?;
        let training_of = |pictures: Option<Tensor>| -> anyhow::Result<Option<Training>> {
            let new = |pictures| Ok(Training { known: TrainingImages::new(&pictures)?, pictures });
            pictures.map(new).transpose()
        };
        let of_digits = training.is_none_or(|(_, path)| path.is_none());
        let mnist = match &args.against {
            Some(path) => path.as_os_str() == MNIST,
            None => of_digits && args.inception.is_none(),
        };
        let eyes = match &args.inception {
            Some(_) if mnist => bail_usage!(
                "--against mnist: only what the digit judge makes of these digits is known; name the pictures for Inception"
            ),
            Some(path) => Eyes::Inception(Box::new(Inception::open(path, device)?)),
            None if shape != DigitJudge::IMAGE_SHAPE => {
                let [channels, height, width] = shape;
                bail_usage!(
                    "the images are {channels}×{height}×{width}, and the digit judge reads 1×28×28; give the weights of Inception-v3 by \
                     --inception FILE.safetensors"
                );
            }
            None => {
                let (judge, reference) = DigitJudge::shipped(device)?;
                if mnist {
                    let against = "10,000 test digits of MNIST".to_owned();
                    let eyes = Eyes::Digits(Box::new(judge));
                    return Ok(Self {
                        eyes,
                        reference,
                        against,
                        classifies: true,
                        training: training_of(known)?,
                    });
                }
                Eyes::Digits(Box::new(judge))
            }
        };
        let (real, against) = match (&args.against, &known) {
            (Some(path), _) => {
                let path = data::resolve(path)?;
                let prepared = brought_to(Some(&path), shape, cache, quiet)?;
                data::report_damaged(&prepared.report.damaged);
                let dataset = prepared.dataset;
                if dataset.image_shape() != shape {
                    bail_usage!(
                        "--against {}: its pictures are {:?}, the images {shape:?} (channels, height, width)",
                        path.display(),
                        dataset.image_shape()
                    );
                }
                (first_images(&dataset, REAL, device)?, format!("the pictures of {}", path.display()))
            }
            (None, Some(known)) => (known.clone(), "the pictures that the model was trained on".to_owned()),
            (None, None) => bail_usage!("--against: name the real pictures, or mnist"),
        };
        let reference = Reference::of(&eyes.look(&real)?.0)?;
        let against = format!("{against} ({} of them)", real.dim(0)?);
        Ok(Self { eyes, reference, against, classifies: false, training: training_of(known)? })
    }

    /// Whether images of `shape` can be judged.
    pub(crate) fn can(args: &JudgeArgs, shape: [usize; 3]) -> bool {
        args.inception.is_some() || shape == DigitJudge::IMAGE_SHAPE
    }

    /// The name of the features.
    pub(crate) fn features(&self) -> &'static str {
        match self.eyes {
            Eyes::Digits(_) => "features of the digit judge",
            Eyes::Inception(_) => "features of Inception-v3",
        }
    }

    /// The name of the distance of those features.
    pub(crate) fn distance(&self) -> &'static str {
        match self.eyes {
            Eyes::Digits(_) => "Fréchet distance",
            Eyes::Inception(_) => "FID",
        }
    }

    /// A judge of the images of the model in the folder `checkpoint`, or of the one that comes with the program, which makes images of
    /// `shape`. The pictures that it learnt from are those of `training`, or else those that its run names.
    pub(crate) fn of_model(
        args: &JudgeArgs,
        checkpoint: Option<&Path>,
        shape: [usize; 3],
        training: Option<&Path>,
        cache: &data::CacheArgs,
        device: &Device,
        quiet: bool,
    ) -> anyhow::Result<Self> {
        let run = checkpoint.and_then(runs::run_of);
        let training = match (training, run, checkpoint) {
            (Some(path), ..) => Some(training_pictures(path, shape, cache, quiet)?),
            (None, Some(run), _) => {
                let config = run.read_config()?;
                let source = data::open(config.data.as_deref())?;
                let prepared = data::prepared(&source, config.size, &config.pictures, cache, quiet)?;
                Some((data::select(prepared.dataset, &config.pictures)?.0, config.data))
            }
            (None, None, None) => Some(training_pictures(Path::new(MNIST), shape, cache, quiet)?),
            (None, None, Some(_)) => None,
        };
        let known = training.as_ref().map(|(dataset, path)| (dataset, path.as_deref()));
        Self::new(args, shape, known, cache, device, quiet)
    }

    /// How near `images` (N, C, H, W) in \[−1, 1\] are to the real ones, and what classes are read in them.
    pub(crate) fn quality(&self, images: &Tensor) -> anyhow::Result<(SampleQuality, Option<ClassShares>)> {
        let (features, logits) = self.eyes.look(images)?;
        let logits = logits.filter(|_| self.classifies);
        let classes = logits.map(|logits| ClassShares::of(&logits)).transpose()?;
        Ok((self.reference.quality(&features)?, classes))
    }

    /// What the judge says of `images` (N, C, H, W) in \[−1, 1\].
    pub(crate) fn judge(&self, images: &Tensor) -> anyhow::Result<Judgement> {
        let (quality, classes) = self.quality(images)?;
        let checked = images.narrow(0, 0, images.dim(0)?.min(CHECKED))?;
        let memorisation =
            self.training.as_ref().map(|training| training.known.memorisation(&checked)).transpose()?;
        Ok(Judgement { distance: self.distance(), quality, classes, memorisation })
    }

    /// What it says of as many training pictures as were generated: what a perfect model would get.
    pub(crate) fn judge_training(&self, count: usize) -> anyhow::Result<Option<Judgement>> {
        let Some(Training { pictures, .. }) = &self.training else { return Ok(None) };
        let some = pictures.narrow(0, 0, pictures.dim(0)?.min(count))?;
        let (quality, classes) = self.quality(&some)?;
        Ok(Some(Judgement { distance: self.distance(), quality, classes, memorisation: None }))
    }
}

/// The pictures of `path`, brought to `shape`; `mnist` stands for the digits that come with the program.
pub(crate) fn training_pictures(
    path: &Path,
    shape: [usize; 3],
    cache: &data::CacheArgs,
    quiet: bool,
) -> anyhow::Result<(ImageDataset, Option<PathBuf>)> {
    let path = (path.as_os_str() != MNIST).then(|| data::resolve(path)).transpose()?;
    let dataset = brought_to(path.as_deref(), shape, cache, quiet)?.dataset;
    Ok((dataset, path))
}

/// All pictures of `path`, or of the digits that come with the program, at the height of `shape`.
fn brought_to(
    path: Option<&Path>,
    shape: [usize; 3],
    cache: &data::CacheArgs,
    quiet: bool,
) -> anyhow::Result<Prepared> {
    data::prepared(&data::open(path)?, Some(shape[1]), &PictureConfig::default(), cache, quiet)
}

/// Up to `most` pictures, spread over all of them.
fn first_images(dataset: &ImageDataset, most: usize, device: &Device) -> anyhow::Result<Tensor> {
    let chosen = dataset.limited(most.min(dataset.len()))?;
    let positions: Vec<usize> = (0..chosen.len()).collect();
    Ok(chosen.images(&positions, device)?)
}

impl Judgement {
    /// Name and value of each figure, for tables.
    pub(crate) fn figures(&self) -> Vec<(&'static str, f64)> {
        let quality = &self.quality;
        let mut figures = vec![
            (self.distance, quality.frechet_distance),
            ("precision", quality.agreement.precision),
            ("recall", quality.agreement.recall),
            ("density", quality.agreement.density),
            ("coverage", quality.agreement.coverage),
        ];
        if let Some(classes) = &self.classes {
            figures.push(("sure (confidence > 0.95)", classes.sure));
            figures.push(("mean confidence", classes.confidence));
            figures.push(("smallest class", classes.smallest()));
        }
        if let Some(memorisation) = &self.memorisation {
            figures.push(("copies of training pictures", memorisation.copies));
            figures.push(("distance to the nearest", memorisation.nearest));
            figures.push(("the same among themselves", memorisation.training_nearest));
        }
        figures
    }

    /// The figures that a training's metrics keep.
    pub(crate) fn metrics(&self) -> BTreeMap<String, f64> {
        let json = self.as_json();
        let numbers = json.as_object().into_iter().flatten();
        numbers.filter_map(|(name, value)| Some((name.clone(), value.as_f64()?))).collect()
    }

    pub(crate) fn as_json(&self) -> Value {
        let agreement = &self.quality.agreement;
        let mut json = json!({
            "count": self.quality.count,
            "frechet_distance": self.quality.frechet_distance,
            "precision": agreement.precision,
            "recall": agreement.recall,
            "density": agreement.density,
            "coverage": agreement.coverage,
        });
        if let Some(classes) = &self.classes {
            json["sure"] = classes.sure.into();
            json["confidence"] = classes.confidence.into();
            json["class_shares"] = classes.shares.clone().into();
        }
        if let Some(memorisation) = &self.memorisation {
            json["copies"] = memorisation.copies.into();
            json["nearest_training_distance"] = memorisation.nearest.into();
            json["training_nearest_distance"] = memorisation.training_nearest.into();
        }
        json
    }
}
