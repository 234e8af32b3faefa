//! What an optimizer does to parameters, where they are.
//!
//! [`adamw`] is one pass over a parameter's memory, [`muon`] a few products of matrices; the sum of squares is for
//! clipping. This room knows [`crate::arith`] and [`crate::memory`], but no images and no graph.

pub(crate) mod adamw;
pub(crate) mod muon;

use candle_core::{Result, Tensor, Var, bail};
use rayon::prelude::*;

use crate::arith::isa::{Isa, vectorised};
use crate::arith::vector::map_sum;
use crate::memory::storage::{memory, with_elements};
use adamw::AdamW;

/// Elements of one task; a constant, so that sums are taken in one order on all machines.
const CHUNK: usize = 1 << 14;

/// A parameter and what is kept for it, all of one shape.
#[derive(Clone, Copy, Debug)]
pub struct Trained<'a> {
    /// The parameter.
    pub weight: &'a Var,
    /// The gradient's first moment.
    pub first: &'a Var,
    /// The gradient's second moment.
    pub second: &'a Var,
    /// The moving average of the weight and the share of the new weight that it takes in.
    pub average: Option<(&'a Var, f64)>,
}

impl Trained<'_> {
    /// Says what does not fit.
    pub(crate) fn check(&self, gradient: &Tensor, adamw: &AdamW) -> Result<()> {
        if adamw.step == 0 {
            bail!("adamw: updates are counted from 1");
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

/// Refuses tensors that lie in the same memory, which cannot be lent twice.
pub(crate) fn check_apart(update: &str, changed: &[&Tensor], gradient: &Tensor) -> Result<()> {
    let mut places =
        changed.iter().chain([&gradient]).map(|t| memory(t)).collect::<Result<Vec<_>>>()?;
    places.sort_unstable();
    if places.windows(2).any(|pair| pair[0] == pair[1]) {
        bail!("{update}: weight, moments, average and gradient must not share memory");
    }
    Ok(())
}
