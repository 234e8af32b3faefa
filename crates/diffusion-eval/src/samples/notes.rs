//! Notes that explain the limits of metrics.

use std::fmt;

use super::FeatureJudge;
use super::training::{MAX_CHECKED, TrainingSubset};
use crate::Reference;

/// A note about metrics. Its text is one line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Note {
    /// There are no metrics of training images, because they are the reference images. A validation
    /// set would change that.
    Circular,
    /// Another note.
    Other(String),
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Circular => "no column of training pictures: they are the reference pictures",
            Self::Other(text) => text,
        })
    }
}

/// The notes about sets of `fewest` to `most` images.
pub(super) fn notes(
    judge: Option<&FeatureJudge>,
    training: Option<&TrainingSubset>,
    fewest: usize,
    most: usize,
) -> Vec<Note> {
    let mut notes = Vec::new();
    if let Some(judge) = judge {
        let features = judge.reference.features();
        if fewest < features {
            notes.push(Note::Other(format!(
                "{fewest} images are fewer than the {features} features: the distance is unreliable"
            )));
        }
        match training.map(TrainingSubset::count) {
            Some(_) if judge.circular => notes.push(Note::Circular),
            Some(few) if few < Reference::SMALLEST.min(most) => notes.push(Note::Other(format!(
                "no column of training pictures: there are {few}, too few to evaluate"
            ))),
            Some(few) if few < most => notes.push(Note::Other(format!(
                "there are only {few} training pictures, and the metrics depend on the number of \
                 images"
            ))),
            _ => {}
        }
        let real = judge.reference.compared();
        if most > Reference::COMPARED || real == Reference::COMPARED {
            let compared = most.min(Reference::COMPARED);
            notes.push(Note::Other(format!(
                "precision, recall, density and coverage compare {compared} images with {real} \
                 real ones"
            )));
        }
    }
    if let Some(training) = training {
        if most > MAX_CHECKED {
            notes.push(Note::Other(format!("{MAX_CHECKED} of the images are checked for copies")));
        }
        if training.mirrored() {
            let text =
                "mirror images of training pictures are copies too, as the run trained on them";
            notes.push(Note::Other(text.to_owned()));
        }
        let (used, all) = (training.count(), training.all);
        if used < all {
            notes.push(Note::Other(format!(
                "copies are searched for among {used} of the {all} training pictures"
            )));
        }
    }
    if judge.is_some() && fewest < most {
        notes.push(Note::Other(format!(
            "the sets have {fewest} to {most} images: all metrics but the copies depend on the \
             number, so their means mix unequal sets"
        )));
    }
    notes
}
