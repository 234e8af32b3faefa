//! Edits by models of Gaussians, for which every answer is known.

use std::ops::ControlFlow;

use candle_core::{DType, Device, Result, Tensor};
use diffusion_process::{
    ConditionalDenoiser, Conditioned, Denoiser, Domain, Levels, NoiseSource, Prediction,
};
use diffusion_sample::edit::{
    EditError, Inpainting, from_noise, inpaint, interpolate, reclass, slerp, steps_at, to_noise,
    vary, with_grain,
};
use diffusion_sample::{Progress, SampleError, SampleRequest, SamplerKind, SamplerOptions, sample};
use diffusion_schedule::{NoiseLevel, SamplingPlan, ScheduleConfig, SigmaSpacing, TimestepSpacing};

const SHAPE: [usize; 3] = [1, 4, 4];
const PIXELS: f64 = 16.0;
/// Of what all pixels of an image have in common, and of what each has of its own.
const COMMON: f64 = 0.2;
const OWN: f64 = 0.02;

/// All pixels of an image are m + √0.2·z + √0.02·zᵢ, with m = k/2 − 1/2 for class k and 0 for none in particular.
struct Alike;

impl ConditionalDenoiser for Alike {
    fn denoise_classes(
        &self,
        x: &Tensor,
        level: NoiseLevel,
        classes: &[Option<u32>],
    ) -> Result<Prediction> {
        let n = x.dim(0)?;
        let means =
            classes.iter().map(|class| class.map_or(0.0, |class| f64::from(class) / 2.0 - 0.5));
        let means =
            Tensor::from_vec(means.collect(), (n, 1, 1, 1), x.device())?.to_dtype(x.dtype())?;
        let (a, b) = (level.signal, level.noise);
        let gain = |variance: f64| a * variance / (a * a * variance + b * b);
        let away = x.broadcast_sub(&means.affine(a, 0.0)?)?;
        let mean = away.mean_keepdim((1, 2, 3))?;
        let own = away.broadcast_sub(&mean)?.affine(gain(OWN), 0.0)?;
        let x0 = own.broadcast_add(&(mean.affine(gain(OWN + PIXELS * COMMON), 0.0)? + means)?)?;
        Prediction::from_x0(&x0, x, &Levels::new(&vec![level; n], x)?)
    }
}

fn plan(kind: SamplerKind, steps: usize) -> SamplingPlan {
    if kind.follows_flow() {
        return SamplingPlan::flow(steps, 1000.0).unwrap();
    }
    let schedule = ScheduleConfig::default().build().unwrap();
    SamplingPlan::new(&schedule, steps, TimestepSpacing::Trailing, SigmaSpacing::Timesteps).unwrap()
}

fn request(n: u64) -> SampleRequest<'static> {
    SampleRequest { seed: 4, indices: (0..n).collect(), image_shape: SHAPE, device: &Device::Cpu }
}

fn none(n: usize) -> Conditioned<'static> {
    Conditioned::new(&Alike, vec![None; n])
}

fn on(_: Progress<'_>) -> ControlFlow<()> {
    ControlFlow::Continue(())
}

fn counted(_: usize) -> ControlFlow<()> {
    ControlFlow::Continue(())
}

/// One picture that is not the model's: light on the left.
fn picture() -> Tensor {
    let pixels = (0..16).map(|i| if i % 4 < 2 { 0.9f32 } else { -0.1 - i as f32 / 100.0 });
    Tensor::from_iter(pixels, &Device::Cpu).unwrap().reshape((1, 1, 4, 4)).unwrap()
}

fn mean_difference(a: &Tensor, b: &Tensor) -> f64 {
    let difference = a.broadcast_sub(b).unwrap().abs().unwrap().mean_all().unwrap();
    difference.to_dtype(DType::F64).unwrap().to_scalar().unwrap()
}

fn bits(x: &Tensor) -> Vec<u32> {
    x.flatten_all().unwrap().to_vec1::<f32>().unwrap().into_iter().map(f32::to_bits).collect()
}

/// A light one, as the model makes few.
fn light() -> Tensor {
    Tensor::full(0.8f32, (1, 1, 4, 4), &Device::Cpu).unwrap()
}

fn varied(kind: SamplerKind, strength: f64, n: u64) -> Tensor {
    let mut sampler = kind.build(&SamplerOptions::default());
    let plan = plan(kind, 20);
    vary(&light(), strength, &none(n as usize), &mut *sampler, &plan, &request(n), &mut on).unwrap()
}

#[test]
fn every_sampler_varies_a_picture_the_more_the_stronger_and_at_strength_one_makes_its_own() {
    for kind in SamplerKind::ALL {
        let distances =
            [0.05, 0.2, 0.35, 1.0].map(|s| mean_difference(&varied(kind, s, 64), &light()));
        println!("{kind:?}: {distances:.3?}");
        assert!(distances.is_sorted(), "{kind:?}: {distances:?}");
        assert!(distances[0] < 0.2 && distances[3] > 0.4, "{kind:?}: {distances:?}");
        let mut sampler = kind.build(&SamplerOptions::default());
        let fresh = sample(&none(8), &mut *sampler, &plan(kind, 20), &request(8), &mut on).unwrap();
        assert_eq!(bits(&varied(kind, 1.0, 8)), bits(&fresh), "{kind:?}");
        // Image i is the same beside others.
        let alone = varied(kind, 0.5, 1);
        assert!(mean_difference(&varied(kind, 0.5, 3).narrow(0, 0, 1).unwrap(), &alone) < 1e-6);
    }
}

#[test]
fn a_strength_is_a_share_of_the_steps() {
    let plan = plan(SamplerKind::Ddim, 20);
    let steps = [0.001, 0.05, 0.5, 0.74, 1.0].map(|strength| steps_at(strength, &plan).unwrap());
    assert_eq!(steps, [1, 1, 10, 15, 20]);
    for strength in [0.0, -0.5, 1.01, f64::NAN] {
        assert!(matches!(steps_at(strength, &plan), Err(EditError::Strength(_))), "{strength}");
    }
    let mut seen = 0;
    let mut count = |p: Progress<'_>| {
        seen = p.done;
        assert_eq!(p.steps, 5);
        ControlFlow::Continue(())
    };
    let mut sampler = SamplerKind::Ddim.build(&SamplerOptions::default());
    vary(&picture(), 0.25, &none(2), &mut *sampler, &plan, &request(2), &mut count).unwrap();
    assert_eq!(seen, 5);
    let two = Tensor::cat(&[picture(), picture()], 0).unwrap();
    let error = vary(&two, 0.25, &none(3), &mut *sampler, &plan, &request(3), &mut on).unwrap_err();
    assert!(
        error
            .to_string()
            .contains("expected the shape [3, 1, 4, 4], or one picture for all, got [2, 1, 4, 4]"),
        "{error}"
    );
}

/// The upper half is to be made.
fn mask() -> Tensor {
    Tensor::from_iter((0..16).map(|i| if i < 8 { 1f32 } else { 0.0 }), &Device::Cpu)
        .unwrap()
        .reshape((1, 1, 4, 4))
        .unwrap()
}

fn filled(kind: SamplerKind, pictures: &Tensor, resamples: usize, n: u64) -> Tensor {
    let mut sampler = kind.build(&SamplerOptions { eta: 1.0, ..SamplerOptions::default() });
    let inpainting = Inpainting { pictures, mask: &mask(), resamples };
    inpaint(&inpainting, &none(n as usize), &mut *sampler, &plan(kind, 20), &request(n), &mut on)
        .unwrap()
}

#[test]
fn every_sampler_keeps_what_is_known_to_the_bit_and_makes_what_fits_it() {
    // −0 is not 0, to the bit.
    let light = (Tensor::zeros((1, 1, 4, 4), DType::F32, &Device::Cpu).unwrap() * -1.0).unwrap();
    let light = mask().ne(1f32).unwrap().where_cond(&(picture() * 0.5).unwrap(), &light).unwrap();
    let lower = |x: &Tensor| x.narrow(2, 2, 2).unwrap();
    let upper = |x: &Tensor| x.narrow(2, 0, 2).unwrap();
    for kind in SamplerKind::ALL {
        let images = filled(kind, &light, 5, 64);
        for i in 0..64 {
            assert_eq!(
                bits(&lower(&images.narrow(0, i, 1).unwrap())),
                bits(&lower(&light)),
                "{kind:?}"
            );
        }
        // What 8 known pixels of the mean m say of the others: 8·0.2/(8·0.2 + 0.02)·m, give or take √(0.02 + 0.02/8).
        let mean = |x: &Tensor| f64::from(x.mean_all().unwrap().to_scalar::<f32>().unwrap());
        let expected = mean(&lower(&light)) * 1.6 / 1.62;
        let found = mean(&upper(&images));
        println!("{kind:?}: {found:.3}, in theory {expected:.3}");
        assert!((found - expected).abs() < 0.04, "{kind:?}: {found}, in theory {expected}");
        // Each image is another one.
        let (a, b) = (images.narrow(0, 0, 1).unwrap(), images.narrow(0, 1, 1).unwrap());
        assert!(mean_difference(&upper(&a), &upper(&b)) > 0.01, "{kind:?}");
        let alone = filled(kind, &light, 5, 1);
        assert!(mean_difference(&a, &alone) < 1e-5, "{kind:?}: image 0 is the same beside others");
    }
}

#[test]
fn steps_taken_again_bring_what_is_made_and_what_is_known_together() {
    let picture = (picture().zeros_like().unwrap() + 0.7).unwrap();
    let off = |resamples| {
        let images = filled(SamplerKind::Ddpm, &picture, resamples, 64).narrow(2, 0, 2).unwrap();
        let means = images.mean_keepdim((1, 2, 3)).unwrap();
        mean_difference(
            &means,
            &Tensor::full(0.7f32 * 1.6 / 1.62, (1, 1, 1, 1), &Device::Cpu).unwrap(),
        )
    };
    let (once, often) = (off(1), off(10));
    println!("means are {once:.3} off when steps are taken once, {often:.3} when ten times");
    // The law's own: √(2/π·(0.02/8 + 0.02/8)).
    assert!(often < once * 0.8 && often < 0.09, "{once} {often}");
}

#[test]
fn fillings_that_cannot_be_are_refused_and_can_be_cancelled() {
    let plan = plan(SamplerKind::Ddim, 5);
    let with =
        |mask: &Tensor, resamples, progress: &mut dyn FnMut(Progress<'_>) -> ControlFlow<()>| {
            let mut sampler = SamplerKind::Ddim.build(&SamplerOptions::default());
            let inpainting = Inpainting { pictures: &picture(), mask, resamples };
            inpaint(&inpainting, &none(2), &mut *sampler, &plan, &request(2), progress)
        };
    let grey = (mask() * 0.5).unwrap();
    assert!(matches!(with(&grey, 1, &mut on), Err(EditError::Mask(0.5))));
    let large = Tensor::zeros((1, 1, 8, 8), DType::F32, &Device::Cpu).unwrap();
    let error = with(&large, 1, &mut on).unwrap_err();
    assert!(
        error.to_string().contains(
            "expected the shape [2, 1, 4, 4], or 1 in place of any of these, got [1, 1, 8, 8]"
        ),
        "{error}"
    );
    assert!(matches!(with(&mask(), 0, &mut on), Err(EditError::Resamples)));
    let mut seen = vec![];
    let mut three = |p: Progress<'_>| {
        seen.push((p.done, p.steps));
        if p.done == 3 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    };
    let error = with(&mask(), 4, &mut three).unwrap_err();
    assert!(
        matches!(error, EditError::Sample(SampleError::Cancelled { done: 3, steps: 17 })),
        "{error}"
    );
    assert_eq!(seen, [(1, 17), (2, 17), (3, 17)]);
}

fn deviation(x: &Tensor) -> f32 {
    x.sqr().unwrap().mean_all().unwrap().to_scalar::<f32>().unwrap().sqrt()
}

fn noise(n: u64, seed: u64) -> Tensor {
    NoiseSource::new(seed).normal(Domain::Initial, 0, 0..n, &SHAPE, &Device::Cpu).unwrap()
}

#[test]
fn the_great_circle_ends_where_it_should_and_keeps_its_radius() {
    let length = |x: &Tensor| {
        x.sqr().unwrap().sum((1, 2, 3)).unwrap().sqrt().unwrap().to_vec1::<f32>().unwrap()
    };
    let (a, b) = (noise(3, 1), (noise(3, 2) * 2.0).unwrap());
    assert_eq!(bits(&slerp(&a, &b, 0.0).unwrap()), bits(&a));
    assert_eq!(bits(&slerp(&a, &b, 1.0).unwrap()), bits(&b));
    let (from, to) = (length(&a), length(&b));
    for share in [0.1, 0.25, 0.5, 0.8] {
        let between = slerp(&a, &b, share).unwrap();
        for (i, length) in length(&between).into_iter().enumerate() {
            let expected = from[i] * (1.0 - share as f32) + to[i] * share as f32;
            assert!((length - expected).abs() < 1e-4, "{length} {expected}");
        }
        // An image's way is its own.
        let alone = slerp(&a.narrow(0, 1, 1).unwrap(), &b.narrow(0, 1, 1).unwrap(), share).unwrap();
        assert_eq!(bits(&alone), bits(&between.narrow(0, 1, 1).unwrap()));
    }
    // Equal steps are equal angles: with (1, 0) and (0, 1), halfway is (√½, √½), a third of the way (cos 30°, sin 30°).
    let unit = |x: f32, y: f32| Tensor::from_vec(vec![x, y], (1, 1, 1, 2), &Device::Cpu).unwrap();
    let third = slerp(&unit(1.0, 0.0), &unit(0.0, 1.0), 1.0 / 3.0).unwrap();
    assert!(mean_difference(&third, &unit(30f32.to_radians().cos(), 0.5)) < 1e-6);
    // No circle: the same noise, its opposite, none at all.
    for other in [a.clone(), a.neg().unwrap(), a.zeros_like().unwrap()] {
        let middle = slerp(&a, &other, 0.25).unwrap();
        let straight = ((&a * 0.75).unwrap() + (other * 0.25).unwrap()).unwrap();
        assert!(mean_difference(&middle, &straight) < 1e-5);
    }
    assert!(slerp(&a, &b, 1.5).is_err() && slerp(&a, &noise(2, 1), 0.5).is_err());
}

/// Plans of every path, one of them from noise without any signal.
fn paths() -> [(&'static str, SamplingPlan); 4] {
    let zero = ScheduleConfig { rescale_betas_zero_snr: true, ..ScheduleConfig::default() }
        .build()
        .unwrap();
    let zero =
        SamplingPlan::new(&zero, 50, TimestepSpacing::Trailing, SigmaSpacing::Timesteps).unwrap();
    [
        ("diffusion", plan(SamplerKind::Ddim, 50)),
        ("zero terminal SNR", zero),
        ("flow", SamplingPlan::flow(50, 1000.0).unwrap()),
        ("edm", SamplingPlan::edm(50, 0.002, 80.0, 7.0).unwrap()),
    ]
}

#[test]
fn pictures_come_back_from_their_noise_on_every_path() {
    for (name, plan) in paths() {
        let pictures = (noise(3, 8) * 0.4).unwrap();
        let start = to_noise(&pictures, &none(3), &plan, 4, &mut counted).unwrap();
        let size = plan.start().to_variance_preserving() * f64::from(deviation(&start));
        assert!((0.3..3.0).contains(&size), "{name}: it is noise, of deviation {size}");
        let error =
            mean_difference(&from_noise(&start, &none(3), &plan, &mut on).unwrap(), &pictures);
        println!("{name}: mean error {error:.1e}");
        assert!(error < 1e-3, "{name}: {error}");
    }
}

#[test]
fn between_two_pictures_or_seeds_lie_images_and_at_the_ends_they_themselves() {
    for (name, plan) in paths() {
        let ends = [picture(), picture().neg().unwrap().affine(1.0, 0.1).unwrap()];
        let found =
            ends.each_ref().map(|end| to_noise(end, &none(1), &plan, 4, &mut counted).unwrap());
        let shares = [0.0, 0.3, 0.5, 1.0];
        let frames =
            interpolate([&found[0], &found[1]], &shares, &none(4), &plan, &mut on).unwrap();
        assert_eq!(frames.dims(), [4, 1, 4, 4]);
        for (frame, end) in [(0, &ends[0]), (3, &ends[1])] {
            let error = mean_difference(&frames.narrow(0, frame, 1).unwrap(), end);
            assert!(error < 2e-3, "{name}: {error}");
        }
        let start = |seed| SampleRequest { seed, ..request(1) }.initial(&plan).unwrap();
        let frames =
            interpolate([&start(1), &start(2)], &shares, &none(4), &plan, &mut on).unwrap();
        for (frame, seed) in [(0, 1), (3, 2)] {
            let alone = from_noise(&start(seed), &none(1), &plan, &mut on).unwrap();
            assert!(mean_difference(&frames.narrow(0, frame, 1).unwrap(), &alone) < 1e-6, "{name}");
        }
    }
    let plan = plan(SamplerKind::Ddim, 5);
    let refused = interpolate([&noise(2, 1), &noise(2, 2)], &[0.5], &none(1), &plan, &mut on);
    assert!(matches!(refused, Err(EditError::Shape { .. })));
}

#[test]
fn another_class_has_its_mean_and_keeps_the_rest() {
    let class = |k| Conditioned::new(&Alike, vec![Some(k); 5]);
    for (name, plan) in paths() {
        // Images of class 0, around −0.5, become some of class 2, around 0.5, each as far from its mean as it was.
        let pictures = ((noise(5, 3) * 0.1).unwrap() - 0.5).unwrap();
        let mut steps = vec![];
        let mut count = |done| {
            steps.push(done);
            ControlFlow::Continue(())
        };
        let moved = reclass(&pictures, [&class(0), &class(2)], &plan, 4, &mut count).unwrap();
        let error = mean_difference(&moved, &(&pictures + 1.0).unwrap());
        println!("{name}: mean error {error:.1e}");
        // Where the plan begins with a little signal left, noise of one class is not quite that of another.
        assert!(error < 0.03, "{name}: {error}");
        assert!(steps.into_iter().eq(1..=100));
        let same = reclass(&pictures, [&class(0), &class(0)], &plan, 4, &mut counted).unwrap();
        assert!(mean_difference(&same, &pictures) < 1e-3, "{name}");
    }
    let plan = plan(SamplerKind::Ddim, 5);
    let mut second =
        |done| if done == 2 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) };
    let error = reclass(&noise(5, 3), [&class(0), &class(2)], &plan, 4, &mut second).unwrap_err();
    assert!(matches!(error, EditError::Sample(SampleError::Cancelled { done: 2, .. })), "{error}");
}

#[test]
fn certain_pixels_have_noise_of_the_right_size_only_with_grain() {
    // Every image is a quarter, everywhere.
    let certain = |x: &Tensor, level: NoiseLevel| -> Result<Prediction> {
        let x0 = x.affine(0.0, 0.25)?;
        Prediction::from_x0(&x0, x, &Levels::new(&vec![level; x.dim(0)?], x)?)
    };
    let plan = plan(SamplerKind::Ddim, 50);
    let picture = Tensor::full(0.25f32, (1, 1, 4, 4), &Device::Cpu).unwrap();
    for (steps, range) in [(0, 0.0..0.3), (1, 0.9..1.1), (5, 0.9..1.1)] {
        let (grained, front) = with_grain(&picture, steps, &plan, &request(64)).unwrap();
        assert_eq!((grained.dims()[0], front.steps().len()), (64, 50 - steps));
        let noise = to_noise(&grained, &certain, &front, 4, &mut counted).unwrap();
        assert!(range.contains(&deviation(&noise)), "{steps}: {}", deviation(&noise));
        assert!(
            mean_difference(&from_noise(&noise, &certain, &plan, &mut on).unwrap(), &picture)
                < 1e-6
        );
    }
    assert!(with_grain(&picture, 50, &plan, &request(1)).is_err());
}

/// A denoiser is anything that estimates; an edit is none of its business.
#[test]
fn a_model_that_fails_is_named() {
    let broken = |x: &Tensor, _: NoiseLevel| -> Result<Prediction> {
        let nan = x.affine(0.0, f64::NAN)?;
        Ok(Prediction { x0: nan.clone(), noise: nan, variance: None })
    };
    let broken: &dyn Denoiser = &broken;
    let plan = plan(SamplerKind::Ddim, 5);
    let mut sampler = SamplerKind::Ddim.build(&SamplerOptions::default());
    let inpainting = Inpainting { pictures: &picture(), mask: &mask(), resamples: 1 };
    for error in [
        vary(&picture(), 0.5, broken, &mut *sampler, &plan, &request(1), &mut on).unwrap_err(),
        inpaint(&inpainting, broken, &mut *sampler, &plan, &request(1), &mut on).unwrap_err(),
        to_noise(&picture(), broken, &plan, 2, &mut counted).unwrap_err(),
    ] {
        assert!(error.to_string().contains("not finite"), "{error}");
    }
}
