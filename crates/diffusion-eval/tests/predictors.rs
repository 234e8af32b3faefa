//! Tests of the tutorial's second exercise (Learn AI Series #84, Generative Images – Diffusion
//! Models, Part 1) against expected errors.

use candle_core::{Device, Result, Tensor};
use diffusion_eval::{BaselineCheck, Predictor, PredictorEvaluation, tutorial_images};
use diffusion_process::{Levels, NoiseLevel, Parametrisation, Prediction};
use diffusion_schedule::ScheduleConfig;

fn levels(steps: usize) -> Vec<NoiseLevel> {
    let schedule =
        ScheduleConfig { num_train_timesteps: steps, ..Default::default() }.build().unwrap();
    (0..steps).map(|t| schedule.level(t)).collect()
}

#[test]
fn errors_are_the_expected_ones_in_every_bin() {
    let levels = levels(200);
    let images = tutorial_images(3, &Device::Cpu).unwrap();
    let evaluation = PredictorEvaluation::new(&images, levels.clone(), 4, 3).unwrap();
    // The noise has variance 1, so the error of 0 is 1. The error of independent noise is 2.
    for (predictor, expected) in
        [(Predictor::Zero, 1.0), (Predictor::Random, 2.0), (Predictor::Perfect, 0.0)]
    {
        let errors = evaluation.errors(&predictor).unwrap();
        assert_eq!(errors.bins.len(), 4);
        for (i, bin) in errors.bins.iter().enumerate() {
            assert_eq!(bin.levels, (50 * i, 50 * i + 49));
            let (noise, image) = (bin.error.noise, bin.error.image);
            assert!((noise.mean - expected).abs() <= 4.0 * noise.standard_error, "{bin:?}");
            // In the scale of the image: times 1 − ᾱ, averaged over the bin.
            let share =
                levels[50 * i..50 * i + 50].iter().map(|l| l.noise * l.noise).sum::<f64>() / 50.0;
            assert!(
                (image.mean - expected * share).abs() <= 4.0 * image.standard_error + 2e-3 * share,
                "{bin:?}"
            );
        }
        let overall = errors.bins.iter().map(|bin| bin.error.noise.mean).sum::<f64>() / 4.0;
        assert!((errors.overall.noise.mean - overall).abs() < 1e-12);
    }
    let perfect = evaluation.errors(&Predictor::Perfect).unwrap();
    assert!(
        perfect.bins.iter().all(|bin| bin.error.noise.mean == 0.0 && bin.error.image.mean == 0.0)
    );
}

#[test]
fn standard_errors_are_those_of_means() {
    // The mean square of d normal numbers has variance 2/d; over 8 levels and 50 images 2/(8·50·d).
    let images = tutorial_images(1, &Device::Cpu).unwrap();
    let evaluation = PredictorEvaluation::new(&images, levels(200), 1, 1).unwrap();
    let error = evaluation.errors(&Predictor::Zero).unwrap().overall.noise.standard_error;
    let expected = (2.0 / (8.0 * 50.0 * 1024.0f64)).sqrt();
    assert!((0.7..1.4).contains(&(error / expected)), "{error} against {expected}");
}

/// A model that predicts a black image, converted to and from its prediction type.
fn predicts_black(
    prediction_type: Parametrisation,
) -> impl Fn(&Tensor, NoiseLevel) -> Result<Prediction> {
    move |x_t, level| {
        let levels = Levels::new(&vec![level; x_t.dim(0)?], x_t)?;
        let black = Prediction::from_x0(&x_t.zeros_like()?.affine(0.0, -1.0)?, x_t, &levels)?;
        prediction_type.to_prediction(
            &prediction_type.from_prediction(&black, &levels)?,
            x_t,
            &levels,
        )
    }
}

#[test]
fn the_error_of_a_model_does_not_depend_on_its_prediction_type() {
    // All images are grey: ε̂ − ε = √ᾱ·(x₀ − x̂₀)/√(1 − ᾱ), and x₀ − x̂₀ = 1.
    let images = Tensor::zeros((5, 1, 4, 4), candle_core::DType::F32, &Device::Cpu).unwrap();
    let levels: Vec<NoiseLevel> = levels(1000)[100..108].to_vec();
    let evaluation = PredictorEvaluation::new(&images, levels.clone(), 8, 0).unwrap();
    for prediction_type in
        [Parametrisation::Epsilon, Parametrisation::VPrediction, Parametrisation::Sample]
    {
        let model = predicts_black(prediction_type);
        let errors = evaluation.errors(&Predictor::Model(&model)).unwrap();
        for (bin, level) in errors.bins.iter().zip(&levels) {
            let expected = (level.signal / level.noise).powi(2);
            assert!(
                (bin.error.noise.mean / expected - 1.0).abs() < 1e-3,
                "{prediction_type:?} {bin:?}"
            );
            assert!(
                (bin.error.image.mean / level.signal.powi(2) - 1.0).abs() < 1e-3,
                "{prediction_type:?} {bin:?}"
            );
        }
    }
}

#[test]
fn bins_divide_any_number_of_levels_and_invalid_input_is_an_error() {
    let images = tutorial_images(0, &Device::Cpu).unwrap().narrow(0, 0, 1).unwrap();
    let evaluation = PredictorEvaluation::new(&images, levels(10), 3, 0).unwrap();
    let errors = evaluation.errors(&Predictor::Zero).unwrap();
    let bounds: Vec<_> = errors.bins.iter().map(|bin| bin.levels).collect();
    assert_eq!(bounds, [(0, 2), (3, 5), (6, 9)]);
    assert!(errors.overall.noise.standard_error.is_nan(), "one image has no deviation");
    for bins in [0, 11] {
        assert!(PredictorEvaluation::new(&images, levels(10), bins, 0).is_err());
    }
    let none = Tensor::zeros((0, 1, 4, 4), candle_core::DType::F32, &Device::Cpu).unwrap();
    assert!(PredictorEvaluation::new(&none, levels(10), 1, 0).is_err());
    let broken = |x_t: &Tensor, _: NoiseLevel| -> Result<Prediction> {
        let nan = x_t.affine(f64::NAN, 0.0)?;
        Ok(Prediction { x0: nan.clone(), noise: nan, variance: None })
    };
    let error = evaluation.errors(&Predictor::Model(&broken)).unwrap_err().to_string();
    assert!(error.contains("not finite"), "{error}");
}

#[test]
fn a_check_distinguishes_right_predictors_from_wrong_ones() {
    let images = tutorial_images(3, &Device::Cpu).unwrap();
    let evaluation = PredictorEvaluation::new(&images, levels(200), 4, 3).unwrap();
    let check = |predictor: &Predictor<'_>, expected| {
        BaselineCheck::new(&evaluation.errors(predictor).unwrap(), expected)
    };
    for predictor in [Predictor::Zero, Predictor::Random] {
        let right = check(&predictor, predictor.expected_error().unwrap());
        assert!(
            right.deviation.unwrap() < 4.0 && right.largest_deviation.unwrap() < 4.0,
            "{right:?}"
        );
        assert!(!right.is_exact() && right.largest_difference < 0.02, "{right:?}");
    }
    let perfect = check(&Predictor::Perfect, 0.0);
    assert!(perfect.is_exact() && perfect.deviation.is_none(), "{perfect:?}");

    // It predicts 0.02 of its input as noise, so its error differs from 1 by some hundredths.
    let nearly_zero = |x_t: &Tensor, level: NoiseLevel| -> Result<Prediction> {
        let levels = Levels::new(&vec![level; x_t.dim(0)?], x_t)?;
        Parametrisation::Epsilon.to_prediction(&x_t.affine(0.02, 0.0)?, x_t, &levels)
    };
    let model = Predictor::Model(&nearly_zero);
    assert_eq!(model.expected_error(), None);
    let wrong = check(&model, 1.0);
    assert!(wrong.deviation.unwrap() > 10.0 && wrong.largest_deviation.unwrap() > 5.0, "{wrong:?}");
    let wrong = check(&model, 0.0);
    assert!(!wrong.is_exact() && wrong.largest_difference > 0.9, "{wrong:?}");
    assert!(check(&Predictor::Zero, 2.0).deviation.unwrap() > 100.0);
}
