//! Optimiser updates of parameters in place.
//!
//! [`adamw`] is one pass over a parameter's memory, [`muon`] a few matrix products. The sum of
//! squares is for gradient clipping. This module uses [`crate::arith`] and [`crate::memory`], but
//! no images and no graph.

pub(crate) mod adamw;
pub(crate) mod muon;

use candle_core::{Result, Tensor, Var, bail};
use rayon::prelude::*;

use crate::arith::isa::{Isa, vectorised};
use crate::arith::vector::{self, map_sum};
use crate::memory::storage::{data_pointer, with_elements, with_elements_mut};
use adamw::AdamW;

/// The number of elements of one task. A constant, so that the order of additions is always the
/// same.
const CHUNK: usize = 1 << 14;

/// A parameter with the optimiser's state for it. All tensors have the same shape.
#[derive(Clone, Copy, Debug)]
pub struct ParameterState<'a> {
    /// The parameter.
    pub weight: &'a Var,
    /// The first moment of the gradient.
    pub first: &'a Var,
    /// The second moment of the gradient.
    pub second: &'a Var,
    /// The moving average (EMA) of the weight, and the share of the new weight in each update.
    pub average: Option<(&'a Var, f64)>,
}

impl ParameterState<'_> {
    /// Checks the shapes and the step.
    pub(crate) fn check(&self, gradient: &Tensor, adamw: &AdamW) -> Result<()> {
        if adamw.step == 0 {
            bail!("adamw: step must be at least 1 (updates are counted from 1), got 0");
        }
        let Self { weight, first, second, average } = self;
        let like = |t: &Tensor| t.dims() == weight.dims();
        if like(gradient)
            && like(first)
            && like(second)
            && average.is_none_or(|(average, _)| like(average))
        {
            return Ok(());
        }
        bail!(
            "adamw: gradient, moments and average must have the shape {:?} of the weight",
            weight.dims()
        )
    }
}

/// The sum of squares of `x`.
pub(crate) fn square_sum(isa: Isa, x: &Tensor) -> Result<f64> {
    with_elements([x], |[x]| {
        let partials: Vec<f64> = x.par_chunks(CHUNK).map(|x| f64::from(squares(isa, x))).collect();
        Ok(partials.iter().sum())
    })
}

vectorised! {
    fn squares(x: &[f32]) -> f32 {
        map_sum(x, |x| x * x)
    }
}

/// Adds `other` to `sum` in place. They have the same shape.
pub(crate) fn add(isa: Isa, sum: &Tensor, other: &Tensor) -> Result<()> {
    check_disjoint("add", &[sum], other)?;
    with_elements([other], |[other]| {
        with_elements_mut(&[sum], &mut |slices| {
            for sum in slices.iter_mut() {
                let chunks = sum.par_chunks_mut(CHUNK).zip(other.par_chunks(CHUNK));
                chunks.for_each(|(sum, other)| vector::add(isa, other, sum));
            }
            Ok(())
        })
    })
}

/// Checks that no two tensors share memory, which cannot be borrowed twice.
pub(crate) fn check_disjoint(update: &str, changed: &[&Tensor], gradient: &Tensor) -> Result<()> {
    let mut pointers =
        changed.iter().chain([&gradient]).map(|t| data_pointer(t)).collect::<Result<Vec<_>>>()?;
    pointers.sort_unstable();
    if pointers.windows(2).any(|pair| pair[0] == pair[1]) {
        bail!("{update}: the tensors must not share memory");
    }
    Ok(())
}
