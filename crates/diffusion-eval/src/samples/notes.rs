//! What a reader of metrics has to know.

use std::fmt;

use super::FeatureJudge;
use super::training::{CHECKED, KnownImages};
use crate::Reference;

/// A remark about metrics; its text is one line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Note {
    /// There are fewer images than features.
    FewerThanFeatures {
        /// The fewest images of a set.
        images: usize,
        /// The features of an image.
        features: usize,
    },
    /// Training images are not shown beside the generated ones, as they are the reference.
    CircularReference,
    /// Training images are not shown beside the generated ones, as they are so few.
    TooFewTraining(usize),
    /// Fewer training images are shown than were generated.
    FewTraining(usize),
    /// Single images are compared in smaller numbers than there are.
    Compared {
        /// Generated images.
        images: usize,
        /// Reference images.
        references: usize,
    },
    /// Copies are looked for among some of the generated images.
    Checked(usize),
    /// Mirror images are copies too.
    Mirrored,
    /// Copies are looked for of some of the training images.
    SomeTraining {
        /// How many.
        known: usize,
        /// Of how many.
        all: usize,
    },
    /// Sets have different numbers of images.
    UnequalSets {
        /// The smallest number.
        fewest: usize,
        /// The largest.
        most: usize,
    },
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::FewerThanFeatures { images, features } => write!(
                f,
                "{images} images are fewer than the {features} features that are compared: the distance says little"
            ),
            Self::CircularReference => {
                f.write_str("no column of training pictures: they are what the images are compared with")
            }
            Self::TooFewTraining(few) => {
                write!(f, "no column of training pictures: there are {few}, too few to be judged")
            }
            Self::FewTraining(few) => {
                write!(f, "the training pictures are {few} only, and the figures depend on the number")
            }
            Self::Compared { images, references } => write!(
                f,
                "precision, recall, density and coverage compare {images} images with {references} real ones"
            ),
            Self::Checked(count) => write!(f, "copies are looked for among {count} of the images"),
            Self::Mirrored => {
                f.write_str("mirror images of training pictures are copies too, as the run trained on them")
            }
            Self::SomeTraining { known, all } => {
                write!(f, "copies are looked for of {known} of the {all} training pictures")
            }
            Self::UnequalSets { fewest, most } => write!(
                f,
                "the sets have {fewest} to {most} images, and all figures but the copies depend on the number: their \
                 means are of unequal things"
            ),
        }
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
            notes.push(Note::FewerThanFeatures { images: fewest, features });
        }
        match training.map(KnownImages::count) {
            Some(_) if judge.circular => notes.push(Note::CircularReference),
            Some(few @ ..Reference::SMALLEST) if few < most => notes.push(Note::TooFewTraining(few)),
            Some(few) if few < most => notes.push(Note::FewTraining(few)),
            _ => {}
        }
        let references = judge.reference.compared();
        if most > Reference::COMPARED || references == Reference::COMPARED {
            notes.push(Note::Compared { images: most.min(Reference::COMPARED), references });
        }
    }
    if let Some(training) = training {
        if most > CHECKED {
            notes.push(Note::Checked(CHECKED));
        }
        if training.mirrored() {
            notes.push(Note::Mirrored);
        }
        let (known, all) = (training.count(), training.all);
        if known < all {
            notes.push(Note::SomeTraining { known, all });
        }
    }
    notes
}
