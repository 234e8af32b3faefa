//! Tests of reference images, notes and reports.

use std::path::Path;

use candle_core::{Device, Tensor};
use diffusion_eval::{
    EvalError, FeatureExtractor, FeatureJudge, Judge, JudgeDescription, JudgeNetwork,
    JudgeNetworkConfig, JudgeTask, ReferenceChoice, ReferenceSet, SampleEvaluator, SampleMetrics,
    SampleReport, TrainingSet,
};
use diffusion_nn::Parameters;
use diffusion_process::{Domain, NoiseSource};

const GREY: [usize; 3] = [1, 28, 28];

/// `count` images of noise.
fn images(seed: u64, count: u64, shape: [usize; 3]) -> Tensor {
    let noise =
        NoiseSource::new(seed).normal(Domain::Initial, 0, 0..count, &shape, &Device::Cpu).unwrap();
    noise.clamp(-1f32, 1f32).unwrap()
}

/// `count` training images of a folder, and `held_out` others.
fn training(count: u64, held_out: u64) -> TrainingSet<Tensor> {
    TrainingSet {
        images: images(1, count, GREY),
        held_out: (held_out > 0).then(|| images(2, held_out, GREY)),
        path: Some("photos".into()),
        mirrored: false,
    }
}

fn digits() -> FeatureExtractor {
    FeatureExtractor::shipped(&Device::Cpu).unwrap()
}

/// An untrained judge of cats and dogs, without a reference of its own.
fn own_judge(image_shape: [usize; 3]) -> Judge {
    let network = JudgeNetworkConfig {
        channels: vec![8, 16],
        features: 4,
        ..JudgeNetworkConfig::new(image_shape, 2)
    };
    let (_, parameters) =
        Parameters::initialise(3, &Device::Cpu, |vb| JudgeNetwork::new(&network, vb)).unwrap();
    let description = JudgeDescription {
        name: "judge of pets (0123abcd)".to_owned(),
        network,
        task: JudgeTask::Classes(vec!["cat".to_owned(), "dog".to_owned()]),
        step: 0,
        pictures: 10,
        held_out: 0,
        accuracy: None,
        reference: None,
    };
    Judge::new(description, parameters.tensors(), Path::new("own"), &Device::Cpu).unwrap()
}

fn own(image_shape: [usize; 3]) -> FeatureExtractor {
    FeatureExtractor::Judge(Box::new(own_judge(image_shape)))
}

fn judge(references: &ReferenceSet<Tensor>) -> Result<FeatureJudge, EvalError> {
    FeatureJudge::new(digits(), references, &Device::Cpu)
}

/// An evaluator with the images of the model's run as the reference.
fn evaluator(training: &TrainingSet<Tensor>) -> SampleEvaluator {
    let judge = judge(&ReferenceSet::of_run(Some(training)).unwrap()).unwrap();
    SampleEvaluator::new(GREY, Some(judge), Some(training), &Device::Cpu).unwrap()
}

#[test]
fn the_test_digits_are_the_default_reference_of_digit_models_only() {
    let photos = training(2, 0);
    let of_digits = TrainingSet { path: None, ..photos.clone() };
    let default = |network, training| ReferenceChoice::new(None, network, GREY, training).unwrap();
    let (judge, own) = (&digits(), &own(GREY));
    assert_eq!(default(judge, Some(&of_digits)), Some(ReferenceChoice::Mnist));
    assert_eq!(default(judge, None), Some(ReferenceChoice::Mnist));
    assert_eq!(default(judge, Some(&photos)), Some(ReferenceChoice::Run));
    assert_eq!(default(own, Some(&of_digits)), Some(ReferenceChoice::Run));
    let requested = |what, network| ReferenceChoice::new(Some(what), network, GREY, Some(&photos));
    assert_eq!(requested(ReferenceChoice::Mnist, judge).unwrap(), Some(ReferenceChoice::Mnist));
    assert_eq!(requested(ReferenceChoice::Named, judge).unwrap(), Some(ReferenceChoice::Named));
    assert!(matches!(requested(ReferenceChoice::Mnist, own), Err(EvalError::NoImagesOfMnist)));
    assert!(matches!(ReferenceSet::<Tensor>::of_run(None), Err(EvalError::NoReference)));
}

#[test]
fn images_without_a_feature_network_are_only_checked_for_copies() {
    let colour = [3, 28, 28];
    let choice = |requested, network, training: &TrainingSet<Tensor>| {
        ReferenceChoice::new(requested, network, colour, Some(training))
    };
    let (judge, own) = (&digits(), &own(colour));
    assert_eq!(choice(None, judge, &training(2, 0)).unwrap(), None);
    let by_own = choice(None, own, &training(2, 0)).unwrap();
    assert_eq!(by_own, Some(ReferenceChoice::Run));
    let error = choice(Some(ReferenceChoice::Named), judge, &training(2, 0)).unwrap_err();
    assert_eq!(error.to_string(), "the digit judge needs images of 1×28×28, got 3×28×28");
    // Copies are found by the second nearest image; a single image has none.
    assert!(
        matches!(choice(None, judge, &training(1, 0)), Err(EvalError::NoFeatures { shape, .. }) if shape == colour)
    );

    let known = TrainingSet { images: images(1, 20, colour), ..training(0, 0) };
    let evaluator = SampleEvaluator::new(colour, None, Some(&known), &Device::Cpu).unwrap();
    assert_eq!(
        evaluator.description(),
        "checked for copies of the 20 training pictures only: the digit judge needs images of \
         1×28×28, not of 3×28×28"
    );
    let metrics = evaluator.evaluate(&known.images, &[]).unwrap();
    assert_eq!(metrics.memorisation.unwrap().copies, 1.0);
    assert!(metrics.features.is_none() && evaluator.evaluate_training(20).unwrap().is_none());
}

#[test]
fn held_out_images_are_the_reference_unless_they_are_too_few() {
    let of_run = |held_out| ReferenceSet::of_run(Some(&training(9, held_out))).unwrap();
    assert_eq!(of_run(6).name, "the pictures that the run kept out of training");
    assert!(!of_run(6).circular);
    assert_eq!(of_run(5).name, "the pictures that the model was trained on");
    assert!(of_run(5).circular && of_run(0).circular);
}

#[test]
fn reference_images_from_the_place_of_the_training_images_are_circular() {
    let folder = tempfile::tempdir().unwrap();
    let own = folder.path().join("own");
    std::fs::create_dir(&own).unwrap();
    let known = TrainingSet { path: Some(own.clone()), ..training(9, 0) };
    let reference =
        |path: &Path, training| ReferenceSet::new(images(3, 7, GREY), path, GREY, training);
    let circular = |path: &Path, training| reference(path, training).unwrap().circular;
    assert!(circular(&own, Some(&known)));
    assert!(circular(&own.join("../own/."), Some(&known)), "one folder by another name");
    assert!(!circular(folder.path(), Some(&known)));
    assert!(!circular(&own, None));
    let digits = TrainingSet { path: None, ..known.clone() };
    assert!(!circular(&own, Some(&digits)));
    let error = ReferenceSet::new(images(3, 7, [1, 8, 8]), &own, GREY, Some(&known)).unwrap_err();
    assert_eq!(
        error.to_string(),
        "its pictures are [1, 8, 8], expected [1, 28, 28] as the images (channels, height, width)"
    );
}

#[test]
fn too_few_images_are_errors_with_the_name() {
    let few = ReferenceSet::new(images(3, 5, GREY), Path::new("few"), GREY, None).unwrap();
    let error = judge(&few).unwrap_err().to_string();
    assert_eq!(
        error,
        "the pictures of few: 5 pictures are too few to compare images with; 6 are needed"
    );
    let evaluator = evaluator(&training(9, 0));
    let refused = |count| evaluator.check_number("generated", count).unwrap_err().to_string();
    assert_eq!(refused(5), "generated: 5 images are too few to evaluate; 6 are needed");
    assert_eq!(refused(1), "generated: 1 image is too few to evaluate; 6 are needed");
    assert!(evaluator.check_number("generated", 6).is_ok());
}

#[test]
fn training_images_are_evaluated_unless_they_are_the_reference() {
    let known = training(12, 8);
    let of_held_out = evaluator(&known);
    assert_eq!(
        of_held_out.description(),
        "evaluated with the features of the digit judge, compared with the pictures that the run kept \
         out of training (8)"
    );
    assert_eq!(of_held_out.evaluate_training(10).unwrap().unwrap().count, 10);
    assert_eq!(of_held_out.evaluate_training(50).unwrap().unwrap().count, 12);
    assert!(of_held_out.evaluate_training(5).unwrap().is_none());
    assert_eq!(
        notes(&of_held_out, &[20]),
        [
            "20 images are fewer than the 64 features: the distance is unreliable",
            "there are only 12 training pictures, and the metrics depend on the number of images"
        ]
    );
    assert!(notes(&of_held_out, &[64]).iter().all(|note| note.contains("only 12")));
    assert!(of_held_out.judge().unwrap().is_rough());

    let circular = evaluator(&training(12, 0));
    assert!(circular.evaluate_training(12).unwrap().is_none());
    let expected = "no column of training pictures: they are the reference pictures";
    assert_eq!(notes(&circular, &[64]), [expected]);
}

/// The notes about sets of `counts` images.
fn notes(evaluator: &SampleEvaluator, counts: &[usize]) -> Vec<String> {
    let set = |&count: &usize| {
        ("set".to_owned(), SampleMetrics { count, features: None, memorisation: None })
    };
    let report = SampleReport { sets: counts.iter().map(set).collect(), training: None };
    report.notes(evaluator).iter().map(ToString::to_string).collect()
}

#[test]
fn notes_give_the_number_of_images_behind_the_metrics() {
    let known = TrainingSet { mirrored: true, ..training(5, 8) };
    assert_eq!(
        notes(&evaluator(&known), &[4000]),
        [
            "no column of training pictures: there are 5, too few to evaluate",
            "precision, recall, density and coverage compare 3000 images with 8 real ones",
            "2000 of the images are checked for copies",
            "mirror images of training pictures are copies too, as the run trained on them"
        ]
    );
    let mnist = FeatureJudge::with_included_reference(digits()).unwrap();
    let none: Option<&TrainingSet<Tensor>> = None;
    let mnist = SampleEvaluator::new(GREY, Some(mnist), none, &Device::Cpu).unwrap();
    assert_eq!(
        notes(&mnist, &[64, 65]),
        [
            "precision, recall, density and coverage compare 65 images with 3000 real ones",
            "the sets have 64 to 65 images: all metrics but the copies depend on the number, so \
             their means mix unequal sets"
        ]
    );
    let large = TrainingSet { images: images(1, 10_001, [1, 2, 2]), ..training(0, 0) };
    let large = SampleEvaluator::new([1, 2, 2], None, Some(&large), &Device::Cpu).unwrap();
    assert_eq!(
        notes(&large, &[64, 65]),
        ["copies are searched for among 10000 of the 10001 training pictures"],
        "copies do not depend on the number of images"
    );
}

#[test]
fn a_report_has_the_spread_of_its_sets() {
    let evaluator = evaluator(&training(12, 8));
    let set = |seed, count| evaluator.evaluate(&images(seed, count, GREY), &[]).unwrap();
    let sets = vec![("a".to_owned(), set(5, 7)), ("b".to_owned(), set(6, 9))];
    let training = evaluator.evaluate_training(9).unwrap();
    let report = SampleReport { sets, training };
    assert_eq!(report.counts(), (7, 9));
    let json = report.as_json(&evaluator);
    let number = |json: &serde_json::Value| json.as_f64().unwrap();
    for spread in report.spreads() {
        let values = [0, 1].map(|i| number(&json["sets"][i][spread.key]));
        let mean = f64::midpoint(values[0], values[1]);
        let deviation = (values[0] - values[1]).abs() / 2f64.sqrt();
        assert!((spread.mean - mean).abs() <= 1e-9 * mean.abs(), "{spread:?}");
        assert!(
            (spread.deviation.unwrap() - deviation).abs() <= 1e-9 * (1.0 + mean.abs()),
            "{spread:?}"
        );
        assert_eq!(number(&json["mean"][spread.key]), spread.mean);
        assert_eq!(number(&json["standard_deviation"][spread.key]), spread.deviation.unwrap());
        assert_eq!(json["training_pictures"][spread.key].as_f64(), spread.training, "{spread:?}");
    }
    let titles: Vec<&str> = report.spreads().iter().map(|spread| spread.title).collect();
    assert_eq!(titles[0], "Fréchet distance");
    assert!(report.spreads()[0].training.is_some(), "the distance of training images");
    let copies = report.spreads().into_iter().find(|spread| spread.key == "copies").unwrap();
    assert_eq!((copies.training, json["sets"][1]["name"].as_str()), (None, Some("b")));
    // The digits of the judge are not the classes of these images.
    assert!(
        report.class_shares().is_empty()
            && !report.sets[0].1.by_key().contains_key("share_of_class_0")
    );
}

#[test]
fn digits_are_recognised_if_the_reference_images_are_digits() {
    let judge = FeatureJudge::with_included_reference(digits()).unwrap();
    assert!(!judge.is_rough());
    let none: Option<&TrainingSet<Tensor>> = None;
    let evaluator = SampleEvaluator::new(GREY, Some(judge), none, &Device::Cpu).unwrap();
    let names: Vec<Option<&str>> = (0..8).map(|i| Some(if i < 4 { "3" } else { "cat" })).collect();
    let metrics = evaluator.evaluate(&images(7, 8, GREY), &names).unwrap();
    let shares: f64 =
        (0..10).map(|class| metrics.by_key()[&format!("share_of_class_{class}")]).sum();
    assert!((shares - 1.0).abs() < 1e-9);
    let features = metrics.features.unwrap();
    // Only the four images with a digit as requested class count. The judge does not know the class
    // of the others, which counts for their diversity only.
    assert!((features.class_accuracy.unwrap() * 4.0).fract() == 0.0);
    assert!(features.diversity.unwrap() > 0.0 && features.distance_name == "Fréchet distance");
}

#[test]
fn a_judge_of_ones_own_recognises_its_classes_by_name() {
    let shape = [3, 12, 12];
    let references =
        ReferenceSet::new(images(3, 9, shape), Path::new("pets"), shape, None).unwrap();
    let judge = FeatureJudge::new(own(shape), &references, &Device::Cpu).unwrap();
    assert_eq!(
        (judge.is_rough(), judge.classes()),
        (false, &["cat", "dog"].map(str::to_owned)[..])
    );
    let requested = [Some("dog"), Some("fish"), None, Some("cat"), Some("dog"), Some("cat")];
    let generated = images(4, 6, shape);
    let metrics = judge.metrics(&generated, &requested).unwrap();
    // Four of the images have a requested class that the judge knows.
    let found = own_judge(shape).judge(&generated).unwrap().logits.argmax(1).unwrap();
    let found = found.to_vec1::<u32>().unwrap();
    let right = [(0, 1), (3, 0), (4, 1), (5, 0)].iter().filter(|(i, class)| found[*i] == *class);
    assert_eq!(metrics.class_accuracy, Some(right.count() as f64 / 4.0));
    assert_eq!(metrics.class_names, ["cat", "dog"]);
    let none: Option<&TrainingSet<Tensor>> = None;
    let evaluator = SampleEvaluator::new(shape, Some(judge), none, &Device::Cpu).unwrap();
    assert_eq!(
        evaluator.description(),
        "evaluated with the features of the judge of pets (0123abcd), compared with the pictures of \
         pets (9)"
    );
}

#[test]
fn a_judge_is_read_as_it_was_written() {
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("judge.safetensors");
    let (shape, judge) = ([1, 9, 9], own_judge([1, 9, 9]));
    let pictures = images(5, 8, shape);
    let features = judge.judge(&pictures).unwrap().features;
    let judge = judge.with_reference("8 pictures", &features).unwrap();
    judge.write(&path).unwrap();
    let read = Judge::read(&path, &Device::Cpu).unwrap();
    assert_eq!(read.description(), judge.description());
    let numbers = |t: &Tensor| t.flatten_all().unwrap().to_vec1::<f32>().unwrap();
    assert_eq!(numbers(&read.judge(&pictures).unwrap().features), numbers(&features));
    let distance = |judge: &Judge| {
        let other = judge.judge(&images(6, 8, shape)).unwrap().features;
        judge.reference().unwrap().quality(&other).unwrap().frechet_distance
    };
    assert!((distance(&read) / distance(&judge) - 1.0).abs() < 1e-4);

    let refused = |bytes: &[u8]| {
        std::fs::write(&path, bytes).unwrap();
        Judge::read(&path, &Device::Cpu).unwrap_err().to_string()
    };
    let whole = std::fs::read(&path).unwrap();
    assert!(refused(&whole[..whole.len() / 2]).contains("not a whole safetensors file"));
    let none = diffusion_files::serialize_tensors(&judge.weights(), &path).unwrap();
    assert!(refused(&none).ends_with("this is no judge"));
    let text = String::from_utf8_lossy(&whole).into_owned();
    assert!(text.contains("conv3.weight"));
    let at = whole.windows(12).position(|window| window == b"conv3.weight").unwrap();
    let mut renamed = whole.clone();
    renamed[at..at + 12].copy_from_slice(b"conv9.weight");
    assert!(refused(&renamed).contains("conv"), "{}", refused(&renamed));
    assert!(Judge::read(&place.path().join("none"), &Device::Cpu).is_err());
}
