//! The metrics of one set of images.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::{ClassShares, Memorisation, SampleQuality};

/// The metrics of a set of images.
#[derive(Clone, Debug)]
pub struct SampleMetrics {
    /// The number of images.
    pub count: usize,
    /// The metrics by features; `None` if there is no feature network for the images.
    pub features: Option<FeatureMetrics>,
    /// The comparison with training images, pixel by pixel; `None` if these are unknown.
    pub memorisation: Option<Memorisation>,
}

/// Metrics of images by their features.
#[derive(Clone, Debug)]
pub struct FeatureMetrics {
    /// The name of the Fréchet distance of the features.
    pub distance_name: &'static str,
    /// Fréchet distance, precision, recall, density and coverage.
    pub quality: SampleQuality,
    /// The classes that the network recognises; `None` if the images are not known to have its
    /// classes.
    pub classes: Option<ClassShares>,
    /// The names of these classes.
    pub class_names: Vec<String>,
    /// The share of images whose recognised class is the requested one, in \[0, 1\]; `None` if no
    /// class was requested. The JSON key is `as_asked`.
    pub class_accuracy: Option<f64>,
    /// The mean feature distance between two images of the same requested class; `None` if there is
    /// no such pair.
    pub diversity: Option<f64>,
}

/// The largest number of classes whose shares are metrics.
const MOST_CLASSES: usize = 20;

/// A metric of a set of images.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Metric {
    /// The title in a table.
    pub(super) title: &'static str,
    /// The key in JSON and in the metrics of a run.
    pub(super) key: &'static str,
    /// The value.
    pub(super) value: f64,
}

impl SampleMetrics {
    /// All metrics, in the order of a table.
    pub(super) fn metrics(&self) -> Vec<Metric> {
        let mut metrics = Vec::new();
        let mut add = |title, key, value| metrics.push(Metric { title, key, value });
        if let Some(FeatureMetrics {
            distance_name,
            quality,
            classes,
            class_accuracy,
            diversity,
            ..
        }) = &self.features
        {
            add(distance_name, "frechet_distance", quality.frechet_distance);
            add("precision", "precision", quality.agreement.precision);
            add("recall", "recall", quality.agreement.recall);
            add("density", "density", quality.agreement.density);
            add("coverage", "coverage", quality.agreement.coverage);
            if let Some(classes) = classes {
                add("classified confidently (> 0.95)", "sure", classes.sure);
                add("mean confidence", "confidence", classes.confidence);
                add("smallest class", "smallest_class", classes.smallest());
            }
            if let Some(share) = class_accuracy {
                add("class accuracy", "as_asked", *share);
            }
            if let Some(distance) = diversity {
                add("diversity", "diversity", *distance);
            }
        }
        if let Some(memorisation) = &self.memorisation {
            add("copies of training pictures", "copies", memorisation.copies);
            add("nearest training distance", "nearest_training_distance", memorisation.nearest);
            add(
                "nearest distance between training pictures",
                "training_nearest_distance",
                memorisation.training_nearest,
            );
        }
        metrics
    }

    /// All metrics by key, with the shares of up to 20 classes as `share_of_class_NAME`, and the
    /// number of images as `count`.
    pub fn by_key(&self) -> BTreeMap<String, f64> {
        let metrics =
            self.metrics().into_iter().map(|Metric { key, value, .. }| (key.to_owned(), value));
        let features = self.features.iter().filter(|f| f.class_names.len() <= MOST_CLASSES);
        let shares = features.flat_map(|features| {
            let shares = features.classes.iter().flat_map(|classes| &classes.shares);
            features.class_names.iter().zip(shares)
        });
        let shares = shares.map(|(class, share)| (format!("share_of_class_{class}"), *share));
        metrics.chain(shares).chain([("count".to_owned(), self.count as f64)]).collect()
    }

    /// All metrics as a JSON object by key, with `count` and `class_shares`.
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

    /// The classes recognised in the images.
    pub(super) fn classes(&self) -> Option<&ClassShares> {
        self.features.as_ref()?.classes.as_ref()
    }
}
