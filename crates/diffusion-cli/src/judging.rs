//! Judging generated images: by what, beside what, and what is said of them.

mod judgement;
mod pictures;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use candle_core::{Device, Tensor};
use diffusion_data::ImageDataset;
use diffusion_eval::{ClassShares, DigitJudge, Inception, Reference, TrainingImages, diversity, spread};

pub(crate) use self::judgement::{Figure, Judgement, Likeness};
pub(crate) use self::pictures::{Learnt, training_pictures};
use self::pictures::{Real, learnt_in_run};
use crate::args::runs;
use crate::data;
use crate::session::usage::{bail_usage, check_input, first_given};

/// Real pictures that features are computed of, and those of training that copies are looked for in: at most.
const REAL: usize = 10_000;
/// Numbers in the training pictures that copies are looked for in, at most: they are kept in memory, twice.
const KNOWN: usize = 1 << 27;
/// Pictures that are in memory at once to compute their features.
const LOOKED_AT: usize = 256;
/// Images that copies are looked for among.
const CHECKED: usize = 2000;
/// Images that Inception looks at together: each takes 25 MB.
const BATCH: usize = 8;
/// What `--against` calls the digits that the shipped judge knows.
const MNIST: &str = "mnist";

/// What images are judged by.
#[derive(clap::Args, Clone)]
pub(crate) struct JudgeArgs {
    /// The real pictures: mnist, for its 10,000 test digits, or whatever --data of train understands, up to 10,000 of them [default:
    /// mnist for a model of the digits that come with the program and for folders of grey 28×28 images without --training, else what the run kept out of training by
    /// --validation, or if that is nothing, what was trained on]
    #[arg(long, value_name = "mnist|PATH", help_heading = "Judging")]
    pub(crate) against: Option<PathBuf>,
    /// Judge by the features of Inception-v3, so that the distance is the FID: its standard weights as a safetensors file
    #[arg(long, value_name = "FILE.safetensors", help_heading = "Judging")]
    pub(crate) inception: Option<PathBuf>,
}

impl JudgeArgs {
    /// The first of the flags that is given.
    pub(crate) fn given(&self) -> Option<&'static str> {
        first_given(&[("--against", self.against.is_some()), ("--inception", self.inception.is_some())])
    }
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

impl Eyes {
    /// Features of up to `most` of `pictures`, spread over all of them.
    fn look_over(&self, pictures: &ImageDataset, most: usize, device: &Device) -> anyhow::Result<Tensor> {
        let chosen = pictures.limited(most.min(pictures.len()))?;
        let positions: Vec<usize> = (0..chosen.len()).collect();
        let parts = positions.chunks(LOOKED_AT).map(|some| Ok(self.look(&chosen.images(some, device)?)?.0));
        Ok(Tensor::cat(&parts.collect::<anyhow::Result<Vec<_>>>()?, 0)?)
    }
}

/// What images are compared with.
pub(crate) struct Judge {
    /// None where nothing here makes features of such images.
    critic: Option<Critic>,
    /// Pictures that the model learnt from, if they are known.
    training: Option<Training>,
    /// [C, H, W] of the images.
    shape: [usize; 3],
}

/// Real pictures as a network sees them.
pub(crate) struct Critic {
    eyes: Eyes,
    reference: Reference,
    /// What the real pictures are.
    pub(crate) against: String,
    /// Whether classes of the judge's are classes of the pictures.
    classifies: bool,
    /// Whether those that the model learnt from are among the real pictures.
    circular: bool,
}

/// Pictures that a model learnt from.
struct Training {
    pictures: Tensor,
    /// All there are; `pictures` are some of them.
    all: usize,
    /// The same pictures, to look for copies of.
    known: TrainingImages,
}

impl Training {
    /// The number of `pictures`.
    fn looked_at(&self) -> usize {
        self.pictures.dims()[0]
    }
}

impl Judge {
    /// A judge of images of `shape`, by a model that learnt from `learnt`.
    pub(crate) fn new(
        args: &JudgeArgs,
        shape: [usize; 3],
        learnt: Option<&Learnt>,
        cache: &data::CacheArgs,
        device: &Device,
        quiet: bool,
    ) -> anyhow::Result<Self> {
        // What has no second picture has no second nearest one.
        let known = learnt.filter(|learnt| learnt.training.len() > 1);
        if !Self::sees(args, shape) {
            let [channels, height, width] = shape;
            let but = format!(
                "the images are {channels}×{height}×{width}, and the digit judge reads 1×28×28; give the weights of Inception-v3 by \
                 --inception FILE.safetensors"
            );
            match &args.against {
                Some(path) => bail_usage!("--against {}: {but}", path.display()),
                None if known.is_none() => {
                    bail_usage!("{but}, or the pictures to look for copies of by --training PATH")
                }
                None => {}
            }
        }
        let most = REAL.min(KNOWN / shape.iter().product::<usize>()).max(2);
        let pictures =
            known.map(|learnt| pictures::first_images(&learnt.training, most, device)).transpose()?;
        let critic = if Self::sees(args, shape) {
            Some(Critic::new(args, shape, learnt, cache, device, quiet)?)
        } else {
            None
        };
        let training = match (known, pictures) {
            (Some(Learnt { training, mirrored, .. }), Some(pictures)) => {
                let known = TrainingImages::new(&pictures, *mirrored)?;
                Some(Training { known, pictures, all: training.len() })
            }
            _ => None,
        };
        Ok(Self { critic, training, shape })
    }

    /// Whether there are features of images of `shape`.
    pub(crate) fn sees(args: &JudgeArgs, shape: [usize; 3]) -> bool {
        args.inception.is_some() || shape == DigitJudge::IMAGE_SHAPE
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
        let learnt = match (training, checkpoint) {
            (Some(path), _) => Some(training_pictures(path, shape, cache, quiet)?),
            (None, Some(checkpoint)) => learnt_in_run(checkpoint, cache, quiet)?,
            (None, None) => Some(training_pictures(Path::new(MNIST), shape, cache, quiet)?),
        };
        Self::new(args, shape, learnt.as_ref(), cache, device, quiet)
    }

    /// How the images are judged, to follow "they are".
    pub(crate) fn how(&self) -> String {
        match (&self.critic, &self.training) {
            (Some(critic), _) => format!("judged by the {}, beside {}", critic.features(), critic.against),
            (None, training) => {
                let [channels, height, width] = self.shape;
                let among = training.as_ref().map_or(0, |training| training.all);
                format!(
                    "looked at for copies of the {among} training pictures only: the digit judge makes features of 1×28×28, not of \
                     {channels}×{height}×{width}; --inception FILE.safetensors gives the other figures"
                )
            }
        }
    }

    /// Who judges by features, if anybody can.
    pub(crate) fn critic(&self) -> Option<&Critic> {
        self.critic.as_ref()
    }

    /// What there is to know of the figures of `fewest` to `most` images, a line each.
    pub(crate) fn notes(&self, fewest: usize, most: usize) -> Vec<String> {
        let mut notes = Vec::new();
        if let Some(critic) = &self.critic {
            let features = critic.reference.features();
            if fewest < features {
                notes.push(format!(
                    "{fewest} images are fewer than the {features} features that are compared: the distance says little"
                ));
            }
            if critic.circular && self.training.is_some() {
                notes.push(format!(
                    "no column of training pictures: they are what the images are compared with; `{}` keeps others for that",
                    runs::program("train --validation SHARE")
                ));
            } else if let Some(training) = &self.training
                && training.looked_at() < most
            {
                notes.push(match training.looked_at() {
                    few @ ..Reference::SMALLEST => {
                        format!("no column of training pictures: there are {few}, too few to be judged")
                    }
                    few => {
                        format!("the training pictures are {few} only, and the figures depend on the number")
                    }
                });
            }
            let real = critic.reference.compared();
            if most > Reference::COMPARED || real == Reference::COMPARED {
                let compared = most.min(Reference::COMPARED);
                notes.push(format!(
                    "precision, recall, density and coverage compare {compared} images with {real} real ones"
                ));
            }
        }
        if let Some(training) = &self.training {
            let (looked_at, all) = (training.looked_at(), training.all);
            if most > CHECKED {
                notes.push(format!("copies are looked for among {CHECKED} of the images"));
            }
            if training.known.mirrored() {
                notes.push(
                    "mirror images of training pictures are copies too, as the run trained on them"
                        .to_owned(),
                );
            }
            if looked_at < all {
                notes.push(format!("copies are looked for of {looked_at} of the {all} training pictures"));
            }
        }
        notes
    }

    /// Refuses the images called `name` where they are too few to be judged.
    pub(crate) fn check_number(&self, name: &str, count: usize) -> anyhow::Result<()> {
        if self.critic.is_some() && count < Reference::SMALLEST {
            let images = if count == 1 { "image is" } else { "images are" };
            bail_usage!("{name}: {count} {images} too few to be judged; {} are needed", Reference::SMALLEST);
        }
        Ok(())
    }

    /// What the judge says of `images` (N, C, H, W) in \[−1, 1\], which were to be of the classes with these `names`, if any.
    pub(crate) fn judge(&self, images: &Tensor, names: &[Option<&str>]) -> anyhow::Result<Judgement> {
        let count = images.dim(0)?;
        let likeness = self.critic.as_ref().map(|critic| critic.likeness(images, names)).transpose()?;
        let checked = spread(images, CHECKED)?;
        let memorisation =
            self.training.as_ref().map(|training| training.known.memorisation(&checked)).transpose()?;
        Ok(Judgement { count, likeness, memorisation })
    }

    /// What it says of as many training pictures as were generated, or all it has: what a perfect model would get. None where they are
    /// too few, not known, or what the images are compared with.
    pub(crate) fn judge_training(&self, count: usize) -> anyhow::Result<Option<Judgement>> {
        let (Some(critic), Some(training)) = (&self.critic, &self.training) else { return Ok(None) };
        let count = training.looked_at().min(count);
        if critic.circular || count < Reference::SMALLEST {
            return Ok(None);
        }
        let likeness = Some(critic.likeness(&spread(&training.pictures, count)?, &[])?);
        Ok(Some(Judgement { count, likeness, memorisation: None }))
    }
}

impl Critic {
    fn new(
        args: &JudgeArgs,
        shape: [usize; 3],
        learnt: Option<&Learnt>,
        cache: &data::CacheArgs,
        device: &Device,
        quiet: bool,
    ) -> anyhow::Result<Self> {
        let of_digits = learnt.is_none_or(|learnt| learnt.path.is_none());
        let mnist = match &args.against {
            Some(path) => path.as_os_str() == MNIST,
            None => of_digits && args.inception.is_none(),
        };
        let eyes = match &args.inception {
            Some(_) if mnist => bail_usage!(
                "--against mnist: only what the digit judge makes of these digits is known; name the pictures for Inception"
            ),
            Some(path) => {
                check_input("--inception", path)?;
                Eyes::Inception(Box::new(Inception::open(path, device)?))
            }
            None => {
                let (judge, reference) = DigitJudge::shipped(device)?;
                let eyes = Eyes::Digits(Box::new(judge));
                if mnist {
                    let against = "10,000 test digits of MNIST".to_owned();
                    return Ok(Self { eyes, reference, against, classifies: true, circular: false });
                }
                eyes
            }
        };
        let Real { pictures: real, name, circular } = Real::of(args, shape, learnt, cache, quiet)?;
        let all = real.len();
        if all < Reference::SMALLEST {
            bail_usage!(
                "{name}: {all} pictures are too few to compare images with; {} are needed (name others by --against)",
                Reference::SMALLEST
            );
        }
        if args.inception.is_none() {
            tracing::warn!(
                "the features are those of a classifier of digits, which orders sets of other pictures only roughly; \
                 --inception FILE.safetensors judges by Inception-v3"
            );
        }
        let features = eyes.look_over(&real, REAL, device)?;
        let reference = Reference::of(&features)?;
        let count = features.dim(0)?;
        let of = if count < all { format!(" of {all}") } else { String::new() };
        Ok(Self { eyes, reference, against: format!("{name} ({count}{of})"), classifies: false, circular })
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

    /// How near `images` (N, C, H, W) in \[−1, 1\] are to the real ones, and what classes are read in them.
    /// `names` are those of the classes that they were to be of; a digit's name is the digit.
    pub(crate) fn likeness(&self, images: &Tensor, names: &[Option<&str>]) -> anyhow::Result<Likeness> {
        let (features, logits) = self.eyes.look(images)?;
        let logits = logits.filter(|_| self.classifies);
        let asked: Vec<Option<u32>> = names.iter().map(|name| (*name)?.parse().ok()).collect();
        let as_asked =
            |logits| if asked.is_empty() { Ok(None) } else { ClassShares::as_asked(logits, &asked) };
        Ok(Likeness {
            distance: self.distance(),
            quality: self.reference.quality(&features)?,
            diversity: diversity(&features, &numbered(names))?,
            as_asked: logits.as_ref().map(as_asked).transpose()?.flatten(),
            classes: logits.map(|logits| ClassShares::of(&logits)).transpose()?,
        })
    }
}

/// The same names as the same numbers.
fn numbered(names: &[Option<&str>]) -> Vec<Option<u32>> {
    let mut numbers = BTreeMap::new();
    let mut number = |name| {
        let next = numbers.len() as u32;
        *numbers.entry(name).or_insert(next)
    };
    names.iter().map(|name| name.map(&mut number)).collect()
}
