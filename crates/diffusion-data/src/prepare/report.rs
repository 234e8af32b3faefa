//! What was found in a source, good and bad.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

/// What a source holds.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// Width, height and the number of usable pictures that have them.
    pub sizes: Vec<(usize, usize, usize)>,
    /// What the files held before, such as `RGB, 16 bits`, and how often.
    pub forms: BTreeMap<String, usize>,
    /// The pictures that were left out.
    pub damaged: Vec<Damaged>,
}

/// A picture that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Damaged {
    /// Its name in the source.
    pub name: String,
    /// What is wrong with it.
    pub reason: String,
}

impl fmt::Display for Damaged {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.name, self.reason)
    }
}
