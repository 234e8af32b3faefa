//! Tests of Inception's features against pytorch-fid, with weights that both compute by one
//! formula.
//!
//! `xtask/src/golden/inception.py` wrote the numbers in `inception.json`, with torch 2.15.0 and
//! pytorch-fid 0.3.0. `cargo xtask golden --inception` replaces them by those of another seed.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

use candle_core::{Device, Tensor};
use diffusion_eval::{EvalError, Inception};
use serde::Deserialize;

#[derive(Deserialize)]
struct Golden {
    seed: u32,
    /// The names of convolutions and the shapes of their weights.
    convolutions: Vec<(String, [usize; 4])>,
    batches: Vec<Batch>,
}

#[derive(Deserialize)]
struct Batch {
    shape: [usize; 4],
    /// Every 32nd feature of each image.
    features: Vec<Vec<f32>>,
    /// The mean of all features of each image.
    mean: Vec<f64>,
    /// The norm of all features of each image.
    norm: Vec<f64>,
}

fn golden() -> Golden {
    let ours = || Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/inception.json");
    let file = std::env::var_os("DIFFUSION_GOLDEN_INCEPTION").map_or_else(ours, PathBuf::from);
    serde_json::from_slice(&fs::read(file).unwrap()).unwrap()
}

fn mixed(mut x: u32) -> u32 {
    x ^= x >> 16;
    x = x.wrapping_mul(0x7feb_352d);
    x ^= x >> 15;
    x = x.wrapping_mul(0x846c_a68b);
    x ^ (x >> 16)
}

impl Golden {
    /// The random bits of a stream, 32 for each number.
    fn bits(&self, stream: usize) -> impl Iterator<Item = u32> + use<> {
        let key = mixed(self.seed.wrapping_add(mixed(stream as u32)));
        (0..).map(move |i| mixed(mixed(i).wrapping_add(key)))
    }

    fn uniform(&self, stream: usize, shape: &[usize], lowest: f32, span: f32) -> Tensor {
        let unit = self.bits(stream).map(|bits| (bits >> 8) as f32 * 0.5f32.powi(24));
        let values = unit.map(|unit| lowest + unit * span).take(shape.iter().product());
        Tensor::from_vec(values.collect(), shape, &Device::Cpu).unwrap()
    }

    fn weights(&self) -> HashMap<String, Tensor> {
        let mut tensors = HashMap::new();
        for (i, (name, shape)) in self.convolutions.iter().enumerate() {
            let span = (24.0 / shape[1..].iter().product::<usize>() as f64).sqrt() as f32;
            let parts = [
                ("conv.weight", -span / 2.0, span),
                ("bn.weight", 0.75, 0.5),
                ("bn.bias", -0.5, 1.0),
                ("bn.running_mean", -0.25, 0.5),
                ("bn.running_var", 0.5, 1.0),
            ];
            for (k, (part, lowest, span)) in parts.into_iter().enumerate() {
                let shape = if k == 0 { &shape[..] } else { &shape[..1] };
                tensors
                    .insert(format!("{name}.{part}"), self.uniform(5 * i + k, shape, lowest, span));
            }
            // The real file has this tensor too.
            let count = Tensor::new(7i64, &Device::Cpu).unwrap();
            tensors.insert(format!("{name}.bn.num_batches_tracked"), count);
        }
        tensors.insert("fc.bias".to_owned(), Tensor::new(&[f32::NAN; 1008], &Device::Cpu).unwrap());
        tensors
    }

    /// Image number `index`, (C, H, W) in [−1, 1].
    fn picture(&self, index: usize, [c, h, w]: [usize; 3]) -> Tensor {
        let byte = |(i, bits): (usize, u32)| {
            let (x, y, c) = (i % w, i / w % h, i / (w * h));
            (bits >> 25) as f32 + ((5 * x + (3 + index) * y + 40 * c) % 128) as f32
        };
        let bytes = self.bits(1_000_000 + index).enumerate().map(byte).take(c * h * w);
        let values = bytes.map(|byte| byte / 127.5 - 1.0).collect();
        Tensor::from_vec(values, (c, h, w), &Device::Cpu).unwrap()
    }
}

fn norm(values: impl Iterator<Item = f64>) -> f64 {
    values.map(|x| x * x).sum::<f64>().sqrt()
}

#[test]
fn features_equal_those_of_pytorch_fid() {
    let golden = golden();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("inception.safetensors");
    candle_core::safetensors::save(&golden.weights(), &file).unwrap();
    let inception = Inception::open(&file, &Device::Cpu).unwrap();
    let mut pictures = 0..;
    for batch in &golden.batches {
        let [n, c, h, w] = batch.shape;
        let images: Vec<_> =
            pictures.by_ref().take(n).map(|i| golden.picture(i, [c, h, w])).collect();
        let features = inception.features(&Tensor::stack(&images, 0).unwrap()).unwrap();
        assert_eq!(features.dims(), [n, Inception::WIDTH]);
        for (i, features) in features.to_vec2::<f32>().unwrap().into_iter().enumerate() {
            let size = norm(features.iter().map(|x| f64::from(*x)));
            let mean = features.iter().map(|x| f64::from(*x)).sum::<f64>() / features.len() as f64;
            let shown = features.iter().step_by(32).zip(&batch.features[i]);
            let worst =
                shown.map(|(ours, theirs)| f64::from((ours - theirs).abs())).fold(0.0, f64::max);
            let rms = batch.norm[i] / (Inception::WIDTH as f64).sqrt();
            println!(
                "{:?}: {:.1e} of the root mean square, norm {:.1e}, mean {:.1e}",
                batch.shape,
                worst / rms,
                size / batch.norm[i] - 1.0,
                mean / batch.mean[i] - 1.0
            );
            // Measured: 1.4e-6 for features, 1.3e-7 for norm and mean.
            assert!(worst < 1e-5 * rms, "{:?}, image {i}: {worst} of {rms}", batch.shape);
            assert!(
                (size / batch.norm[i] - 1.0).abs() < 1e-6,
                "norm {size}, not {}",
                batch.norm[i]
            );
            assert!(
                (mean / batch.mean[i] - 1.0).abs() < 1e-6,
                "mean {mean}, not {}",
                batch.mean[i]
            );
        }
    }
}

#[test]
fn errors_of_a_file_are_explained() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("weights.pth");
    let open = || Inception::open(&file, &Device::Cpu).unwrap_err().to_string();
    let hint = "pt_inception-2015-12-05-6726825d.pth, saved as safetensors";
    let error = open();
    assert!(error.contains("weights.pth is not a file of Inception's weights"), "{error}");
    assert!(error.contains("(os error") && error.contains(hint), "{error}");
    fs::write(&file, b"PK\x03\x04 and the rest of a pickle in a zip").unwrap();
    let error = open();
    assert!(error.contains("weights.pth") && error.contains(hint), "{error}");
    let first = "Conv2d_1a_3x3.conv.weight";
    let save = |shape: [usize; 4]| {
        let weight = Tensor::ones(&shape, candle_core::DType::F32, &Device::Cpu).unwrap();
        candle_core::safetensors::save(&HashMap::from([(first, weight)]), &file).unwrap();
    };
    save([32, 3, 5, 3]);
    let error = open();
    assert!(
        error.contains("Conv2d_1a_3x3.conv.weight has the shape [32, 3, 5, 3], not [32, 3, 3, 3]")
    );
    save([32, 3, 3, 3]);
    let error = open();
    assert!(
        error.contains("there is no tensor Conv2d_1a_3x3.bn.weight") && error.contains(hint),
        "{error}"
    );
}

#[test]
fn weights_that_are_not_finite_are_errors() {
    let ones =
        |shape: &[usize]| Tensor::ones(shape, candle_core::DType::F32, &Device::Cpu).unwrap();
    let mut tensors =
        HashMap::from([("Conv2d_1a_3x3.conv.weight".to_owned(), ones(&[32, 3, 3, 3]))]);
    for part in ["weight", "bias", "running_mean", "running_var"] {
        tensors.insert(format!("Conv2d_1a_3x3.bn.{part}"), ones(&[32]));
    }
    let error = |tensors: &_| Inception::new(tensors, &Device::Cpu).unwrap_err();
    assert!(
        matches!(error(&tensors), EvalError::MissingTensor(name) if name == "Conv2d_2a_3x3.conv.weight")
    );
    tensors.insert("Conv2d_1a_3x3.bn.running_var".to_owned(), ones(&[32]).neg().unwrap());
    assert!(matches!(error(&tensors), EvalError::Convolution(name) if name == "Conv2d_1a_3x3"));
}
