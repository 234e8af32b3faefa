//! Image quality metrics: `--against`, `--judge` and `--inception`.

mod pictures;

use std::path::{Path, PathBuf};

use candle_core::Device;
use diffusion_data::PictureConfig;
use diffusion_eval::{
    EvalError, FeatureExtractor, FeatureJudge, Inception, Judge, Note, ReferenceChoice,
    ReferenceSet, SampleEvaluator, TrainingSet,
};

pub(crate) use self::pictures::{Pictures, training_pictures};
use crate::args::data::CacheArgs;
use crate::args::runs;
use crate::session::usage::{UsageError, check_input, first_given};

/// The value of `--against` for MNIST's test digits, whose features come with the program.
const MNIST: &str = "mnist";

/// What to do if the digit judge cannot read the images.
pub(crate) const NEEDS_JUDGE: &str = "the digit judge needs 28×28 grey images; for others, name a \
                                      judge that `train-judge` trained with --judge \
                                      FILE.safetensors, or the weights of Inception-v3 with \
                                      --inception FILE.safetensors";

/// The flags of image quality metrics.
#[derive(clap::Args, Clone)]
pub(crate) struct JudgeArgs {
    /// Reference images: `mnist` (10,000 test digits), or any source that `train --data` accepts,
    /// at most 10,000 pictures of it [default: mnist where it applies, otherwise the run's
    /// validation set, otherwise its training set]
    ///
    /// mnist applies to models trained on the digits that come with the program, as these test
    /// digits do. The value mnist works with the digit judge only.
    #[arg(long, value_name = "mnist|PATH", help_heading = "Image metrics")]
    pub(crate) against: Option<PathBuf>,
    /// Compute the metrics from features of this judge, a file of `train-judge` [default: the digit
    /// judge that comes with the program]
    ///
    /// The digit judge reads only grey 28×28 images. Train a judge on the pictures of the model for
    /// all others. Metrics by different judges cannot be compared.
    #[arg(
        long,
        value_name = "FILE.safetensors",
        conflicts_with = "inception",
        help_heading = "Image metrics"
    )]
    pub(crate) judge: Option<PathBuf>,
    /// Compute the metrics from features of Inception-v3; the value is its weights as a safetensors
    /// file
    ///
    /// The Fréchet distance is then the usual FID.
    #[arg(long, value_name = "FILE.safetensors", help_heading = "Image metrics")]
    pub(crate) inception: Option<PathBuf>,
}

impl JudgeArgs {
    /// The name of the first flag that the user set.
    pub(crate) fn given(&self) -> Option<&'static str> {
        first_given(&[
            ("--against", self.against.is_some()),
            ("--judge", self.judge.is_some()),
            ("--inception", self.inception.is_some()),
        ])
    }

    /// The network that computes features.
    pub(crate) fn extractor(&self, device: &Device) -> anyhow::Result<FeatureExtractor> {
        if let Some(path) = &self.judge {
            check_input("--judge", path)?;
            return Ok(FeatureExtractor::Judge(Box::new(Judge::read(path, device)?)));
        }
        let Some(path) = &self.inception else { return Ok(FeatureExtractor::shipped(device)?) };
        check_input("--inception", path)?;
        Ok(FeatureExtractor::Inception(Box::new(Inception::open(path, device)?)))
    }

    /// An evaluator for images of `shape` by a model that was trained on `training`. References
    /// are prepared with `settings`, those of the training.
    pub(crate) fn evaluator(
        &self,
        shape: [usize; 3],
        training: Option<&TrainingSet<Pictures>>,
        settings: &PictureConfig,
        cache: &CacheArgs,
        device: &Device,
        quiet: bool,
    ) -> anyhow::Result<SampleEvaluator> {
        let requested = self.against.as_deref().map(|path| match path.to_str() {
            Some(MNIST) => ReferenceChoice::Mnist,
            _ => ReferenceChoice::Named,
        });
        // The file of weights is large, so this comes first.
        if self.inception.is_some() && requested == Some(ReferenceChoice::Mnist) {
            return Err(self.with_flags(EvalError::NoImagesOfMnist));
        }
        let extractor = self.extractor(device)?;
        if self.judge.is_some() {
            extractor
                .check_shape(shape)
                .map_err(|error| UsageError(format!("--judge: {error}")))?;
        }
        let choice = ReferenceChoice::new(requested, &extractor, shape, training)
            .map_err(|error| self.with_flags(error))?;
        let judge = match choice {
            None => None,
            Some(ReferenceChoice::Mnist) => Some(FeatureJudge::with_included_reference(extractor)?),
            Some(ReferenceChoice::Named | ReferenceChoice::Run) => {
                let references = match &self.against {
                    Some(path) => {
                        pictures::references(path, shape, training, settings, cache, quiet)?
                    }
                    None => {
                        ReferenceSet::of_run(training).map_err(|error| self.with_flags(error))?
                    }
                };
                let judge = FeatureJudge::new(extractor, &references, device);
                Some(judge.map_err(|error| self.with_flags(error))?)
            }
        };
        if judge.as_ref().is_some_and(FeatureJudge::is_rough) {
            tracing::warn!(
                "the features come from a classifier of digits, so metrics of other pictures are \
                 only rough; train a judge on your pictures with `{}` and name it with --judge",
                runs::program("train-judge --data DIR")
            );
        }
        Ok(SampleEvaluator::new(shape, judge, training, device)?)
    }

    /// An evaluator for images of `shape` by the model in the folder `checkpoint`, or by the one
    /// that comes with the program. `training` names its training pictures. Default: those of its
    /// run.
    pub(crate) fn evaluator_of_model(
        &self,
        checkpoint: Option<&Path>,
        shape: [usize; 3],
        training: Option<&Path>,
        cache: &CacheArgs,
        device: &Device,
        quiet: bool,
    ) -> anyhow::Result<SampleEvaluator> {
        let run = checkpoint.and_then(runs::run_of);
        let settings = run.map(|run| run.read_config()).transpose()?.unwrap_or_default().pictures;
        let named = |path| training_pictures(path, shape, &settings, cache, quiet);
        let training = match (training, checkpoint) {
            (Some(path), _) => Some(named(path)?),
            (None, Some(checkpoint)) => pictures::of_run(checkpoint, cache, quiet)?,
            (None, None) => Some(named(Path::new(MNIST))?),
        };
        self.evaluator(shape, training.as_ref(), &settings, cache, device, quiet)
    }

    /// The error, with the flags that cause or solve it.
    fn with_flags(&self, error: EvalError) -> anyhow::Error {
        let weights = "name a judge of such images, trained by `train-judge`, with --judge \
                       FILE.safetensors, or the weights of Inception-v3 with --inception \
                       FILE.safetensors";
        let text = match (&error, &self.against) {
            (EvalError::NoFeatures { .. }, Some(path)) => {
                format!("--against {}: {error}; {weights}", path.display())
            }
            (EvalError::NoFeatures { .. }, None) => {
                format!(
                    "{error}; {weights}, or the training pictures to search for copies with \
                     --training PATH"
                )
            }
            (EvalError::NoImagesOfMnist, _) => format!("--against {MNIST}: {error}"),
            (EvalError::NoReference, _) => format!("--against: {error}"),
            (EvalError::TooFewReferences { .. }, _) => {
                format!("{error} (name others with --against)")
            }
            _ => return error.into(),
        };
        UsageError(text).into()
    }
}

/// Fails if `count` images, called `name`, are too few for the metrics.
pub(crate) fn check_number(
    evaluator: &SampleEvaluator,
    name: &str,
    count: usize,
) -> anyhow::Result<()> {
    Ok(evaluator.check_number(name, count).map_err(|error| UsageError(error.to_string()))?)
}

/// A description of the metrics, with the flag for more of them.
pub(crate) fn description(evaluator: &SampleEvaluator) -> String {
    let more = if evaluator.judge().is_some() {
        ""
    } else {
        "; --judge FILE.safetensors or --inception FILE.safetensors adds the other metrics"
    };
    format!("{}{more}", evaluator.description())
}

/// The text of a note, with the command that solves the problem.
pub(crate) fn note(note: &Note) -> String {
    match note {
        Note::Circular => {
            format!(
                "{note}; `{}` reserves validation pictures",
                runs::program("train --validation SHARE")
            )
        }
        Note::Other(text) => text.clone(),
    }
}
