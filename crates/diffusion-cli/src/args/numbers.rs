//! Parsers of numbers with a range.

use std::ops::{Bound, RangeBounds};

/// A whole number within `range`, as a parser of a flag.
pub(crate) fn whole<R>(range: R) -> impl Fn(&str) -> Result<u64, String> + Clone + Send + Sync
where
    R: RangeBounds<u64> + Clone + Send + Sync + 'static,
{
    move |text| {
        let low = match range.start_bound() {
            Bound::Included(low) => *low,
            Bound::Excluded(low) => low + 1,
            Bound::Unbounded => 0,
        };
        let expected = match range.end_bound() {
            Bound::Included(high) => format!("from {low} to {high}"),
            Bound::Excluded(high) if high.is_power_of_two() => {
                format!("from {low} to 2^{} - 1", high.trailing_zeros())
            }
            Bound::Excluded(high) => format!("from {low} to {}", high - 1),
            Bound::Unbounded => format!("of at least {low}"),
        };
        let number = text.parse().ok().filter(|number| range.contains(number));
        number.ok_or_else(|| format!("expected a whole number {expected}"))
    }
}

/// A finite number within `range`.
///
/// # Errors
/// `expected`, if `text` is not such a number.
fn number(text: &str, range: impl Fn(f64) -> bool, expected: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(number) if number.is_finite() && range(number) => Ok(number),
        _ => Err(expected.to_owned()),
    }
}

/// A number above 0.
pub(crate) fn positive(text: &str) -> Result<f64, String> {
    number(text, |x| x > 0.0, "expected a number above 0")
}

/// A number of at least 0.
pub(crate) fn at_least_0(text: &str) -> Result<f64, String> {
    number(text, |x| x >= 0.0, "expected a number of at least 0")
}

/// A number of at least 1.
pub(crate) fn at_least_1(text: &str) -> Result<f64, String> {
    number(text, |x| x >= 1.0, "expected a number of at least 1")
}

/// A number in \[0, 1\].
pub(crate) fn share(text: &str) -> Result<f64, String> {
    number(text, |x| (0.0..=1.0).contains(&x), "expected a number from 0 to 1")
}

/// A number in \[0, 1).
pub(crate) fn share_below_1(text: &str) -> Result<f64, String> {
    number(text, |x| (0.0..1.0).contains(&x), "expected a number of at least 0 and below 1")
}

/// A number in (0, 1\].
pub(crate) fn share_above_0(text: &str) -> Result<f64, String> {
    number(text, |x| x > 0.0 && x <= 1.0, "expected a number above 0 and at most 1")
}

/// A guidance scale, in \[−1000, 1000\].
pub(crate) fn scale(text: &str) -> Result<f64, String> {
    number(text, |x| x.abs() <= 1000.0, "expected a number from -1000 to 1000, for example 2")
}

/// An interval `A:B` with 0 ≤ A < B. Default of A: 0; of B: infinity.
pub(crate) fn interval(text: &str) -> Result<[f64; 2], String> {
    let error = || "expected two numbers A:B, the smaller first, for example 0.3:5".to_owned();
    let (low, high) = text.split_once(':').ok_or_else(error)?;
    let end = |text: &str, default| {
        if text.is_empty() { Ok(default) } else { text.parse::<f64>().map_err(|_| error()) }
    };
    let [low, high] = [end(low, 0.0)?, end(high, f64::INFINITY)?];
    if low >= 0.0 && low < high { Ok([low, high]) } else { Err(error()) }
}
