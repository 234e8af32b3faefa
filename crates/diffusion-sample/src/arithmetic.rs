//! Arithmetic that several samplers share.

use candle_core::{Result, Tensor};
use diffusion_process::NoiseLevel;

/// The largest factor by which a step may multiply the signal, and with it every error of ε̂. Above
/// it, methods that correct or average ε̂ do worse than one that holds x̂₀ constant. The first step
/// of a cosine schedule would multiply the signal by thousands.
pub(crate) const MAX_GAIN: f64 = 100.0;

/// Σ factorᵢ·tensorᵢ.
pub(crate) fn combination(terms: &[(f64, &Tensor)]) -> Result<Tensor> {
    let Some(((factor, first), rest)) = terms.split_first() else {
        candle_core::bail!("a linear combination needs at least one term")
    };
    rest.iter().try_fold(first.affine(*factor, 0.0)?, |sum, (factor, tensor)| {
        sum + tensor.affine(*factor, 0.0)?
    })
}

/// The image at `to` that has the same x₀ and ε as `x` at `from`, for a given ε. This is the exact
/// time integral with ε held constant (Song et al. 2021, eq. 13).
pub(crate) fn transfer(
    x: &Tensor,
    noise: &Tensor,
    from: &NoiseLevel,
    to: &NoiseLevel,
) -> Result<Tensor> {
    let ratio = to.signal / from.signal;
    combination(&[(ratio, x), (to.noise - from.noise * ratio, noise)])
}

/// Solves A·x = b by Gaussian elimination with pivoting. Meant for the few equations of multistep
/// methods.
pub(crate) fn solve(mut a: Vec<Vec<f64>>, mut b: Vec<f64>) -> Vec<f64> {
    let n = b.len();
    for k in 0..n {
        let pivot = (k..n).max_by(|&i, &j| a[i][k].abs().total_cmp(&a[j][k].abs())).unwrap_or(k);
        a.swap(k, pivot);
        b.swap(k, pivot);
        for i in k + 1..n {
            let factor = a[i][k] / a[k][k];
            let pivot = a[k].clone();
            a[i].iter_mut().zip(pivot).skip(k).for_each(|(x, pivot)| *x -= factor * pivot);
            b[i] -= factor * b[k];
        }
    }
    for k in (0..n).rev() {
        let sum: f64 = (k + 1..n).map(|j| a[k][j] * b[j]).sum();
        b[k] = (b[k] - sum) / a[k][k];
    }
    b
}

#[cfg(test)]
mod tests {
    use super::solve;

    #[test]
    fn equations_are_solved_even_where_the_first_pivot_is_zero() {
        let x = solve(
            vec![vec![0.0, 2.0, 1.0], vec![1.0, 1.0, 1.0], vec![4.0, -1.0, 0.5]],
            vec![7.0, 6.0, 3.5],
        );
        for (x, expected) in x.into_iter().zip([1.0, 2.0, 3.0]) {
            assert!((x - expected).abs() < 1e-12);
        }
    }
}
