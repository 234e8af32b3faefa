//! Training a classifier of noisy images.

use std::ops::ControlFlow;

use candle_core::{Device, Tensor};
use diffusion_data::ImageDataset;
use diffusion_model::LoadedClassifier;
use diffusion_process::{Classifier, Domain, NoiseLevel, NoiseSource, log_likelihood};
use diffusion_train::{ClassifierConfig, classifier_accuracy, train_classifier};

/// Pictures of three classes: dark, with horizontal stripes, and with vertical stripes.
fn pictures(count: usize) -> ImageDataset {
    pictures_from(0, count)
}

/// `count` pictures, starting with number `first`.
fn pictures_from(first: usize, count: usize) -> ImageDataset {
    let value = |picture: usize, pixel: usize| {
        let wave = ((picture * 7 + pixel * 3) % 20) as u8;
        let light = match picture % 3 {
            0 => false,
            1 => (pixel / 12).is_multiple_of(4),
            _ => (pixel % 12).is_multiple_of(4),
        };
        if light { 215 + wave } else { 20 + wave }
    };
    let pixels = (first..first + count)
        .flat_map(|picture| (0..144).map(move |pixel| value(picture, pixel)))
        .collect();
    let labels = (first..first + count).map(|picture| (picture % 3) as u8).collect();
    ImageDataset::new(pixels, Some(labels), [1, 12, 12]).unwrap()
}

fn config(steps: u64) -> ClassifierConfig {
    ClassifierConfig {
        base_channels: 16,
        batch_size: 16,
        steps: Some(steps),
        max_minutes: None,
        ..ClassifierConfig::default()
    }
}

fn trained(steps: u64) -> LoadedClassifier {
    let proceed = &mut |_: &_| ControlFlow::Continue(());
    train_classifier(&config(steps), &pictures(60), &Device::Cpu, proceed).unwrap()
}

fn noise() -> Tensor {
    NoiseSource::new(3).normal(Domain::Initial, 0, 0..6, &[1, 12, 12], &Device::Cpu).unwrap()
}

#[test]
fn accuracy_is_high_until_noise_hides_the_classes() {
    let classifier = trained(300);
    // Pictures that were not used in training.
    let others = pictures_from(61, 90);
    let accuracy = |sigma| classifier_accuracy(&classifier, &others, sigma, &Device::Cpu).unwrap();
    assert!(accuracy(0.0) > 0.99, "{}", accuracy(0.0));
    assert!(accuracy(0.5) > 0.9, "{}", accuracy(0.5));
    assert!(accuracy(100.0) < 0.7, "{}", accuracy(100.0));

    // On pure noise, no class gets a high probability.
    let logits = classifier.network.logits(&noise(), NoiseLevel::flow(0.0, 1.0)).unwrap();
    let probabilities =
        log_likelihood(&logits, &[Some(1); 6]).unwrap().exp().unwrap().to_vec1::<f32>().unwrap();
    assert!(probabilities.iter().all(|p| (0.1..0.7).contains(p)), "{probabilities:?}");
    // The output depends on the ratio of signal to noise, not on the scale of the images.
    let level = NoiseLevel::variance_exploding(0.0, 2.0);
    let of = |factor: f64| {
        classifier.network.logits(&(noise() * factor).unwrap(), level.scaled(factor)).unwrap()
    };
    let difference = (of(1.0) - of(0.1)).unwrap().abs().unwrap().max_all().unwrap();
    assert!(difference.to_scalar::<f32>().unwrap() < 1e-4, "{difference}");
}

#[test]
fn the_gradient_agrees_with_finite_differences() {
    let classifier = trained(30);
    let level = NoiseLevel::variance_preserving(0.0, 0.7);
    let classes = [Some(0), Some(1), Some(2), None, Some(0), Some(1)];
    let sum = |x: &Tensor| {
        let logits = classifier.network.logits(x, level).unwrap();
        log_likelihood(&logits, &classes).unwrap().sum_all().unwrap()
    };
    let gradient = classifier.network.gradient(&noise(), level, &classes).unwrap();
    let direction =
        NoiseSource::new(4).normal(Domain::Initial, 0, 0..6, &[1, 12, 12], &Device::Cpu).unwrap();
    let step = 1e-2;
    let at = |step: f64| {
        sum(&(&noise() + (&direction * step).unwrap()).unwrap()).to_scalar::<f32>().unwrap()
    };
    let difference = f64::from(at(step) - at(-step)) / (2.0 * step);
    let slope = (&gradient * &direction).unwrap().sum_all().unwrap();
    let slope = f64::from(slope.to_scalar::<f32>().unwrap());
    assert!((slope - difference).abs() < 0.02 * slope.abs().max(0.1), "{slope} {difference}");
    let unguided = gradient.narrow(0, 3, 1).unwrap().abs().unwrap().max_all().unwrap();
    assert_eq!(unguided.to_scalar::<f32>().unwrap(), 0.0);
}

#[test]
fn a_written_classifier_is_read_back() {
    let (classifier, folder) = (trained(5), tempfile::tempdir().unwrap());
    let path = folder.path().join("classifier.safetensors");
    classifier.write(&path).unwrap();
    let again = LoadedClassifier::open(&path, &Device::Cpu).unwrap();
    assert_eq!(again.description, classifier.description);
    assert_eq!(again.description.step, 5);
    let level = NoiseLevel::flow(0.0, 0.4);
    let logits = |of: &LoadedClassifier| {
        of.network.logits(&noise(), level).unwrap().to_vec2::<f32>().unwrap()
    };
    assert_eq!(logits(&again), logits(&classifier));

    let whole = std::fs::read(&path).unwrap();
    std::fs::write(&path, &whole[..whole.len() / 2]).unwrap();
    let error = LoadedClassifier::open(&path, &Device::Cpu).err().unwrap().to_string();
    assert!(error.contains("not a whole safetensors file"), "{error}");
    let other = safetensors::serialize([("a", &noise())], None).unwrap();
    std::fs::write(&path, other).unwrap();
    let error = LoadedClassifier::open(&path, &Device::Cpu).err().unwrap().to_string();
    assert!(error.contains("no classifier of noisy images"), "{error}");
}

#[test]
fn a_training_can_stop_early_and_invalid_trainings_fail() {
    let train = |config: &ClassifierConfig, pictures: &ImageDataset, until: u64| {
        train_classifier(config, pictures, &Device::Cpu, &mut |step| {
            if step.step == until { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        })
    };
    assert_eq!(train(&config(50), &pictures(20), 3).unwrap().description.step, 3);
    let unlabelled = ImageDataset::new(vec![7; 144 * 4], None, [1, 12, 12]).unwrap();
    let error = train(&config(5), &unlabelled, 9).err().unwrap().to_string();
    assert!(error.contains("none of the pictures has a class"), "{error}");
    let alike = ImageDataset::new(vec![7; 144 * 4], Some(vec![0; 4]), [1, 12, 12]).unwrap();
    let error = train(&config(5), &alike, 9).err().unwrap().to_string();
    assert!(error.contains("two or more"), "{error}");
    let endless = ClassifierConfig { steps: None, ..config(5) };
    assert!(
        train(&endless, &pictures(20), 9)
            .err()
            .unwrap()
            .to_string()
            .contains("steps or of minutes")
    );
    let error =
        train(&ClassifierConfig { lr: 1e30, ..config(200) }, &pictures(20), 999).err().unwrap();
    assert!(error.to_string().contains("learning rate is 1"), "{error}");
}
