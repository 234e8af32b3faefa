//! Errors and edge cases of the simple interface.

use std::ops::ControlFlow;
use std::path::Path;

use diffusion::model::{ClassChoice, Generation, LoadedModel, Weights};
use diffusion::sample::Guidance;
use diffusion::{Device, Model};

const DIGITS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../assets/digits.safetensors");

#[test]
fn no_images_are_an_empty_tensor() {
    let model = Model::open(DIGITS).unwrap();
    assert_eq!(model.images(0).steps(2).tensor().unwrap().dims(), [0, 1, 28, 28]);
    assert!(model.images(0).steps(2).pictures().unwrap().is_empty());
}

#[test]
fn errors_name_the_problem() {
    let missing = Model::open("runs/nowhere").err().unwrap().to_string();
    assert_eq!(missing, "runs/nowhere: there is no such file or folder");
    let model = Model::open(DIGITS).unwrap();
    let error = model.images(1).class("eleven").tensor().unwrap_err().to_string();
    assert!(error.contains("unknown class `eleven`"), "{error}");
    let steps = model.images(1).steps(0).tensor().unwrap_err().to_string();
    assert!(steps.contains("0 inference steps"), "{steps}");
}

#[test]
fn guidance_needs_a_model_with_classes() {
    let mut model = LoadedModel::open(Path::new(DIGITS), Weights::Ema, &Device::Cpu).unwrap();
    model.description.classes.clear();
    let generate = |guidance: Option<f64>, classes| {
        let guidance = guidance.map(Guidance::new);
        let generation = Generation { guidance, steps: Some(1), classes, ..Generation::new(1) };
        model.generate(&generation, &mut |_| ControlFlow::Continue(()))
    };
    let error = generate(Some(5.0), ClassChoice::AsTrained).unwrap_err().to_string();
    assert!(error.contains("without classes"), "{error}");
    for guidance in [None, Some(1.0)] {
        assert_eq!(
            generate(guidance, ClassChoice::Listed(Vec::new())).unwrap().dims(),
            [1, 1, 28, 28]
        );
    }
}
