//! Numbers on the command line, each within its range.

/// A finite number within `range`, or else what is `expected`.
fn number(text: &str, range: impl Fn(f64) -> bool, expected: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(number) if number.is_finite() && range(number) => Ok(number),
        _ => Err(expected.to_owned()),
    }
}

/// Above 0.
pub(crate) fn positive(text: &str) -> Result<f64, String> {
    number(text, |x| x > 0.0, "expected a number above 0")
}

/// At least 0.
pub(crate) fn at_least_0(text: &str) -> Result<f64, String> {
    number(text, |x| x >= 0.0, "a number of 0 or more is wanted")
}

/// At least 1.
pub(crate) fn at_least_1(text: &str) -> Result<f64, String> {
    number(text, |x| x >= 1.0, "a number of 1 or more is wanted")
}

/// From 0 to 1, both included.
pub(crate) fn share(text: &str) -> Result<f64, String> {
    number(text, |x| (0.0..=1.0).contains(&x), "a number from 0 to 1 is wanted")
}

/// From 0 to 1 without 1.
pub(crate) fn share_below_1(text: &str) -> Result<f64, String> {
    number(text, |x| (0.0..1.0).contains(&x), "a number from 0 to 1, and below 1, is wanted")
}

/// From 0 to 1 without 0.
pub(crate) fn share_above_0(text: &str) -> Result<f64, String> {
    number(text, |x| x > 0.0 && x <= 1.0, "a number above 0, and at most 1, is wanted")
}

/// A guidance scale: from −1000 to 1000.
pub(crate) fn scale(text: &str) -> Result<f64, String> {
    number(text, |x| x.abs() <= 1000.0, "a number from -1000 to 1000 is wanted, 2 say")
}

/// An interval A:B of numbers of at least 0, either of which may be left out.
pub(crate) fn interval(text: &str) -> Result<[f64; 2], String> {
    let wrong = || "two numbers are wanted, the smaller first, as 0.3:5".to_owned();
    let (low, high) = text.split_once(':').ok_or_else(wrong)?;
    let end = |text: &str, otherwise| {
        if text.is_empty() { Ok(otherwise) } else { text.parse::<f64>().map_err(|_| wrong()) }
    };
    let [low, high] = [end(low, 0.0)?, end(high, f64::INFINITY)?];
    if low >= 0.0 && low < high { Ok([low, high]) } else { Err(wrong()) }
}
