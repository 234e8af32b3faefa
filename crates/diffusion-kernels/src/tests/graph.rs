//! Gradients of maps in candle's autograd graph.

use candle_core::{Result, Tensor, Var};

use super::{bits, random, relative_error, with_gradients};
use crate::arith::isa::available;
use crate::{FeatureMap, slow};

/// A map that is used three times, twice in one concatenation.
fn reused_map(
    map: impl Fn(&Tensor) -> Result<FeatureMap>,
    x: &Tensor,
    weight: &Tensor,
    wide: &Tensor,
) -> Result<Tensor> {
    let a = map(x)?.conv2d(weight, None, 1, 1)?;
    let b = a.conv2d(weight, None, 1, 1)?.cat(&a)?.cat(&a)?;
    b.conv2d(wide, None, 1, 0)?.to_images()
}

fn arguments() -> [Var; 3] {
    [random(1, &[5, 6, 7, 5]), random(2, &[6, 6, 3, 3]), random(3, &[4, 18, 1, 1])]
}

#[test]
fn a_map_that_is_used_several_times_gets_all_its_gradients() {
    let [x, weight, wide] = arguments();
    let definition = || {
        let a = slow::conv2d(&x, &weight, None, 1, 1)?;
        let b = Tensor::cat(&[&slow::conv2d(&a, &weight, None, 1, 1)?, &a, &a], 1)?;
        slow::conv2d(&b, &wide, None, 1, 0)
    };
    // The gradient of x is left out: candle's own needs square images here (see `direct`).
    let expected = with_gradients(definition, &[&weight, &wide]);
    for isa in available() {
        let fast = with_gradients(
            || reused_map(|x| FeatureMap::with_kernels(isa, x), &x, &weight, &wide),
            &[&weight, &wide],
        );
        for (fast, expected) in fast.iter().zip(&expected) {
            let error = (fast - expected)
                .unwrap()
                .abs()
                .unwrap()
                .max_all()
                .unwrap()
                .to_scalar::<f32>()
                .unwrap();
            let scale = expected.abs().unwrap().max_all().unwrap().to_scalar::<f32>().unwrap();
            assert!(error < 1e-5 * scale, "{error} of {scale}");
        }
    }
}

#[test]
fn backward_passes_can_be_repeated_and_run_in_parallel() {
    let [x, weight, wide] = arguments();
    let y = reused_map(FeatureMap::from_images, &x, &weight, &wide)
        .unwrap()
        .sqr()
        .unwrap()
        .sum_all()
        .unwrap();
    let pass = || {
        let gradients = y.backward().unwrap();
        [&x, &weight, &wide].map(|var| bits(gradients.get(var).unwrap()))
    };
    let once = pass();
    assert!(pass() == once);
    std::thread::scope(|scope| {
        let passes: Vec<_> = (0..4).map(|_| scope.spawn(pass)).collect();
        assert!(passes.into_iter().all(|pass| pass.join().unwrap() == once));
    });
}

#[test]
fn a_map_that_needs_no_gradient_gets_none() {
    let [x, weight, wide] = arguments();
    let (x, weight) = (x.detach(), weight.detach());
    let y = reused_map(FeatureMap::from_images, &x, &weight, &wide).unwrap();
    let gradients = y.sum_all().unwrap().backward().unwrap();
    assert!(
        gradients.get(&wide).is_some()
            && gradients.get(&x).is_none()
            && gradients.get(&weight).is_none()
    );
    assert!(!reused_map(FeatureMap::from_images, &x, &weight, &wide.detach()).unwrap().track_op());
}

/// Pool threads may start a second pass while they wait inside of another one.
#[test]
fn backward_passes_over_one_graph_do_not_mix_on_the_threads_of_the_pool() {
    let [x, weight, _] = arguments();
    let mut map = FeatureMap::from_images(&x).unwrap();
    for _ in 0..6 {
        map = map.conv2d(&weight, None, 1, 1).unwrap().add(&map).unwrap();
    }
    let y = map.to_images().unwrap().sqr().unwrap().sum_all().unwrap();
    let pass = || {
        let gradients = y.backward().unwrap();
        [&x, &weight].map(|var| bits(gradients.get(var).unwrap()))
    };
    let once = pass();
    std::thread::scope(|scope| {
        let passes: Vec<_> =
            (0..8).map(|_| scope.spawn(|| (0..8).all(|_| crate::in_pool(pass) == once))).collect();
        assert!(passes.into_iter().all(|passes| passes.join().unwrap()));
    });
}

/// An operation without a backward pass.
struct Opaque;

impl candle_core::CustomOp1 for Opaque {
    fn name(&self) -> &'static str {
        "opaque"
    }

    fn cpu_fwd(
        &self,
        storage: &candle_core::CpuStorage,
        layout: &candle_core::Layout,
    ) -> Result<(candle_core::CpuStorage, candle_core::Shape)> {
        let candle_core::CpuStorage::F32(data) = storage else {
            candle_core::bail!("expected f32")
        };
        Ok((candle_core::CpuStorage::F32(data.clone()), layout.shape().clone()))
    }
}

#[test]
fn gradients_left_by_a_failed_pass_are_detected() {
    let [x, weight, _] = arguments();
    let a = FeatureMap::from_images(&x).unwrap().conv2d(&weight, None, 1, 1).unwrap();
    let good = || a.to_images().unwrap().sum_all().unwrap();
    let bad = a.to_images().unwrap().apply_op1(Opaque).unwrap().sum_all().unwrap();
    let expected = bits(good().backward().unwrap().get(&weight).unwrap());
    for root in [(good() + &bad).unwrap(), (&bad + good()).unwrap()] {
        assert!(root.backward().is_err());
        // Either nothing was left behind, or the first pass reports and removes it.
        for again in 0..2 {
            match good().backward() {
                Ok(gradients) => assert!(bits(gradients.get(&weight).unwrap()) == expected),
                Err(e) => assert!(
                    again == 0 && e.to_string().contains("backward pass that failed"),
                    "{e}"
                ),
            }
        }
    }
}

#[test]
fn backward_gives_the_gradients_of_candles_own_pass() {
    let [x, weight, wide] = arguments();
    // The weight is used twice by the kernels, and once by candle.
    let loss = || {
        let y = reused_map(FeatureMap::from_images, &x, &weight, &wide)?;
        y.sqr()?.mean_all()? + weight.sqr()?.sum_all()?
    };
    let expected = loss().unwrap().backward().unwrap();
    let fast = crate::backward(&loss().unwrap()).unwrap();
    for var in [&x, &weight, &wide] {
        let error = relative_error(fast.get(var).unwrap(), expected.get(var).unwrap());
        assert!(error < 1e-6, "{error}");
    }
    // A pass of candle's own within that of a loss is not affected by it.
    let grads = loss().unwrap().backward().unwrap();
    assert_eq!(bits(grads.get(&weight).unwrap()), bits(expected.get(&weight).unwrap()));
}
