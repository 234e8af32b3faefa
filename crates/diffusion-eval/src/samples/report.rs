//! The metrics of several sets of images and their spread.

use serde_json::{Map, Value, json};

use super::sample_metrics::Metric;
use super::{FeatureJudge, Note, SampleEvaluator, SampleMetrics};
use crate::mean_and_deviation;

/// The metrics of several sets of images, for example one set per seed, and of training images for
/// comparison.
#[derive(Clone, Debug)]
pub struct SampleReport {
    /// The name and the metrics of each set. There is at least one set, and all have the same
    /// metrics.
    pub sets: Vec<(String, SampleMetrics)>,
    /// The metrics of training images; `None` if there are none.
    pub training: Option<SampleMetrics>,
}

/// The mean and spread of a metric over all sets.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct MetricSpread {
    /// The title of the metric in a table.
    pub title: &'static str,
    /// The key of the metric in JSON.
    pub key: &'static str,
    /// The mean over the sets.
    pub mean: f64,
    /// The standard deviation between sets; `None` for one set.
    pub deviation: Option<f64>,
    /// The same metric of the training images; `None` if they do not have it.
    pub training: Option<f64>,
}

impl SampleReport {
    /// The default number of images in a set: 2000. The Fréchet distance falls with this number, so
    /// only sets of the same number can be compared.
    pub const IMAGES: u64 = 2000;
    /// The default number of seeds, with one set each: 3, the smallest number that shows a spread.
    pub const SEEDS: u64 = 3;

    /// The smallest and the largest number of images in a set.
    pub fn counts(&self) -> (usize, usize) {
        let counts = || self.sets.iter().map(|(_, metrics)| metrics.count);
        (counts().min().unwrap_or(0), counts().max().unwrap_or(0))
    }

    /// The mean and spread of each metric, in the order of a table.
    pub fn spreads(&self) -> Vec<MetricSpread> {
        let all: Vec<_> = self.sets.iter().map(|(_, metrics)| metrics.metrics()).collect();
        let Some(first) = all.first() else { return Vec::new() };
        let training = self.training.as_ref().map(SampleMetrics::metrics).unwrap_or_default();
        let spread = |(i, metric): (usize, &Metric)| {
            let values: Vec<f64> =
                all.iter().filter_map(|metrics| Some(metrics.get(i)?.value)).collect();
            let (mean, deviation) = mean_and_deviation(&values);
            let &Metric { title, key, .. } = metric;
            let training = training.iter().find(|other| other.key == key).map(|other| other.value);
            MetricSpread { title, key, mean, deviation, training }
        };
        first.iter().enumerate().map(spread).collect()
    }

    /// The mean share of each class over the sets; empty if no classes are recognised.
    pub fn class_shares(&self) -> Vec<f64> {
        let sets: Vec<_> = self.sets.iter().filter_map(|(_, metrics)| metrics.classes()).collect();
        let Some(first) = sets.first() else { return Vec::new() };
        let mean = |class: usize| {
            sets.iter().map(|classes| classes.shares[class]).sum::<f64>() / sets.len() as f64
        };
        (0..first.shares.len()).map(mean).collect()
    }

    /// The notes about these metrics, which `evaluator` computed.
    pub fn notes(&self, evaluator: &SampleEvaluator) -> Vec<Note> {
        let (fewest, most) = self.counts();
        evaluator.notes(fewest, most)
    }

    /// All metrics as a JSON object: the sets, means, standard deviations and training images.
    /// `evaluator` is the one that computed them.
    pub fn as_json(&self, evaluator: &SampleEvaluator) -> Value {
        let sets: Vec<Value> = self
            .sets
            .iter()
            .map(|(name, metrics)| {
                let mut json = metrics.as_json();
                json["name"] = name.clone().into();
                json
            })
            .collect();
        let spreads = self.spreads();
        let of_each = |value: fn(&MetricSpread) -> Value| -> Value {
            spreads
                .iter()
                .map(|spread| (spread.key.to_owned(), value(spread)))
                .collect::<Map<_, _>>()
                .into()
        };
        json!({
            "judge": evaluator.judge().map(|judge| judge.extractor().features_name()),
            "against": evaluator.judge().map(FeatureJudge::reference_name),
            "sets": sets,
            "mean": of_each(|spread| spread.mean.into()),
            "standard_deviation": of_each(|spread| spread.deviation.into()),
            "training_pictures": self.training.as_ref().map(SampleMetrics::as_json),
        })
    }
}
