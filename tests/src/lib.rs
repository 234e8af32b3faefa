//! Helpers of the golden tests, which compare the crates with reference numbers of other libraries.
//! The tests themselves are in `tests/`.

#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
struct Readme;

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;

use candle_core::{DType, Device, Tensor};
use serde_json::Value;

/// The folder of the golden numbers: `DIFFUSION_GOLDEN_DIR`. Default: `golden` in this package.
pub fn golden_dir() -> PathBuf {
    match std::env::var_os("DIFFUSION_GOLDEN_DIR") {
        Some(dir) => dir.into(),
        None => PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("golden"),
    }
}

/// The device that the networks and optimisers of the golden tests compute on:
/// `DIFFUSION_GOLDEN_DEVICE`, which may be `cuda` in a build with that feature. Default: the CPU.
///
/// # Panics
/// If the device is unknown or cannot be opened.
pub fn device() -> Device {
    match std::env::var("DIFFUSION_GOLDEN_DEVICE").as_deref() {
        Ok("cuda") => Device::new_cuda(0).expect("cannot open the first CUDA device"),
        Ok("cpu") | Err(_) => Device::Cpu,
        Ok(other) => panic!("DIFFUSION_GOLDEN_DEVICE is `{other}`; expected cpu or cuda"),
    }
}

/// A JSON file of the golden folder.
///
/// # Panics
/// If the file does not exist or is not JSON.
pub fn golden_json(name: &str) -> Value {
    let path = golden_dir().join(name);
    let text = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    serde_json::from_str(&text).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// The tensors of a safetensors file of the golden folder, on [`device`].
///
/// # Panics
/// If the file does not exist or is not safetensors.
pub fn golden_tensors(name: &str) -> HashMap<String, Tensor> {
    let path = golden_dir().join(name);
    candle_core::safetensors::load(&path, &device())
        .unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// All elements as f64.
///
/// # Panics
/// If the tensor is not numeric.
pub fn flat(tensor: &Tensor) -> Vec<f64> {
    let tensor =
        tensor.to_dtype(DType::F64).and_then(|t| t.flatten_all()).and_then(|t| t.to_vec1());
    tensor.expect("expected a numeric tensor")
}

/// A JSON array as f64.
///
/// # Panics
/// If the value is not an array of numbers.
pub fn numbers(value: &Value) -> Vec<f64> {
    let array = value.as_array().unwrap_or_else(|| panic!("expected an array, got {value}"));
    array.iter().map(number).collect()
}

/// A JSON number as f64.
///
/// # Panics
/// If the value is not a number.
pub fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or_else(|| panic!("expected a number, got {value}"))
}

/// The cases of a golden test, a JSON array.
///
/// # Panics
/// If the value is not an array, or is empty.
pub fn cases(value: &Value) -> &[Value] {
    let cases = value.as_array().map(Vec::as_slice).unwrap_or_default();
    assert!(!cases.is_empty(), "no cases");
    cases
}

/// A JSON string.
///
/// # Panics
/// If the value is not a string.
pub fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_else(|| panic!("expected a string, got {value}"))
}

/// The largest absolute difference; NaN if any difference is NaN.
///
/// # Panics
/// If the lists have different lengths.
pub fn max_difference(a: &[f64], b: &[f64]) -> f64 {
    assert_eq!(a.len(), b.len(), "lists of different lengths");
    a.iter()
        .zip(b)
        .map(|(a, b)| (a - b).abs())
        .fold(0.0, |m, d| if d.is_nan() { f64::NAN } else { m.max(d) })
}

/// Asserts that all elements agree within the absolute `tolerance`.
///
/// # Panics
/// If they do not.
pub fn assert_close(what: &str, found: &[f64], expected: &[f64], tolerance: f64) {
    let difference = max_difference(found, expected);
    assert!(difference <= tolerance, "{what}: differs by {difference:e}, allowed {tolerance:e}");
}

/// The number of compared cases of a golden test, and its unsupported cases.
#[derive(Debug, Default)]
pub struct Coverage {
    compared: usize,
    unsupported: BTreeMap<String, String>,
}

impl Coverage {
    /// Counts the case `id`: compared if `Ok`, otherwise unsupported for the given reason.
    pub fn count(&mut self, id: String, outcome: Result<(), String>) {
        match outcome {
            Ok(()) => self.compared += 1,
            Err(reason) => {
                self.unsupported.insert(id, reason);
            }
        }
    }

    /// Prints the counts and the unsupported cases, and checks them.
    ///
    /// In the golden folder of this package, exactly the cases `expected` must be unsupported. A
    /// folder of `DIFFUSION_GOLDEN_DIR` may have others.
    ///
    /// # Panics
    /// If no case was compared, or other cases than `expected` are unsupported.
    pub fn finish(&self, what: &str, expected: &[&str]) {
        println!("{what}: {} compared, {} unsupported", self.compared, self.unsupported.len());
        for (id, reason) in &self.unsupported {
            println!("unsupported: {id}: {reason}");
        }
        assert!(self.compared > 0, "{what}: no case was compared");
        if std::env::var_os("DIFFUSION_GOLDEN_DIR").is_none() {
            self.assert_unsupported(what, expected);
        }
    }

    fn assert_unsupported(&self, what: &str, expected: &[&str]) {
        let found: Vec<&str> = self.unsupported.keys().map(String::as_str).collect();
        assert_eq!(
            found, expected,
            "{what}: the unsupported cases have changed: {:?}",
            self.unsupported
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn coverage() -> Coverage {
        let mut coverage = Coverage::default();
        coverage.count("first".to_owned(), Ok(()));
        coverage.count("second".to_owned(), Err("unknown class".to_owned()));
        coverage
    }

    #[test]
    fn an_unsupported_case_is_not_counted_as_compared() {
        let coverage = coverage();
        assert_eq!((coverage.compared, coverage.unsupported.len()), (1, 1));
        coverage.assert_unsupported("cases", &["second"]);
    }

    #[test]
    #[should_panic(expected = "the unsupported cases have changed")]
    fn an_unexpected_unsupported_case_fails() {
        coverage().assert_unsupported("cases", &[]);
    }

    #[test]
    #[should_panic(expected = "the unsupported cases have changed")]
    fn a_case_that_became_supported_must_leave_the_list() {
        coverage().assert_unsupported("cases", &["other", "second"]);
    }

    #[test]
    #[should_panic(expected = "no case was compared")]
    fn comparing_nothing_fails() {
        Coverage::default().finish("cases", &[]);
    }
}
