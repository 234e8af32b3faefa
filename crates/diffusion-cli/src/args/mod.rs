//! Arguments that several commands share: model, classes, guidance, sampler, schedule, pictures,
//! and the reference for image metrics.

pub(crate) mod control;
pub(crate) mod data;
pub(crate) mod judging;
pub(crate) mod numbers;
pub(crate) mod runs;
pub(crate) mod sampling;
pub(crate) mod schedules;

use clap::builder::{PossibleValuesParser, TypedValueParser};

/// A parser of the names of `all`.
pub(crate) fn one_of<T: Copy + Send + Sync + 'static>(
    all: &'static [T],
    name: fn(T) -> &'static str,
) -> impl TypedValueParser<Value = T> {
    PossibleValuesParser::new(all.iter().map(|value| name(*value))).try_map(move |text| {
        all.iter().copied().find(|value| name(*value) == text).ok_or("unknown name")
    })
}
