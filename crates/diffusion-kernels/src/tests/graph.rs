//! Maps in candle's graph: whatever is made of them, gradients come back whole.

use candle_core::{Result, Tensor, Var};

use super::{bits, random, with_gradients};
use crate::isa::available;
use crate::{FeatureMap, slow};

/// A map that is used three times, once beside itself.
fn tangle(
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
fn a_map_that_is_used_again_and_again_gets_all_its_gradients() {
    let [x, weight, wide] = arguments();
    let definition = || {
        let a = slow::conv2d(&x, &weight, None, 1, 1)?;
        let b = Tensor::cat(&[&slow::conv2d(&a, &weight, None, 1, 1)?, &a, &a], 1)?;
        slow::conv2d(&b, &wide, None, 1, 0)
    };
    // Candle's own gradients want square images here: see `direct`.
    let expected = with_gradients(definition, &[&weight, &wide]);
    for isa in available() {
        let fast = with_gradients(
            || tangle(|x| FeatureMap::with_kernels(isa, x), &x, &weight, &wide),
            &[&weight, &wide],
        );
        for (fast, expected) in fast.iter().zip(&expected) {
            let error =
                (fast - expected).unwrap().abs().unwrap().max_all().unwrap().to_scalar::<f32>().unwrap();
            let scale = expected.abs().unwrap().max_all().unwrap().to_scalar::<f32>().unwrap();
            assert!(error < 1e-5 * scale, "{error} of {scale}");
        }
    }
}

#[test]
fn backward_passes_may_be_repeated_and_run_side_by_side() {
    let [x, weight, wide] = arguments();
    let y = tangle(FeatureMap::from_images, &x, &weight, &wide).unwrap().sqr().unwrap().sum_all().unwrap();
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
fn a_map_that_wants_no_gradient_gets_none() {
    let [x, weight, wide] = arguments();
    let (x, weight) = (x.detach(), weight.detach());
    let y = tangle(FeatureMap::from_images, &x, &weight, &wide).unwrap();
    let gradients = y.sum_all().unwrap().backward().unwrap();
    assert!(
        gradients.get(&wide).is_some() && gradients.get(&x).is_none() && gradients.get(&weight).is_none()
    );
    assert!(!tangle(FeatureMap::from_images, &x, &weight, &wide.detach()).unwrap().track_op());
}
