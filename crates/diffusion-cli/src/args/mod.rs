//! Arguments that several commands share, and what they mean: which model, classes, guidance, sampler and schedule, which
//! pictures, and what images are judged by.

pub(crate) mod control;
pub(crate) mod data;
pub(crate) mod judging;
pub(crate) mod numbers;
pub(crate) mod runs;
pub(crate) mod sampling;
pub(crate) mod schedules;

use clap::builder::{PossibleValuesParser, TypedValueParser};

/// A parser for one of `all`, each by its name.
pub(crate) fn one_of<T: Copy + Send + Sync + 'static>(
    all: &'static [T],
    name: fn(T) -> &'static str,
) -> impl TypedValueParser<Value = T> {
    PossibleValuesParser::new(all.iter().map(|value| name(*value))).try_map(move |text| {
        all.iter().copied().find(|value| name(*value) == text).ok_or("not a known name")
    })
}
