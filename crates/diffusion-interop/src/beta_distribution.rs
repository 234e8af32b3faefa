//! Quantiles of the beta distribution.

/// The quantile of the beta distribution with both parameters `a`: the x where its distribution
/// function is `p`.
pub(crate) fn symmetric_quantile(p: f64, a: f64) -> f64 {
    // The distribution function is monotonic, so 80 bisections find its inverse to the last bit.
    let (mut low, mut high) = (0.0, 1.0);
    for _ in 0..80 {
        let middle = f64::midpoint(low, high);
        if symmetric_cumulative(middle, a) < p { low = middle } else { high = middle }
    }
    f64::midpoint(low, high)
}

/// The regularised incomplete beta function I_x(a, a). The right half follows from the left by
/// symmetry.
fn symmetric_cumulative(x: f64, a: f64) -> f64 {
    // ∫ t^(a−1)·(1−t)^(a−1), with t = x·s^(1/a) to remove the pole at 0.
    let half = |x: f64| {
        const N: usize = 400;
        let f = |s: f64| (1.0 - x * s.powf(1.0 / a)).powf(a - 1.0);
        let h = 1.0 / N as f64;
        // Simpson's rule.
        let inner: f64 = (1..N).map(|i| if i % 2 == 1 { 4.0 } else { 2.0 } * f(i as f64 * h)).sum();
        x.powf(a) / a * (f(0.0) + inner + f(1.0)) * h / 3.0
    };
    let whole = 2.0 * half(0.5);
    if x <= 0.5 { half(x) / whole } else { 1.0 - half(1.0 - x) / whole }
}

#[cfg(test)]
mod tests {
    use super::symmetric_quantile;

    #[test]
    fn quantiles_agree_with_known_distributions() {
        for p in [0.01, 0.2, 0.5, 0.77, 0.999] {
            // Uniform, and the arcsine distribution.
            assert!((symmetric_quantile(p, 1.0) - p).abs() < 1e-9);
            let arcsine = (std::f64::consts::FRAC_PI_2 * p).sin().powi(2);
            assert!((symmetric_quantile(p, 0.5) - arcsine).abs() < 1e-7, "{p}");
        }
    }
}
