//! Runs of an earlier version give the same samples and resume in the same way.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use candle_core::{Device, Tensor};

use crate::common::TestDir;

fn runs() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/earlier")
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

fn largest_difference(a: &Tensor, b: &Tensor) -> f32 {
    assert_eq!(a.dims(), b.dims());
    (a - b).unwrap().abs().unwrap().max_all().unwrap().to_scalar().unwrap()
}

/// Uses the portable kernels everywhere; only the system's mathematical library can differ.
fn portable(place: &TestDir, line: &str) {
    let output = place.command(line).env("DIFFUSION_KERNELS", "portable").output().unwrap();
    assert!(output.status.success(), "`{line}`: {}", String::from_utf8_lossy(&output.stderr));
}

fn weights(path: &Path) -> BTreeMap<String, Tensor> {
    candle_core::safetensors::load(path, &Device::Cpu).unwrap().into_iter().collect()
}

const TOLERANCE: f32 = 1e-5;

const KINDS: [&str; 8] =
    ["v-classes", "epsilon", "sample", "flow", "edm", "learned-variance", "simple", "imported"];

#[test]
fn earlier_runs_give_the_same_samples() {
    let place = TestDir::new();
    for kind in KINDS {
        let run = runs().join(kind);
        let line =
            format!("sample --run {} --num 2 --seed 3 --format npy --out {kind}", run.display());
        portable(&place, &line);
        let found = Tensor::read_npy(place.path(kind).join("samples.npy")).unwrap();
        let expected = Tensor::read_npy(run.join("expected-samples.npy")).unwrap();
        let difference = largest_difference(&found, &expected);
        assert!(difference < TOLERANCE, "{kind}: {difference}");
    }
}

#[test]
fn earlier_runs_resume_as_before() {
    let place = TestDir::new();
    for kind in KINDS.into_iter().filter(|kind| *kind != "imported") {
        copy(&runs().join(kind), &place.path(kind));
        // An archive does not keep an empty folder.
        fs::create_dir_all(place.path(kind).join("samples")).unwrap();
        portable(&place, &format!("train --run-dir {kind} --resume --steps 9"));
        let found = weights(&place.path(kind).join("checkpoints/step-0000009/ema.safetensors"));
        let expected = weights(&runs().join(kind).join("expected-ema.safetensors"));
        assert_eq!(found.keys().collect::<Vec<_>>(), expected.keys().collect::<Vec<_>>(), "{kind}");
        for (name, tensor) in &found {
            let difference = largest_difference(tensor, &expected[name]);
            assert!(difference < TOLERANCE, "{kind}, {name}: {difference}");
        }
    }
}
