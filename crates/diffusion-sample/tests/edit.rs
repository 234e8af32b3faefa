//! Edits by models of Gaussians, for which every result is known.

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
/// The variance that all pixels of an image share, and the variance of each single pixel.
const SHARED_VARIANCE: f64 = 0.2;
const PIXEL_VARIANCE: f64 = 0.02;

/// All pixels of an image are m + √0.2·z + √0.02·zᵢ, with m = k/2 − 1/2 for class k and 0 for the
/// unconditional model.
struct CorrelatedPixels;

impl ConditionalDenoiser for CorrelatedPixels {
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
        let own = away.broadcast_sub(&mean)?.affine(gain(PIXEL_VARIANCE), 0.0)?;
        let x0 = own.broadcast_add(
            &(mean.affine(gain(PIXEL_VARIANCE + PIXELS * SHARED_VARIANCE), 0.0)? + means)?,
        )?;
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

fn unconditional(n: usize) -> Conditioned<'static> {
    Conditioned::new(&CorrelatedPixels, vec![None; n])
}

fn keep_going(_: Progress<'_>) -> ControlFlow<()> {
    ControlFlow::Continue(())
}

fn keep_counting(_: usize) -> ControlFlow<()> {
    ControlFlow::Continue(())
}

/// A picture that the model would not generate: light on the left.
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

/// A light picture, which the model rarely generates.
fn light() -> Tensor {
    Tensor::full(0.8f32, (1, 1, 4, 4), &Device::Cpu).unwrap()
}

fn varied(kind: SamplerKind, strength: f64, n: u64) -> Tensor {
    let mut sampler = kind.build(&SamplerOptions::default());
    let plan = plan(kind, 20);
    vary(
        &light(),
        strength,
        &unconditional(n as usize),
        &mut *sampler,
        &plan,
        &request(n),
        &mut keep_going,
    )
    .unwrap()
}

#[test]
fn larger_strengths_change_more_and_strength_one_equals_sampling() {
    for kind in SamplerKind::ALL {
        let distances =
            [0.05, 0.2, 0.35, 1.0].map(|s| mean_difference(&varied(kind, s, 64), &light()));
        println!("{kind:?}: {distances:.3?}");
        assert!(distances.is_sorted(), "{kind:?}: {distances:?}");
        assert!(distances[0] < 0.2 && distances[3] > 0.4, "{kind:?}: {distances:?}");
        let mut sampler = kind.build(&SamplerOptions::default());
        let fresh =
            sample(&unconditional(8), &mut *sampler, &plan(kind, 20), &request(8), &mut keep_going)
                .unwrap();
        assert_eq!(bits(&varied(kind, 1.0, 8)), bits(&fresh), "{kind:?}");
        // Image i is the same in any batch.
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
    vary(&picture(), 0.25, &unconditional(2), &mut *sampler, &plan, &request(2), &mut count)
        .unwrap();
    assert_eq!(seen, 5);
    let two = Tensor::cat(&[picture(), picture()], 0).unwrap();
    let error =
        vary(&two, 0.25, &unconditional(3), &mut *sampler, &plan, &request(3), &mut keep_going)
            .unwrap_err();
    assert!(
        error
            .to_string()
            .contains("expected the shape [3, 1, 4, 4], or one picture for all, got [2, 1, 4, 4]"),
        "{error}"
    );
}

/// Repaints the upper half.
fn mask() -> Tensor {
    Tensor::from_iter((0..16).map(|i| if i < 8 { 1f32 } else { 0.0 }), &Device::Cpu)
        .unwrap()
        .reshape((1, 1, 4, 4))
        .unwrap()
}

fn filled(kind: SamplerKind, pictures: &Tensor, resamples: usize, n: u64) -> Tensor {
    let mut sampler = kind.build(&SamplerOptions { eta: 1.0, ..SamplerOptions::default() });
    let inpainting = Inpainting { pictures, mask: &mask(), resamples };
    inpaint(
        &inpainting,
        &unconditional(n as usize),
        &mut *sampler,
        &plan(kind, 20),
        &request(n),
        &mut keep_going,
    )
    .unwrap()
}

#[test]
fn inpainting_keeps_the_known_region_bit_for_bit_and_fits_the_rest_to_it() {
    // −0 and 0 have different bits.
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
        // Given 8 known pixels of mean m, the others have mean 8·0.2/(8·0.2 + 0.02)·m and standard
        // deviation √(0.02 + 0.02/8).
        let mean = |x: &Tensor| f64::from(x.mean_all().unwrap().to_scalar::<f32>().unwrap());
        let expected = mean(&lower(&light)) * 1.6 / 1.62;
        let found = mean(&upper(&images));
        println!("{kind:?}: {found:.3}, expected {expected:.3}");
        assert!((found - expected).abs() < 0.04, "{kind:?}: {found}, expected {expected}");
        // The images differ from each other.
        let (a, b) = (images.narrow(0, 0, 1).unwrap(), images.narrow(0, 1, 1).unwrap());
        assert!(mean_difference(&upper(&a), &upper(&b)) > 0.01, "{kind:?}");
        let alone = filled(kind, &light, 5, 1);
        assert!(mean_difference(&a, &alone) < 1e-5, "{kind:?}: image 0 differs alone");
    }
}

#[test]
fn resampling_fits_the_new_part_better_to_the_known_region() {
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
    println!("means are off by {once:.3} with 1 pass per step, by {often:.3} with 10");
    // The theoretical value: √(2/π·(0.02/8 + 0.02/8)).
    assert!(often < once * 0.8 && often < 0.09, "{once} {often}");
}

#[test]
fn invalid_inpainting_is_an_error_and_inpainting_can_be_cancelled() {
    let plan = plan(SamplerKind::Ddim, 5);
    let with =
        |mask: &Tensor, resamples, progress: &mut dyn FnMut(Progress<'_>) -> ControlFlow<()>| {
            let mut sampler = SamplerKind::Ddim.build(&SamplerOptions::default());
            let inpainting = Inpainting { pictures: &picture(), mask, resamples };
            inpaint(&inpainting, &unconditional(2), &mut *sampler, &plan, &request(2), progress)
        };
    let grey = (mask() * 0.5).unwrap();
    assert!(matches!(with(&grey, 1, &mut keep_going), Err(EditError::Mask(0.5))));
    let large = Tensor::zeros((1, 1, 8, 8), DType::F32, &Device::Cpu).unwrap();
    let error = with(&large, 1, &mut keep_going).unwrap_err();
    assert!(
        error.to_string().contains(
            "expected the shape [2, 1, 4, 4], or 1 in place of any of these, got [1, 1, 8, 8]"
        ),
        "{error}"
    );
    assert!(matches!(with(&mask(), 0, &mut keep_going), Err(EditError::Resamples)));
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
fn slerp_returns_its_ends_and_interpolates_the_length() {
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
        // Each image is interpolated independently.
        let alone = slerp(&a.narrow(0, 1, 1).unwrap(), &b.narrow(0, 1, 1).unwrap(), share).unwrap();
        assert_eq!(bits(&alone), bits(&between.narrow(0, 1, 1).unwrap()));
    }
    // Equal shares are equal angles: between (1, 0) and (0, 1), halfway is (√½, √½), a third of the
    // arc (cos 30°, sin 30°).
    let unit = |x: f32, y: f32| Tensor::from_vec(vec![x, y], (1, 1, 1, 2), &Device::Cpu).unwrap();
    let third = slerp(&unit(1.0, 0.0), &unit(0.0, 1.0), 1.0 / 3.0).unwrap();
    assert!(mean_difference(&third, &unit(30f32.to_radians().cos(), 0.5)) < 1e-6);
    // No arc is defined for the same noise, its opposite, and zero.
    for other in [a.clone(), a.neg().unwrap(), a.zeros_like().unwrap()] {
        let middle = slerp(&a, &other, 0.25).unwrap();
        let straight = ((&a * 0.75).unwrap() + (other * 0.25).unwrap()).unwrap();
        assert!(mean_difference(&middle, &straight) < 1e-5);
    }
    assert!(slerp(&a, &b, 1.5).is_err() && slerp(&a, &noise(2, 1), 0.5).is_err());
}

/// Plans on every path; one of them starts at pure noise.
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
fn inverted_pictures_are_reproduced_on_every_path() {
    for (name, plan) in paths() {
        let pictures = (noise(3, 8) * 0.4).unwrap();
        let start = to_noise(&pictures, &unconditional(3), &plan, 4, &mut keep_counting).unwrap();
        let size = plan.start().to_variance_preserving() * f64::from(deviation(&start));
        assert!((0.3..3.0).contains(&size), "{name}: noise of deviation {size}");
        let error = mean_difference(
            &from_noise(&start, &unconditional(3), &plan, &mut keep_going).unwrap(),
            &pictures,
        );
        println!("{name}: mean error {error:.1e}");
        assert!(error < 1e-3, "{name}: {error}");
    }
}

#[test]
fn interpolation_reproduces_its_ends() {
    for (name, plan) in paths() {
        let ends = [picture(), picture().neg().unwrap().affine(1.0, 0.1).unwrap()];
        let found = ends
            .each_ref()
            .map(|end| to_noise(end, &unconditional(1), &plan, 4, &mut keep_counting).unwrap());
        let shares = [0.0, 0.3, 0.5, 1.0];
        let frames =
            interpolate([&found[0], &found[1]], &shares, &unconditional(4), &plan, &mut keep_going)
                .unwrap();
        assert_eq!(frames.dims(), [4, 1, 4, 4]);
        for (frame, end) in [(0, &ends[0]), (3, &ends[1])] {
            let error = mean_difference(&frames.narrow(0, frame, 1).unwrap(), end);
            assert!(error < 2e-3, "{name}: {error}");
        }
        let start = |seed| SampleRequest { seed, ..request(1) }.initial(&plan).unwrap();
        let frames =
            interpolate([&start(1), &start(2)], &shares, &unconditional(4), &plan, &mut keep_going)
                .unwrap();
        for (frame, seed) in [(0, 1), (3, 2)] {
            let alone =
                from_noise(&start(seed), &unconditional(1), &plan, &mut keep_going).unwrap();
            assert!(mean_difference(&frames.narrow(0, frame, 1).unwrap(), &alone) < 1e-6, "{name}");
        }
    }
    let plan = plan(SamplerKind::Ddim, 5);
    let error = interpolate(
        [&noise(2, 1), &noise(2, 2)],
        &[0.5],
        &unconditional(1),
        &plan,
        &mut keep_going,
    );
    assert!(matches!(error, Err(EditError::Shape { .. })));
}

#[test]
fn reclass_moves_the_mean_and_keeps_the_rest() {
    let class = |k| Conditioned::new(&CorrelatedPixels, vec![Some(k); 5]);
    for (name, plan) in paths() {
        // Images of class 0, around −0.5, become images of class 2, around 0.5. Each keeps its
        // distance from the mean.
        let pictures = ((noise(5, 3) * 0.1).unwrap() - 0.5).unwrap();
        let mut steps = vec![];
        let mut count = |done| {
            steps.push(done);
            ControlFlow::Continue(())
        };
        let moved = reclass(&pictures, [&class(0), &class(2)], &plan, 4, &mut count).unwrap();
        let error = mean_difference(&moved, &(&pictures + 1.0).unwrap());
        println!("{name}: mean error {error:.1e}");
        // If a little signal is left at the start of the plan, the noises of two classes differ
        // slightly.
        assert!(error < 0.03, "{name}: {error}");
        assert!(steps.into_iter().eq(1..=100));
        let same =
            reclass(&pictures, [&class(0), &class(0)], &plan, 4, &mut keep_counting).unwrap();
        assert!(mean_difference(&same, &pictures) < 1e-3, "{name}");
    }
    let plan = plan(SamplerKind::Ddim, 5);
    let mut second =
        |done| if done == 2 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) };
    let error = reclass(&noise(5, 3), [&class(0), &class(2)], &plan, 4, &mut second).unwrap_err();
    assert!(matches!(error, EditError::Sample(SampleError::Cancelled { done: 2, .. })), "{error}");
}

#[test]
fn inverting_certain_pixels_needs_grain_for_noise_of_the_right_size() {
    // Every pixel of every image is 0.25.
    let certain = |x: &Tensor, level: NoiseLevel| -> Result<Prediction> {
        let x0 = x.affine(0.0, 0.25)?;
        Prediction::from_x0(&x0, x, &Levels::new(&vec![level; x.dim(0)?], x)?)
    };
    let plan = plan(SamplerKind::Ddim, 50);
    let picture = Tensor::full(0.25f32, (1, 1, 4, 4), &Device::Cpu).unwrap();
    for (steps, range) in [(0, 0.0..0.3), (1, 0.9..1.1), (5, 0.9..1.1)] {
        let (grained, front) = with_grain(&picture, steps, &plan, &request(64)).unwrap();
        assert_eq!((grained.dims()[0], front.steps().len()), (64, 50 - steps));
        let noise = to_noise(&grained, &certain, &front, 4, &mut keep_counting).unwrap();
        assert!(range.contains(&deviation(&noise)), "{steps}: {}", deviation(&noise));
        assert!(
            mean_difference(
                &from_noise(&noise, &certain, &plan, &mut keep_going).unwrap(),
                &picture
            ) < 1e-6
        );
    }
    assert!(with_grain(&picture, 50, &plan, &request(1)).is_err());
}

#[test]
fn a_failing_model_is_reported_as_not_finite() {
    let broken = |x: &Tensor, _: NoiseLevel| -> Result<Prediction> {
        let nan = x.affine(0.0, f64::NAN)?;
        Ok(Prediction { x0: nan.clone(), noise: nan, variance: None })
    };
    let broken: &dyn Denoiser = &broken;
    let plan = plan(SamplerKind::Ddim, 5);
    let mut sampler = SamplerKind::Ddim.build(&SamplerOptions::default());
    let inpainting = Inpainting { pictures: &picture(), mask: &mask(), resamples: 1 };
    for error in [
        vary(&picture(), 0.5, broken, &mut *sampler, &plan, &request(1), &mut keep_going)
            .unwrap_err(),
        inpaint(&inpainting, broken, &mut *sampler, &plan, &request(1), &mut keep_going)
            .unwrap_err(),
        to_noise(&picture(), broken, &plan, 2, &mut keep_counting).unwrap_err(),
    ] {
        assert!(error.to_string().contains("not finite"), "{error}");
    }
}
