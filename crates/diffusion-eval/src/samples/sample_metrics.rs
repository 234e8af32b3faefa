//! The metrics of one set of images.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::{ClassShares, FeatureNetwork, Memorisation, SampleQuality};

/// What is known of a set of images.
#[derive(Clone, Debug)]
pub struct SampleMetrics {
    /// The number of images.
    pub count: usize,
    /// By their features; `None` without a network that makes some.
    pub features: Option<FeatureMetrics>,
    /// Pixel by pixel; `None` where the training images are not known.
    pub memorisation: Option<Memorisation>,
}

/// How near images are to reference images by their features.
#[derive(Clone, Debug)]
pub struct FeatureMetrics {
    /// The network of the features.
    pub network: FeatureNetwork,
    /// Distance, precision, recall, density and coverage.
    pub quality: SampleQuality,
    /// The classes that are read in the images, where those of the network are theirs.
    pub classes: Option<ClassShares>,
    /// The share of images in which the class is read that they were to be of, in \[0, 1\]; `None` where none
    /// was to be of any.
    pub as_asked: Option<f64>,
    /// The mean distance between two images that were to be of one class.
    pub diversity: Option<f64>,
}

/// A number about a set of images.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Metric {
    /// Its name in a table.
    pub(super) title: &'static str,
    /// Its name in JSON and in the metrics of a run.
    pub(super) key: &'static str,
    /// The number.
    pub(super) value: f64,
}

impl SampleMetrics {
    /// Each metric, in the order of a table.
    pub(super) fn metrics(&self) -> Vec<Metric> {
        let mut metrics = Vec::new();
        let mut add = |title, key, value| metrics.push(Metric { title, key, value });
        if let Some(FeatureMetrics { network, quality, classes, as_asked, diversity }) =
            &self.features
        {
            add(network.distance_name(), "frechet_distance", quality.frechet_distance);
            add("precision", "precision", quality.agreement.precision);
            add("recall", "recall", quality.agreement.recall);
            add("density", "density", quality.agreement.density);
            add("coverage", "coverage", quality.agreement.coverage);
            if let Some(classes) = classes {
                add("sure (confidence > 0.95)", "sure", classes.sure);
                add("mean confidence", "confidence", classes.confidence);
                add("smallest class", "smallest_class", classes.smallest());
            }
            if let Some(share) = as_asked {
                add("read as asked for", "as_asked", *share);
            }
            if let Some(distance) = diversity {
                add("distance within a class", "diversity", *distance);
            }
        }
        if let Some(memorisation) = &self.memorisation {
            add("copies of training pictures", "copies", memorisation.copies);
            add("distance to the nearest", "nearest_training_distance", memorisation.nearest);
            add(
                "the same among themselves",
                "training_nearest_distance",
                memorisation.training_nearest,
            );
        }
        metrics
    }

    /// The metrics by their keys, with `share_of_class_0` and so on, and the number of images as `count`.
    pub fn by_key(&self) -> BTreeMap<String, f64> {
        let metrics =
            self.metrics().into_iter().map(|Metric { key, value, .. }| (key.to_owned(), value));
        let shares =
            self.classes().into_iter().flat_map(|classes| classes.shares.iter().enumerate());
        let shares = shares.map(|(class, share)| (format!("share_of_class_{class}"), *share));
        metrics.chain(shares).chain([("count".to_owned(), self.count as f64)]).collect()
    }

    /// A JSON object of the metrics by their keys, `count` and `class_shares`.
    pub fn as_json(&self) -> Value {
        let mut json = json!({ "count": self.count });
        for Metric { key, value, .. } in self.metrics() {
            json[key] = value.into();
        }
        if let Some(classes) = self.classes() {
            json["class_shares"] = classes.shares.clone().into();
        }
        json
    }

    /// The classes that are read in the images.
    pub(super) fn classes(&self) -> Option<&ClassShares> {
        self.features.as_ref()?.classes.as_ref()
    }
}
