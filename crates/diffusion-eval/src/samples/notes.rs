//! What a reader of metrics has to know.

use std::fmt;

use super::FeatureJudge;
use super::training::{CHECKED, KnownImages};
use crate::Reference;

/// A remark about metrics. As text, it is one line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Note {
    /// Training images are not shown beside the generated ones, as they are the reference: held-out images
    /// would change that.
    Circular,
    /// Any other.
    Other(String),
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Circular => {
                "no column of training pictures: they are what the images are compared with"
            }
            Self::Other(text) => text,
        })
    }
}

/// The notes about sets of `fewest` to `most` images.
pub(super) fn notes(
    judge: Option<&FeatureJudge>,
    training: Option<&KnownImages>,
    fewest: usize,
    most: usize,
) -> Vec<Note> {
    let mut notes = Vec::new();
    if let Some(judge) = judge {
        let features = judge.reference.features();
        if fewest < features {
            notes.push(Note::Other(format!(
                "{fewest} images are fewer than the {features} features that are compared: the distance says little"
            )));
        }
        match training.map(KnownImages::count) {
            Some(_) if judge.circular => notes.push(Note::Circular),
            Some(few) if few < Reference::SMALLEST.min(most) => notes.push(Note::Other(format!(
                "no column of training pictures: there are {few}, too few to be judged"
            ))),
            Some(few) if few < most => notes.push(Note::Other(format!(
                "the training pictures are {few} only, and the figures depend on the number"
            ))),
            _ => {}
        }
        let real = judge.reference.compared();
        if most > Reference::COMPARED || real == Reference::COMPARED {
            let compared = most.min(Reference::COMPARED);
            notes.push(Note::Other(format!(
                "precision, recall, density and coverage compare {compared} images with {real} real ones"
            )));
        }
    }
    if let Some(training) = training {
        if most > CHECKED {
            notes.push(Note::Other(format!("copies are looked for among {CHECKED} of the images")));
        }
        if training.mirrored() {
            let text =
                "mirror images of training pictures are copies too, as the run trained on them";
            notes.push(Note::Other(text.to_owned()));
        }
        let (known, all) = (training.count(), training.all);
        if known < all {
            notes.push(Note::Other(format!(
                "copies are looked for of {known} of the {all} training pictures"
            )));
        }
    }
    if judge.is_some() && fewest < most {
        notes.push(Note::Other(format!(
            "the sets have {fewest} to {most} images, and all figures but the copies depend on the number: their means are \
             of unequal things"
        )));
    }
    notes
}
