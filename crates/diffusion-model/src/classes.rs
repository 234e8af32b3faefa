//! The classes of a model.

use diffusion_random::{Domain, NoiseSource};
use rand::RngExt;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::ImageSpec;

/// A class as a checkpoint remembers it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelClass {
    /// Its name.
    pub name: String,
    /// Pictures of it in the training; 0 for all classes where nobody knows.
    pub pictures: u64,
}

impl ModelClass {
    /// Classes of a model of which only their number is known.
    pub fn numbered(count: usize) -> Vec<Self> {
        (0..count).map(|number| Self { name: number.to_string(), pictures: 0 }).collect()
    }
}

/// Why there is no such class.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ClassError {
    /// The model has none at all.
    #[error("the model was trained without classes and makes what it likes")]
    NoClasses,
    /// None of that name or number.
    #[error("there is no class `{name}` among the {count} there are; {which} {names}", names = .names.join(", "))]
    Unknown {
        /// The name asked for.
        name: String,
        /// Classes that there are.
        count: usize,
        /// How the names follow: all of them, or the nearest.
        which: &'static str,
        /// The names, in backquotes.
        names: Vec<String>,
    },
}

/// The class that `name` means: one of that name, or of that number.
///
/// # Errors
/// No such class, with the nearest names.
pub fn find_class(classes: &[ModelClass], name: &str) -> Result<u32, ClassError> {
    if classes.is_empty() {
        return Err(ClassError::NoClasses);
    }
    let named = classes.iter().position(|class| class.name == name);
    let numbered = || name.parse().ok().filter(|number: &usize| *number < classes.len());
    if let Some(class) = named.or_else(numbered) {
        return Ok(class as u32);
    }
    let likeness =
        |class: &ModelClass| strsim::jaro_winkler(&name.to_lowercase(), &class.name.to_lowercase());
    let mut nearest: Vec<&ModelClass> = classes.iter().collect();
    if classes.len() > NAMED {
        nearest.sort_by(|a, b| likeness(b).total_cmp(&likeness(a)));
    }
    Err(ClassError::Unknown {
        name: name.to_owned(),
        count: classes.len(),
        which: if classes.len() <= NAMED { "they are" } else { "the nearest names are" },
        names: nearest.iter().take(NAMED).map(|class| format!("`{}`", class.name)).collect(),
    })
}

/// Classes that an error names.
const NAMED: usize = 10;

/// Which class each generated image is of.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum ClassChoice {
    /// One drawn at random, as often as it came in training: what a model without classes does unasked.
    #[default]
    AsTrained,
    /// None in particular.
    Unconditional,
    /// Image i is of class `list[i mod length]`; an empty list is `Unconditional`.
    Listed(Vec<u32>),
}

impl ClassChoice {
    /// The classes of the images with the given indices, by a model that knows `classes`.
    pub fn classes(&self, seed: u64, indices: &[u64], classes: &[ModelClass]) -> Vec<Option<u32>> {
        let indices = indices.iter().copied();
        match self {
            Self::Listed(list) if !list.is_empty() => {
                indices.map(|i| list.get(i as usize % list.len()).copied()).collect()
            }
            Self::AsTrained if !classes.is_empty() => {
                let source = NoiseSource::new(seed);
                indices
                    .map(|i| Some(drawn(classes, source.rng(Domain::Class, 0, i).random())))
                    .collect()
            }
            Self::AsTrained | Self::Unconditional | Self::Listed(_) => {
                indices.map(|_| None).collect()
            }
        }
    }

    /// The images with the given indices, of these classes.
    pub fn specs(
        &self,
        seed: u64,
        indices: impl IntoIterator<Item = u64>,
        classes: &[ModelClass],
    ) -> Vec<ImageSpec> {
        let indices: Vec<u64> = indices.into_iter().collect();
        let classes = self.classes(seed, &indices, classes);
        indices.into_iter().zip(classes).map(|(index, class)| ImageSpec { index, class }).collect()
    }
}

/// The class below which the share `share`, in [0, 1), of the pictures lies.
fn drawn(classes: &[ModelClass], share: f64) -> u32 {
    let known = classes.iter().any(|class| class.pictures > 0);
    let weight = |class: &ModelClass| if known { class.pictures } else { 1 };
    let total: u64 = classes.iter().map(weight).sum();
    let mut left = (share * total as f64) as u64;
    let place = classes.iter().position(|class| {
        let weight = weight(class);
        let here = left < weight;
        left = left.saturating_sub(weight);
        here
    });
    place.unwrap_or(0) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    fn class(pictures: u64) -> ModelClass {
        ModelClass { name: pictures.to_string(), pictures }
    }

    #[test]
    fn classes_come_as_often_as_in_training() {
        let classes = [class(1), class(0), class(3)];
        assert_eq!([0.0, 0.24, 0.26, 0.99].map(|share| drawn(&classes, share)), [0, 0, 2, 2]);
        let unknown = [class(0), class(0)];
        assert_eq!([0.0, 0.49, 0.5].map(|share| drawn(&unknown, share)), [0, 0, 1]);

        let indices: Vec<u64> = (0..4000).collect();
        let choice = ClassChoice::AsTrained.classes(3, &indices, &classes);
        let third = choice.iter().filter(|class| **class == Some(2)).count();
        assert!((2900..3100).contains(&third), "{third}");
        assert_eq!(
            ClassChoice::AsTrained.classes(3, &indices[1000..1010], &classes),
            choice[1000..1010]
        );
    }
}
