//! Tests of metrics on sets of images with known results.

use candle_core::{Device, IndexOp, Tensor};
use diffusion_eval::{ClassShares, Judge, Reference, TrainingImages, mean_and_deviation};
use diffusion_process::{Domain, NoiseSource};

fn points(seed: u64, count: u64, width: usize) -> Tensor {
    NoiseSource::new(seed).normal(Domain::Initial, 0, 0..count, &[width], &Device::Cpu).unwrap()
}

#[test]
fn copies_are_distinguished_from_new_images() {
    let training = points(1, 400, 16).reshape((400, 1, 4, 4)).unwrap();
    let new = points(2, 100, 16).reshape((100, 1, 4, 4)).unwrap();
    let known = TrainingImages::new(&training, false).unwrap();
    let fresh = known.memorisation(&new).unwrap();
    assert_eq!(fresh.copies, 0.0);
    assert!((fresh.nearest / fresh.training_nearest - 1.0).abs() < 0.1, "{fresh:?}");
    // A quarter of the images are training images with a little noise.
    let copied =
        (training.i(..25).unwrap() + new.i(..25).unwrap().affine(0.02, 0.0).unwrap()).unwrap();
    let mixed = Tensor::cat(&[new.i(25..).unwrap(), copied], 0).unwrap();
    let found = known.memorisation(&mixed).unwrap();
    assert_eq!(found.copies, 0.25);
    assert!(found.nearest < 0.8 * fresh.nearest);
    assert_eq!(found.training_nearest, fresh.training_nearest);
    assert!(TrainingImages::new(&training.i(..1).unwrap(), false).is_err());
    let other = points(1, 3, 9).reshape((3, 1, 3, 3)).unwrap();
    assert!(
        known.memorisation(&other).unwrap_err().to_string().contains("9 features, the other 16")
    );
}

#[test]
fn mirror_images_are_copies_if_training_mirrored() {
    let training = points(1, 300, 16).reshape((300, 1, 4, 4)).unwrap();
    let new = points(2, 90, 16).reshape((90, 1, 4, 4)).unwrap();
    let images = Tensor::cat(&[new, training.i(..10).unwrap().flip(&[3]).unwrap()], 0).unwrap();
    let known = |mirrored| TrainingImages::new(&training, mirrored).unwrap();
    let found = known(true).memorisation(&images).unwrap();
    assert_eq!(found.copies, 0.1);
    assert!(found.training_nearest > 0.5, "an image is not its own neighbour: {found:?}");
    assert_eq!(known(false).memorisation(&images).unwrap().copies, 0.0);
    // With mirroring, the unmirrored images are still found.
    assert_eq!(known(true).memorisation(&training.i(..20).unwrap()).unwrap().copies, 1.0);
}

#[test]
fn a_mean_has_a_deviation_from_2_values_on() {
    assert_eq!(mean_and_deviation(&[1.0, 3.0]), (2.0, Some(2f64.sqrt())));
    assert_eq!(mean_and_deviation(&[5.0]), (5.0, None));
}

#[test]
fn shares_of_classes_follow_the_logits() {
    // The logarithms of the probabilities.
    let rows = [[0.97f32, 0.02, 0.01], [0.1, 0.8, 0.1], [0.96, 0.03, 0.01], [0.5, 0.25, 0.25]];
    let logits = Tensor::new(&rows, &Device::Cpu).unwrap().log().unwrap();
    let classes = ClassShares::of(&logits).unwrap();
    assert_eq!(classes.shares, [0.75, 0.25, 0.0]);
    assert_eq!(classes.sure, 0.5);
    assert!((classes.confidence - (0.97 + 0.8 + 0.96 + 0.5) / 4.0).abs() < 1e-6);
    // Shares are counts divided once, so ten images of one class give exactly 1.
    let one_class = Tensor::new(&[[1f32, 0.0]], &Device::Cpu).unwrap().repeat((10, 1)).unwrap();
    assert_eq!(ClassShares::of(&one_class).unwrap().shares, [1.0, 0.0]);
}

#[test]
fn identical_images_have_perfect_metrics_and_others_do_not() {
    let features = points(1, 500, 8);
    let reference = Reference::of(&features).unwrap();
    let same = reference.quality(&features).unwrap();
    assert_eq!(
        (same.count, same.agreement.precision, same.agreement.recall, same.agreement.coverage),
        (500, 1.0, 1.0, 1.0)
    );
    assert!(same.frechet_distance < 1e-6);
    let moved = reference.quality(&features.affine(1.0, 3.0).unwrap()).unwrap();
    // The mean moves by 3 in each of 8 features.
    assert!((moved.frechet_distance - 72.0).abs() < 1e-3);
    assert!(moved.agreement.precision < 0.2);
    assert!(Reference::of(&points(1, Reference::SMALLEST as u64 - 1, 8)).is_err());
    assert!(Reference::of(&points(1, Reference::SMALLEST as u64, 8)).is_ok());
}

#[test]
fn the_included_judge_recognises_the_included_digits() {
    let read = |name: &str| {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../assets/mnist/").to_owned() + name;
        std::fs::read(path).unwrap()
    };
    let digits = diffusion_data::mnist::from_bytes(
        &read("train-10k-images-idx3-ubyte.gz"),
        &read("train-10k-labels-idx1-ubyte.gz"),
    )
    .unwrap();
    // They are in the order of the original file, with mixed classes.
    let positions: Vec<usize> = (0..600).collect();
    let images = digits.images(&positions, &Device::Cpu).unwrap();
    let judge = Judge::shipped(&Device::Cpu).unwrap();
    let reference = judge.reference().unwrap();
    let output = judge.judge(&images).unwrap();
    assert_eq!(output.features.dims(), [600, 64]);
    let read = output.logits.argmax(1).unwrap().to_vec1::<u32>().unwrap();
    let right = positions.iter().filter(|i| digits.label(**i) == Some(read[**i])).count();
    assert!(right >= 595, "{right} of 600");

    let real = reference.quality(&output.features).unwrap();
    let noise = points(3, 600, 784).clamp(-1f32, 1f32).unwrap().reshape((600, 1, 28, 28)).unwrap();
    let noise = judge.judge(&noise).unwrap();
    let unreal = reference.quality(&noise.features).unwrap();
    assert!(real.frechet_distance * 20.0 < unreal.frechet_distance, "{real:?} {unreal:?}");
    assert!(
        real.agreement.precision > 0.9 && unreal.agreement.coverage < 0.1,
        "{real:?} {unreal:?}"
    );
    assert!(ClassShares::of(&output.logits).unwrap().sure > 0.95);

    let error =
        judge.judge(&Tensor::zeros((2, 3, 32, 32), candle_core::DType::F32, &Device::Cpu).unwrap());
    assert!(error.unwrap_err().to_string().contains("(N, 1, 28, 28)"));
}

#[test]
fn each_image_is_judged_by_itself() {
    let judge = Judge::shipped(&Device::Cpu).unwrap();
    let images = points(5, 300, 784).reshape((300, 1, 28, 28)).unwrap();
    let all = judge.judge(&images).unwrap();
    let one = judge.judge(&images.i(299..).unwrap()).unwrap();
    let bits = |t: &Tensor| {
        t.flatten_all()
            .unwrap()
            .to_vec1::<f32>()
            .unwrap()
            .iter()
            .map(|x| x.to_bits())
            .collect::<Vec<_>>()
    };
    assert_eq!(bits(&all.features.i(299..).unwrap()), bits(&one.features));
}

#[test]
fn diversity_is_the_mean_distance_of_pairs_within_a_class() {
    let features = Tensor::new(
        &[[0f32, 0.0], [3.0, 4.0], [100.0, 0.0], [100.0, 1.0], [7.0, 7.0]],
        &Device::Cpu,
    )
    .unwrap();
    let classes = [Some(1), Some(1), Some(0), Some(0), None];
    let found = diffusion_eval::diversity(&features, &classes).unwrap().unwrap();
    assert!((found - 3.0).abs() < 1e-6, "{found}");
    assert_eq!(
        diffusion_eval::diversity(&features, &[Some(0), Some(1), None, None, None]).unwrap(),
        None
    );
}

#[test]
fn class_accuracy_counts_only_images_with_a_requested_class() {
    let logits =
        Tensor::new(&[[9f32, 0.0], [9.0, 0.0], [0.0, 9.0], [0.0, 9.0]], &Device::Cpu).unwrap();
    let share = |requested: &[Option<u32>]| {
        diffusion_eval::ClassShares::class_accuracy(&logits, requested).unwrap()
    };
    assert_eq!(share(&[Some(0), Some(1), Some(1), None]), Some(2.0 / 3.0));
    assert_eq!(share(&[None; 4]), None);
}
