//! What is said of a set of images, in figures.

use std::collections::BTreeMap;

use diffusion_eval::{ClassShares, Memorisation, SampleQuality};
use serde_json::{Value, json};

/// What a judge says of a set of images.
#[derive(Clone, Debug)]
pub(crate) struct Judgement {
    /// The images.
    pub(crate) count: usize,
    /// What their features say; none without a network that makes some.
    pub(crate) likeness: Option<Likeness>,
    /// None where the training pictures are not known.
    pub(crate) memorisation: Option<Memorisation>,
}

/// How near images are to real ones by their features.
#[derive(Clone, Debug)]
pub(crate) struct Likeness {
    /// What the distance is called: FID by Inception's features only.
    pub(crate) distance: &'static str,
    pub(crate) quality: SampleQuality,
    /// The classes that are read in them, where those of the judge are theirs.
    pub(crate) classes: Option<ClassShares>,
    /// The share of images that are read as what they were to be, where something was asked for.
    pub(crate) as_asked: Option<f64>,
    /// The mean distance between two images that were to be of one class.
    pub(crate) diversity: Option<f64>,
}

/// A figure: its name for people, its name for programs, its value.
pub(crate) type Figure = (&'static str, &'static str, f64);

impl Judgement {
    /// Each figure.
    pub(crate) fn figures(&self) -> Vec<Figure> {
        let mut figures = Vec::new();
        if let Some(Likeness { distance, quality, classes, as_asked, diversity }) = &self.likeness {
            let agreement = &quality.agreement;
            figures.extend([
                (*distance, "frechet_distance", quality.frechet_distance),
                ("precision", "precision", agreement.precision),
                ("recall", "recall", agreement.recall),
                ("density", "density", agreement.density),
                ("coverage", "coverage", agreement.coverage),
            ]);
            if let Some(classes) = classes {
                figures.extend([
                    ("sure (confidence > 0.95)", "sure", classes.sure),
                    ("mean confidence", "confidence", classes.confidence),
                    ("smallest class", "smallest_class", classes.smallest()),
                ]);
            }
            figures.extend(as_asked.map(|share| ("read as asked for", "as_asked", share)));
            figures.extend(diversity.map(|distance| ("distance within a class", "diversity", distance)));
        }
        if let Some(memorisation) = &self.memorisation {
            figures.extend([
                ("copies of training pictures", "copies", memorisation.copies),
                ("distance to the nearest", "nearest_training_distance", memorisation.nearest),
                ("the same among themselves", "training_nearest_distance", memorisation.training_nearest),
            ]);
        }
        figures
    }

    /// The figures by their names, the share of each class, and the number of images.
    pub(crate) fn metrics(&self) -> BTreeMap<String, f64> {
        let figures = self.figures().into_iter().map(|(_, name, value)| (name.to_owned(), value));
        let classes = self.likeness.iter().filter_map(|likeness| likeness.classes.as_ref());
        let shares = classes.flat_map(|classes| classes.shares.iter().enumerate());
        let shares = shares.map(|(class, share)| (format!("share_of_class_{class}"), *share));
        figures.chain(shares).chain([("count".to_owned(), self.count as f64)]).collect()
    }

    pub(crate) fn as_json(&self) -> Value {
        let mut json = json!({ "count": self.count });
        for (_, name, value) in self.figures() {
            json[name] = value.into();
        }
        if let Some(Likeness { classes: Some(classes), .. }) = &self.likeness {
            json["class_shares"] = classes.shares.clone().into();
        }
        json
    }
}
