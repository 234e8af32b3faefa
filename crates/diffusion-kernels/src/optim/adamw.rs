//! AdamW and the moving average of the weights in one pass over a parameter's memory.

use candle_core::{Result, Tensor, bail};
use rayon::prelude::*;

use crate::arith::isa::{Isa, vectorised};
use crate::memory::storage::{with_elements, with_elements_mut};
use crate::optim::{CHUNK, ParameterState, check_disjoint};

/// The constants of one AdamW update (Loshchilov & Hutter 2019, algorithm 2).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdamW {
    /// The learning rate.
    pub lr: f64,
    /// The decay of the first moment, in [0, 1).
    pub beta1: f64,
    /// The decay of the second moment, in [0, 1).
    pub beta2: f64,
    /// The value added to the root of the second moment.
    pub eps: f64,
    /// The decoupled weight decay.
    pub weight_decay: f64,
    /// The number of this update, counted from 1.
    pub step: u64,
    /// The factor of the gradient, for clipping. 1 leaves the gradient unchanged.
    pub gradient_scale: f64,
}

impl AdamW {
    /// The bias corrections 1 − βᵏ of both moments, which start at zero.
    pub(crate) fn corrections(&self) -> [f64; 2] {
        [self.beta1, self.beta2].map(|beta| 1.0 - beta.powf(self.step as f64))
    }
}

/// [`crate::adamw`] by the kernels.
pub(crate) fn adamw(
    isa: Isa,
    gradient: &Tensor,
    parameter: &ParameterState<'_>,
    adamw: &AdamW,
) -> Result<()> {
    let ParameterState { weight, first, second, average } = *parameter;
    let constants = Constants::new(adamw, average.map_or(0.0, |(_, share)| share));
    let mut changed: Vec<&Tensor> = vec![weight, first, second];
    changed.extend(average.map(|(average, _)| average.as_tensor()));
    check_disjoint("adamw", &changed, gradient)?;
    with_elements([gradient], |[gradient]| {
        with_elements_mut(&changed, &mut |slices| {
            let [weight, first, second, average @ ..] = slices else {
                bail!("expected three or four slices")
            };
            let tasks = gradient
                .par_chunks(CHUNK)
                .zip(weight.par_chunks_mut(CHUNK))
                .zip(first.par_chunks_mut(CHUNK).zip(second.par_chunks_mut(CHUNK)));
            match average {
                [average] => {
                    tasks.zip(average.par_chunks_mut(CHUNK)).for_each(
                        |(((g, w), (m, v)), average)| {
                            update(isa, &constants, g, w, m, v);
                            mix(isa, constants.average_share, w, average);
                        },
                    );
                }
                _ => tasks.for_each(|((g, w), (m, v))| update(isa, &constants, g, w, m, v)),
            }
            Ok(())
        })
    })
}

/// [`AdamW`] as the constants of the loop.
struct Constants {
    gradient_scale: f32,
    beta1: f32,
    one_minus_beta1: f32,
    beta2: f32,
    one_minus_beta2: f32,
    /// 1 / √(1 − β₂ᵏ).
    root_factor: f32,
    eps: f32,
    rate: f32,
    decay_factor: f32,
    average_share: f32,
}

impl Constants {
    fn new(adamw: &AdamW, average_share: f64) -> Self {
        let [correction1, correction2] = adamw.corrections();
        let &AdamW { lr, beta1, beta2, eps, weight_decay, gradient_scale, .. } = adamw;
        Self {
            gradient_scale: gradient_scale as f32,
            beta1: beta1 as f32,
            one_minus_beta1: (1.0 - beta1) as f32,
            beta2: beta2 as f32,
            one_minus_beta2: (1.0 - beta2) as f32,
            root_factor: (1.0 / correction2.sqrt()) as f32,
            eps: eps as f32,
            rate: (lr / correction1) as f32,
            decay_factor: (1.0 - lr * weight_decay) as f32,
            average_share: average_share as f32,
        }
    }
}

vectorised! {
    fn update(constants: &Constants, gradient: &[f32], weight: &mut [f32], first: &mut [f32], second: &mut [f32]) {
        let k = constants;
        for (((g, w), m), v) in gradient.iter().zip(weight).zip(first).zip(second) {
            let g = g * k.gradient_scale;
            *m = *m * k.beta1 + g * k.one_minus_beta1;
            *v = *v * k.beta2 + g * g * k.one_minus_beta2;
            *w = *w * k.decay_factor - *m / (v.sqrt() * k.root_factor + k.eps) * k.rate;
        }
    }
}

/// [`crate::mix`] by the kernels.
pub(crate) fn mix_average(isa: Isa, average: &Tensor, weight: &Tensor, share: f32) -> Result<()> {
    check_disjoint("mix", &[average], weight)?;
    with_elements([weight], |[weight]| {
        with_elements_mut(&[average], &mut |slices| {
            for average in slices.iter_mut() {
                let tasks = average.par_chunks_mut(CHUNK).zip(weight.par_chunks(CHUNK));
                tasks.for_each(|(average, w)| mix(isa, share, w, average));
            }
            Ok(())
        })
    })
}

vectorised! {
    fn mix(share: f32, weight: &[f32], average: &mut [f32]) {
        for (average, w) in average.iter_mut().zip(weight) {
            *average -= (*average - w) * share;
        }
    }
}
