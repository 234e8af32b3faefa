//! What the black-box and golden tests share. The tests themselves are in `tests/`.

#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
struct Readme;

use std::collections::HashMap;
use std::path::PathBuf;

use candle_core::{DType, Device, Tensor};
use serde_json::Value;

/// The folder of golden numbers: `DIFFUSION_GOLDEN_DIR`, or the one in this package.
pub fn golden_dir() -> PathBuf {
    match std::env::var_os("DIFFUSION_GOLDEN_DIR") {
        Some(dir) => dir.into(),
        None => PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("golden"),
    }
}

/// A JSON file of the golden folder.
///
/// # Panics
/// A file that is not there or not JSON.
pub fn golden_json(name: &str) -> Value {
    let path = golden_dir().join(name);
    let text = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    serde_json::from_str(&text).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// The tensors of a safetensors file of the golden folder.
///
/// # Panics
/// A file that is not there or not safetensors.
pub fn golden_tensors(name: &str) -> HashMap<String, Tensor> {
    let path = golden_dir().join(name);
    candle_core::safetensors::load(&path, &Device::Cpu).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// All elements as f64.
///
/// # Panics
/// A tensor that is not numeric.
pub fn flat(tensor: &Tensor) -> Vec<f64> {
    let tensor = tensor.to_dtype(DType::F64).and_then(|t| t.flatten_all()).and_then(|t| t.to_vec1());
    tensor.expect("a numeric tensor becomes a list of f64")
}

/// A JSON array as f64.
///
/// # Panics
/// Anything else.
pub fn numbers(value: &Value) -> Vec<f64> {
    let array = value.as_array().unwrap_or_else(|| panic!("an array, not {value}"));
    array.iter().map(number).collect()
}

/// A JSON number as f64.
///
/// # Panics
/// Anything else.
pub fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or_else(|| panic!("a number, not {value}"))
}

/// A JSON array of objects.
///
/// # Panics
/// Anything else, or none: a test over no cases proves nothing.
pub fn cases(value: &Value) -> &[Value] {
    let cases = value.as_array().map(Vec::as_slice).unwrap_or_default();
    assert!(!cases.is_empty(), "no cases");
    cases
}

/// A JSON string.
///
/// # Panics
/// Anything else.
pub fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_else(|| panic!("a text, not {value}"))
}

/// The largest absolute difference.
///
/// # Panics
/// Lists of different lengths.
pub fn max_difference(a: &[f64], b: &[f64]) -> f64 {
    assert_eq!(a.len(), b.len(), "lists of different lengths");
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, |m, d| if d.is_nan() { f64::NAN } else { m.max(d) })
}

/// Fails unless all elements agree within `tolerance`, absolutely.
///
/// # Panics
/// When they do not.
pub fn assert_close(what: &str, found: &[f64], expected: &[f64], tolerance: f64) {
    let difference = max_difference(found, expected);
    assert!(difference <= tolerance, "{what}: differs by {difference:e}, allowed {tolerance:e}");
}
