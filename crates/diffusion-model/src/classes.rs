//! The classes of a model.

use diffusion_random::{Domain, NoiseSource};
use rand::RngExt;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::ImageSpec;

/// A class as stored in a checkpoint.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelClass {
    /// The name of the class.
    pub name: String,
    /// The number of training pictures of the class. 0 for all classes if unknown.
    pub pictures: u64,
}

impl ModelClass {
    /// `count` classes named by their numbers, with unknown numbers of pictures.
    pub fn numbered(count: usize) -> Vec<Self> {
        (0..count).map(|number| Self { name: number.to_string(), pictures: 0 }).collect()
    }
}

/// Why a class was not found.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ClassError {
    /// The model has no classes.
    #[error("the model was trained without classes, so no class can be chosen")]
    NoClasses,
    /// No class has that name or number.
    #[error(
        "unknown class `{name}` among {count} classes; {which}: {names}",
        names = .names.join(", ")
    )]
    Unknown {
        /// The name that was looked for.
        name: String,
        /// The number of classes.
        count: usize,
        /// What `names` lists: all known names, or the nearest ones.
        which: &'static str,
        /// The names, in backquotes.
        names: Vec<String>,
    },
}

/// The index of the class with the given name, or else with the given number.
///
/// If all classes are named by numbers, a number is a name and is compared by its value: `2` is the
/// class `2` or `2.0`, never the third class.
///
/// # Errors
/// If the model has no classes, or if no class has that name or number. The error lists the nearest
/// names.
pub fn find_class(classes: &[ModelClass], name: &str) -> Result<u32, ClassError> {
    if classes.is_empty() {
        return Err(ClassError::NoClasses);
    }
    let by_name = classes.iter().position(|class| class.name == name);
    let value = |name: &str| name.trim().parse().ok().filter(|value: &f64| value.is_finite());
    let values: Option<Vec<f64>> = classes.iter().map(|class| value(&class.name)).collect();
    let by_number = || match values {
        Some(values) => values.iter().position(|other| Some(*other) == value(name)),
        None => name.parse().ok().filter(|number: &usize| *number < classes.len()),
    };
    if let Some(class) = by_name.or_else(by_number) {
        return Ok(class as u32);
    }
    let likeness =
        |class: &ModelClass| strsim::jaro_winkler(&name.to_lowercase(), &class.name.to_lowercase());
    let mut nearest: Vec<&ModelClass> = classes.iter().collect();
    if classes.len() > MAX_NAMES {
        nearest.sort_by(|a, b| likeness(b).total_cmp(&likeness(a)));
    }
    Err(ClassError::Unknown {
        name: name.to_owned(),
        count: classes.len(),
        which: if classes.len() <= MAX_NAMES { "known" } else { "nearest names" },
        names: nearest.iter().take(MAX_NAMES).map(|class| format!("`{}`", class.name)).collect(),
    })
}

/// The largest number of names in an error.
const MAX_NAMES: usize = 10;

/// How the classes of generated images are chosen.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum ClassChoice {
    /// Draw each class with its frequency in the training set; without classes, unconditional. This
    /// is the default.
    #[default]
    AsTrained,
    /// No class.
    Unconditional,
    /// Image i has class `list[i mod length]`. An empty list means `Unconditional`.
    Listed(Vec<u32>),
}

impl ClassChoice {
    /// The classes of the images with the given indices. `classes` are the classes of the model.
    pub fn classes(&self, seed: u64, indices: &[u64], classes: &[ModelClass]) -> Vec<Option<u32>> {
        let indices = indices.iter().copied();
        match self {
            Self::Listed(list) if !list.is_empty() => {
                indices.map(|i| list.get(i as usize % list.len()).copied()).collect()
            }
            Self::AsTrained if !classes.is_empty() => {
                let source = NoiseSource::new(seed);
                indices
                    .map(|i| Some(class_at(classes, source.rng(Domain::Class, 0, i).random())))
                    .collect()
            }
            Self::AsTrained | Self::Unconditional | Self::Listed(_) => {
                indices.map(|_| None).collect()
            }
        }
    }

    /// The images with the given indices, with their classes.
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

/// The class at the quantile `share`, in [0, 1), of the training pictures.
fn class_at(classes: &[ModelClass], share: f64) -> u32 {
    let counted = classes.iter().any(|class| class.pictures > 0);
    let weight = |class: &ModelClass| if counted { class.pictures } else { 1 };
    let total: u64 = classes.iter().map(weight).sum();
    let mut left = (share * total as f64) as u64;
    let index = classes.iter().position(|class| {
        let weight = weight(class);
        let found = left < weight;
        left = left.saturating_sub(weight);
        found
    });
    index.unwrap_or(0) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    fn class(pictures: u64) -> ModelClass {
        ModelClass { name: pictures.to_string(), pictures }
    }

    #[test]
    fn a_number_is_a_name_where_all_names_are_numbers() {
        let classes = |names: &[&str]| -> Vec<ModelClass> {
            names.iter().map(|name| ModelClass { name: (*name).to_owned(), pictures: 1 }).collect()
        };
        let numbers = classes(&["1", "2", "10.0"]);
        for (name, class) in [("1", 0), ("2.0", 1), ("10", 2)] {
            assert_eq!(find_class(&numbers, name), Ok(class));
        }
        let error = find_class(&numbers, "0").unwrap_err().to_string();
        assert_eq!(error, "unknown class `0` among 3 classes; known: `1`, `2`, `10.0`");
        assert_eq!(find_class(&classes(&["-1", "1"]), "-1"), Ok(0));
        // With other names, a number is the place in the list.
        let mixed = classes(&["cat", "dog", "3"]);
        assert_eq!([find_class(&mixed, "0"), find_class(&mixed, "3")], [Ok(0), Ok(2)]);
    }

    #[test]
    fn classes_are_drawn_with_their_training_frequencies() {
        let classes = [class(1), class(0), class(3)];
        assert_eq!([0.0, 0.24, 0.26, 0.99].map(|share| class_at(&classes, share)), [0, 0, 2, 2]);
        let unknown = [class(0), class(0)];
        assert_eq!([0.0, 0.49, 0.5].map(|share| class_at(&unknown, share)), [0, 0, 1]);

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
