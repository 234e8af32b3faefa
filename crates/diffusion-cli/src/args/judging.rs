//! What generated images are judged by: `--against` and `--inception`.

mod pictures;

use std::path::{Path, PathBuf};

use candle_core::Device;
use diffusion_eval::{
    EvalError, FeatureExtractor, FeatureJudge, FeatureNetwork, Inception, Note, ReferenceChoice,
    ReferenceSet, SampleEvaluator, TrainingSet,
};

pub(crate) use self::pictures::{Pictures, training_pictures};
use crate::args::data::CacheArgs;
use crate::args::runs;
use crate::session::usage::{UsageError, check_input, first_given};

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
        first_given(&[
            ("--against", self.against.is_some()),
            ("--inception", self.inception.is_some()),
        ])
    }

    /// The network that makes features.
    pub(crate) fn network(&self) -> FeatureNetwork {
        match self.inception {
            Some(_) => FeatureNetwork::Inception,
            None => FeatureNetwork::DigitJudge,
        }
    }

    /// For images of `shape`, by a model that was trained on `training`.
    pub(crate) fn evaluator(
        &self,
        shape: [usize; 3],
        training: Option<&TrainingSet<Pictures>>,
        cache: &CacheArgs,
        device: &Device,
        quiet: bool,
    ) -> anyhow::Result<SampleEvaluator> {
        let requested = self.against.as_deref().map(|path| match path.to_str() {
            Some(MNIST) => ReferenceChoice::Mnist,
            _ => ReferenceChoice::Named,
        });
        let choice = ReferenceChoice::new(requested, self.network(), shape, training)
            .map_err(|error| self.explained(error))?;
        let judge = match choice {
            None => None,
            Some(ReferenceChoice::Mnist) => Some(FeatureJudge::of_mnist(device)?),
            Some(ReferenceChoice::Named | ReferenceChoice::Run) => {
                let extractor = self.extractor(device)?;
                let references = match &self.against {
                    Some(path) => pictures::references(path, shape, training, cache, quiet)?,
                    None => {
                        ReferenceSet::of_run(training).map_err(|error| self.explained(error))?
                    }
                };
                let judge = FeatureJudge::new(extractor, &references, device);
                Some(judge.map_err(|error| self.explained(error))?)
            }
        };
        if judge.as_ref().is_some_and(FeatureJudge::is_rough) {
            tracing::warn!(
                "the features are those of a classifier of digits, which orders sets of other pictures only roughly; \
                 --inception FILE.safetensors judges by Inception-v3"
            );
        }
        Ok(SampleEvaluator::new(shape, judge, training, device)?)
    }

    /// For images of `shape` by the model in the folder `checkpoint`, or by the one that comes with the program. The pictures that it was
    /// trained on are those of `training`, or else those that its run names.
    pub(crate) fn evaluator_of_model(
        &self,
        checkpoint: Option<&Path>,
        shape: [usize; 3],
        training: Option<&Path>,
        cache: &CacheArgs,
        device: &Device,
        quiet: bool,
    ) -> anyhow::Result<SampleEvaluator> {
        let training = match (training, checkpoint) {
            (Some(path), _) => Some(training_pictures(path, shape, cache, quiet)?),
            (None, Some(checkpoint)) => pictures::of_run(checkpoint, cache, quiet)?,
            (None, None) => Some(training_pictures(Path::new(MNIST), shape, cache, quiet)?),
        };
        self.evaluator(shape, training.as_ref(), cache, device, quiet)
    }

    fn extractor(&self, device: &Device) -> anyhow::Result<FeatureExtractor> {
        let Some(path) = &self.inception else { return Ok(FeatureExtractor::shipped(device)?) };
        check_input("--inception", path)?;
        Ok(FeatureExtractor::Inception(Box::new(Inception::open(path, device)?)))
    }

    /// The error with the flags that cause or mend it.
    fn explained(&self, error: EvalError) -> anyhow::Error {
        let weights = "give the weights of Inception-v3 by --inception FILE.safetensors";
        let text = match (&error, &self.against) {
            (EvalError::NoFeatures { .. }, Some(path)) => {
                format!("--against {}: {error}; {weights}", path.display())
            }
            (EvalError::NoFeatures { .. }, None) => {
                format!(
                    "{error}; {weights}, or the pictures to look for copies of by --training PATH"
                )
            }
            (EvalError::NoImagesOfMnist, _) => format!("--against {MNIST}: {error}"),
            (EvalError::NoReference, _) => format!("--against: {error}"),
            (EvalError::TooFewReferences { .. }, _) => {
                format!("{error} (name others by --against)")
            }
            _ => return error.into(),
        };
        UsageError(text).into()
    }
}

/// Refuses `count` images, called `name`, where they are too few to be judged.
pub(crate) fn check_number(
    evaluator: &SampleEvaluator,
    name: &str,
    count: usize,
) -> anyhow::Result<()> {
    Ok(evaluator.check_number(name, count).map_err(|error| UsageError(error.to_string()))?)
}

/// How images are judged, to follow "they are", with the flag that would tell more.
pub(crate) fn description(evaluator: &SampleEvaluator) -> String {
    let more = if evaluator.judge().is_some() {
        ""
    } else {
        "; --inception FILE.safetensors gives the other figures"
    };
    format!("{}{more}", evaluator.description())
}

/// A note, with the command that would change what it says.
pub(crate) fn note(note: &Note) -> String {
    match note {
        Note::Circular => {
            format!("{note}; `{}` keeps others for that", runs::program("train --validation SHARE"))
        }
        Note::Other(text) => text.clone(),
    }
}
