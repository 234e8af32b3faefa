//! Guidance of a model whose classes are Gaussians, for which every prediction is known.

use std::cell::Cell;
use std::ops::ControlFlow;

use candle_core::{DType, Device, Result, Tensor};
use diffusion_process::{
    Classifier, ConditionalDenoiser, Conditioned, Denoiser, Levels, NoiseLevel, Prediction,
};
use diffusion_sample::{
    Autoguided, ClassifierFree, ClassifierGuided, FunctionGuided, Guidance, ReferenceGuided,
    SampleRequest, SamplerKind, SamplerOptions, sample,
};
use diffusion_schedule::{SamplingPlan, ScheduleConfig, SigmaSpacing, TimestepSpacing};

const SHAPE: [usize; 3] = [1, 4, 4];
/// The variance of every class.
const VARIANCE: f64 = 0.05;

/// Class k is N(k/2 − 1/2, 0.05) in each pixel; unconditional is N(0, 0.05).
#[derive(Default)]
struct Gaussians {
    images_seen: Cell<usize>,
}

impl ConditionalDenoiser for Gaussians {
    fn denoise_classes(
        &self,
        x_t: &Tensor,
        level: NoiseLevel,
        classes: &[Option<u32>],
    ) -> Result<Prediction> {
        let n = x_t.dim(0)?;
        assert_eq!(n, classes.len());
        self.images_seen.set(self.images_seen.get() + n);
        let means: Vec<f32> = classes
            .iter()
            .map(|class| class.map_or(0.0, |class| class as f32 / 2.0 - 0.5))
            .collect();
        let means = Tensor::from_vec(means, (n, 1, 1, 1), x_t.device())?;
        let (a, b) = (level.signal, level.noise);
        let gain = VARIANCE * a / (a * a * VARIANCE + b * b);
        let x0 = (x_t.affine(gain, 0.0)?).broadcast_add(&means.affine(1.0 - gain * a, 0.0)?)?;
        Prediction::from_x0(&x0, x_t, &Levels::new(&vec![level; n], x_t)?)
    }
}

fn plan(kind: SamplerKind) -> SamplingPlan {
    if kind.follows_flow() {
        return SamplingPlan::flow(12, 1000.0).unwrap();
    }
    let schedule = ScheduleConfig::default().build().unwrap();
    SamplingPlan::new(&schedule, 12, TimestepSpacing::Trailing, SigmaSpacing::Timesteps).unwrap()
}

fn sampled(denoiser: &dyn Denoiser, kind: SamplerKind, n: u64) -> Tensor {
    let request = SampleRequest {
        seed: 4,
        indices: (0..n).collect(),
        image_shape: SHAPE,
        device: &Device::Cpu,
    };
    let mut sampler = kind.build(&SamplerOptions::default());
    sample(denoiser, &mut *sampler, &plan(kind), &request, &mut |_| ControlFlow::Continue(()))
        .unwrap()
}

fn mean(images: &Tensor) -> f32 {
    images.mean_all().unwrap().to_scalar().unwrap()
}

fn largest_difference(a: &Tensor, b: &Tensor) -> f32 {
    (a - b).unwrap().abs().unwrap().max_all().unwrap().to_scalar().unwrap()
}

#[test]
fn scale_one_is_the_conditional_model_and_scale_zero_the_unconditional_one_by_every_sampler() {
    let model = Gaussians::default();
    let classes = vec![Some(0), Some(2), Some(2)];
    for kind in SamplerKind::ALL {
        let guided = |scale| {
            sampled(&ClassifierFree::new(&model, classes.clone(), Guidance::new(scale)), kind, 3)
        };
        let conditioned = |classes| sampled(&Conditioned::new(&model, classes), kind, 3);
        let (conditional, unconditional) =
            (conditioned(classes.clone()), conditioned(vec![None; 3]));
        assert_eq!(largest_difference(&guided(1.0), &conditional), 0.0, "{kind:?}");
        assert_eq!(largest_difference(&guided(0.0), &unconditional), 0.0, "{kind:?}");
        // The same through both branches: the result is linear in the scale.
        assert!(largest_difference(&guided(1.0 + 1e-6), &conditional) < 1e-4, "{kind:?}");
        assert!(largest_difference(&guided(1e-6), &unconditional) < 1e-4, "{kind:?}");
        // Away from the overall mean, towards the class.
        let (plain, far) =
            (conditional.narrow(0, 1, 2).unwrap(), guided(2.0).narrow(0, 1, 2).unwrap());
        assert!(mean(&far) > mean(&plain) + 0.1, "{kind:?}: {} {}", mean(&far), mean(&plain));
        assert!(
            mean(&guided(2.0).narrow(0, 0, 1).unwrap())
                < mean(&conditional.narrow(0, 0, 1).unwrap())
        );
    }
}

#[test]
fn both_branches_are_computed_only_where_both_count() {
    let model = Gaussians::default();
    let evaluations = |classes: Vec<Option<u32>>, guidance| {
        model.images_seen.set(0);
        sampled(&ClassifierFree::new(&model, classes, guidance), SamplerKind::Ddim, 2);
        model.images_seen.get()
    };
    let classes = vec![Some(1), None];
    assert_eq!(evaluations(classes.clone(), Guidance::new(3.0)), 2 * 2 * 12);
    assert_eq!(evaluations(classes.clone(), Guidance::new(1.0)), 2 * 12);
    assert_eq!(evaluations(classes.clone(), Guidance::new(0.0)), 2 * 12);
    assert_eq!(evaluations(vec![None; 2], Guidance::new(3.0)), 2 * 12);
    let steps = plan(SamplerKind::Ddim);
    let inside =
        steps.steps().iter().filter(|step| (0.5..=5.0).contains(&step.from.sigma())).count();
    assert!((1..12).contains(&inside));
    assert_eq!(
        evaluations(classes, Guidance { interval: [0.5, 5.0], ..Guidance::new(3.0) }),
        2 * (12 + inside)
    );
}

/// The exact classifier of the classes of [`Gaussians`].
struct Likelihoods;

impl Classifier for Likelihoods {
    fn logits(&self, x_t: &Tensor, level: NoiseLevel) -> Result<Tensor> {
        let (a, b) = (level.signal, level.noise);
        let of_class = |class: u32| {
            let mean = a * (f64::from(class) / 2.0 - 0.5);
            let square = x_t.affine(1.0, -mean)?.sqr()?.flatten_from(1)?.sum(1)?;
            square.affine(-0.5 / (a * a * VARIANCE + b * b), 0.0)
        };
        Tensor::stack(&[of_class(0)?, of_class(1)?, of_class(2)?], 1)
    }
}

/// An unconditional model of the three classes of [`Gaussians`] together.
fn mixture(x_t: &Tensor, level: NoiseLevel) -> Result<Prediction> {
    let n = x_t.dim(0)?;
    let shares = Likelihoods.logits(x_t, level)?;
    let shares = shares.broadcast_sub(&shares.log_sum_exp(1)?.unsqueeze(1)?)?.exp()?;
    let mut x0 = x_t.zeros_like()?;
    for class in 0..3 {
        let of_class = Gaussians::default().denoise_classes(x_t, level, &vec![Some(class); n])?.x0;
        let share = shares.narrow(1, class as usize, 1)?.reshape((n, 1, 1, 1))?;
        x0 = (x0 + of_class.broadcast_mul(&share)?)?;
    }
    Prediction::from_x0(&x0, x_t, &Levels::new(&vec![level; n], x_t)?)
}

#[test]
fn classifier_guidance_makes_an_unconditional_model_conditional() {
    let (model, classes) = (Gaussians::default(), vec![Some(0), Some(1), Some(2)]);
    let guided = |classes: &[Option<u32>], scale, kind| {
        let guided =
            ClassifierGuided::new(&mixture, &Likelihoods, classes.to_vec(), Guidance::new(scale));
        sampled(&guided, kind, 3)
    };
    for kind in SamplerKind::ALL {
        let plain = sampled(&mixture, kind, 3);
        assert_eq!(largest_difference(&guided(&classes, 0.0, kind), &plain), 0.0, "{kind:?}");
        assert_eq!(largest_difference(&guided(&[None; 3], 4.0, kind), &plain), 0.0, "{kind:?}");
        // Bayes' rule.
        let conditional = sampled(&Conditioned::new(&model, classes.clone()), kind, 3);
        let difference = largest_difference(&guided(&classes, 1.0, kind), &conditional);
        // A flow starts without signal, where the classifier is not evaluated.
        let most = if kind.follows_flow() { 2e-2 } else { 2e-3 };
        assert!(difference < most, "{kind:?}: {difference}");
    }
    let of_last =
        |scale| mean(&guided(&classes, scale, SamplerKind::Ddim).narrow(0, 2, 1).unwrap());
    assert!(of_last(4.0) > of_last(1.0) + 0.01, "{} {}", of_last(4.0), of_last(1.0));
    // Outside the interval the classifier is not evaluated.
    let x_t = sampled(&mixture, SamplerKind::Euler, 3);
    let level = NoiseLevel::variance_exploding(0.0, 1.0);
    let at = |interval| {
        let guidance = Guidance { interval, ..Guidance::new(3.0) };
        let guided = ClassifierGuided::new(&mixture, &Likelihoods, classes.clone(), guidance);
        largest_difference(
            &guided.denoise(&x_t, level).unwrap().x0,
            &mixture(&x_t, level).unwrap().x0,
        )
    };
    assert_eq!(at([1.5, 9.0]), 0.0);
    assert!(at([0.5, 9.0]) > 0.1);
    let unknown = ClassifierGuided::new(&mixture, &Likelihoods, vec![Some(3)], Guidance::new(1.0));
    let x_t = Tensor::zeros((1, 1, 4, 4), DType::F32, &Device::Cpu).unwrap();
    let error = unknown.denoise(&x_t, NoiseLevel::variance_exploding(0.0, 1.0)).unwrap_err();
    assert!(error.to_string().contains("class 3 is not among the 3"), "{error}");
}

/// A model whose classes differ in contrast.
struct Contrasts;

impl ConditionalDenoiser for Contrasts {
    fn denoise_classes(
        &self,
        x: &Tensor,
        level: NoiseLevel,
        c: &[Option<u32>],
    ) -> Result<Prediction> {
        let factors: Vec<f32> =
            c.iter().map(|class| if class.is_some() { 0.5 } else { 0.2 }).collect();
        let x0 = x.broadcast_mul(&Tensor::from_vec(factors, (c.len(), 1, 1, 1), x.device())?)?;
        Prediction::from_x0(&x0, x, &Levels::new(&vec![level; c.len()], x)?)
    }
}

#[test]
fn rescaling_brings_the_contrast_back() {
    let x_t = Tensor::from_iter((0..32).map(|i| (i as f32 * 0.7).sin()), &Device::Cpu).unwrap();
    let x_t = x_t.reshape((2, 1, 4, 4)).unwrap();
    let level = NoiseLevel::variance_preserving(500.0, 0.4);
    let guided = |rescale| {
        let guidance = Guidance { rescale, ..Guidance::new(3.0) };
        ClassifierFree::new(&Contrasts, vec![Some(0); 2], guidance).denoise(&x_t, level).unwrap()
    };
    let factor = |p: &Prediction| {
        let ratio = (&p.x0 / &x_t).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
        ratio[3]
    };
    assert!((factor(&guided(0.0)) - 1.1).abs() < 1e-4);
    assert!(
        (factor(&guided(1.0)) - 0.5).abs() < 1e-4,
        "the contrast of the conditional prediction"
    );
    assert!((factor(&guided(0.5)) - 0.8).abs() < 1e-4);
    for p in [guided(0.0), guided(0.5)] {
        let back = ((&p.x0 * level.signal).unwrap() + (&p.noise * level.noise).unwrap()).unwrap();
        assert!(largest_difference(&back, &x_t) < 1e-5, "both predictions belong to x_t");
    }
}

#[test]
fn autoguidance_moves_away_from_the_weaker_model() {
    let model = Gaussians::default();
    let (good, bad) =
        (Conditioned::new(&model, vec![Some(2); 2]), Conditioned::new(&model, vec![Some(1); 2]));
    let auto = |scale| {
        sampled(&Autoguided::new(&good, &bad, Guidance::new(scale)), SamplerKind::DpmSolver2m, 2)
    };
    assert_eq!(largest_difference(&auto(1.0), &sampled(&good, SamplerKind::DpmSolver2m, 2)), 0.0);
    assert!(largest_difference(&auto(0.0), &sampled(&bad, SamplerKind::DpmSolver2m, 2)) < 1e-5);
    assert!(mean(&auto(2.0)) > mean(&auto(1.0)) + 0.1);
}

#[test]
fn a_custom_function_guides() {
    let model = Gaussians::default();
    let plain = Conditioned::new(&model, vec![Some(1); 2]);
    let custom = FunctionGuided::new(&plain, |x_t, level, prediction: &Prediction| {
        assert_eq!(x_t.dims(), prediction.noise.dims());
        assert!(level.noise > 0.0);
        prediction.x0.affine(0.0, 0.25)
    });
    let images = sampled(&custom, SamplerKind::Ddim, 2);
    assert!(largest_difference(&images, &images.affine(0.0, 0.25).unwrap()) < 1e-4);
    // Guidance can be nested: D₀ + 2·(0.25 − D₀) = 0.5 − D₀.
    let guided = Autoguided::new(&custom, &plain, Guidance::new(2.0));
    let (x_t, level) = (images, NoiseLevel::variance_exploding(0.0, 1.0));
    let [guided, plain] =
        [&guided as &dyn Denoiser, &plain].map(|d| d.denoise(&x_t, level).unwrap().x0);
    assert!(largest_difference(&guided, &plain.affine(-1.0, 0.5).unwrap()) < 1e-5);
}

#[test]
fn images_have_the_low_frequencies_of_their_reference() {
    let model = Gaussians::default();
    let plain = Conditioned::new(&model, vec![Some(1); 3]);
    let reference =
        Tensor::from_iter((0..16).map(|i| if i % 4 < 2 { 0.8f32 } else { -0.6 }), &Device::Cpu);
    let reference = reference.unwrap().reshape((1, 1, 4, 4)).unwrap();
    let guided = ReferenceGuided::new(&plain, &reference, 2.0, 0.0).unwrap();
    let images = sampled(&guided, SamplerKind::DpmSolver2mSde, 3);
    // The means of 2 × 2 pixels, which a factor of 2 preserves.
    let low = |x: &Tensor| x.avg_pool2d(2).unwrap();
    let free = sampled(&plain, SamplerKind::DpmSolver2mSde, 3);
    let reference = low(&reference).broadcast_as((3, 1, 2, 2)).unwrap();
    let near = largest_difference(&low(&images), &reference);
    assert!(near < 0.2 && near < largest_difference(&low(&free), &reference) / 2.0, "{near}");
    assert!(
        largest_difference(&images.narrow(0, 0, 1).unwrap(), &images.narrow(0, 1, 1).unwrap())
            > 0.1
    );

    let wrong = Tensor::zeros((1, 4, 4), DType::F32, &Device::Cpu).unwrap();
    assert!(ReferenceGuided::new(&plain, &wrong, 2.0, 0.0).is_err());
    let image = Tensor::zeros((1, 1, 4, 4), DType::F32, &Device::Cpu).unwrap();
    assert!(ReferenceGuided::new(&plain, &image, 0.5, 0.0).is_err());
}
