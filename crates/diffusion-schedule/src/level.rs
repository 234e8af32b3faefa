//! Where on the way between data and noise an image is.

/// x = `signal`·x₀ + `noise`·ε, and what a network is told of it.
///
/// The two factors may follow any path from (1, 0) to noise: the variance-preserving one of DDPM, where their squares
/// add up to 1; the variance-exploding one, where `signal` stays 1 (Karras et al. 2022); the straight one of flow
/// matching, where they themselves add up to 1 (Lipman et al. 2023). Two levels with the same quotient hold the same image
/// at another scale.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct NoiseLevel {
    /// The training timestep, whole or in between: what the network is told.
    pub timestep: f64,
    /// The factor of x₀, in [0, 1].
    pub signal: f64,
    /// The factor of ε, at least 0.
    pub noise: f64,
}

impl NoiseLevel {
    /// The data itself.
    pub const CLEAN: Self = Self { timestep: 0.0, signal: 1.0, noise: 0.0 };

    /// √ᾱ and √(1 − ᾱ) (Ho et al. 2020, eq. 4).
    pub fn variance_preserving(timestep: f64, alpha_cumprod: f64) -> Self {
        Self { timestep, signal: alpha_cumprod.sqrt(), noise: (1.0 - alpha_cumprod).sqrt() }
    }

    /// 1 and σ (Karras et al. 2022).
    pub fn variance_exploding(timestep: f64, sigma: f64) -> Self {
        Self { timestep, signal: 1.0, noise: sigma }
    }

    /// 1 and σ, of a network that is given ¼·ln σ in place of a timestep (Karras et al. 2022, table 1). `sigma` is above 0.
    pub fn edm(sigma: f64) -> Self {
        Self::variance_exploding(edm_noise_conditioning(sigma.ln()), sigma)
    }

    /// 1 − s and s, for s in [0, 1] (Lipman et al. 2023).
    pub fn flow(timestep: f64, s: f64) -> Self {
        Self { timestep, signal: 1.0 - s, noise: s }
    }

    /// σ, the noise beside a signal of 1; infinite where there is no signal.
    pub fn sigma(&self) -> f64 {
        self.noise / self.signal
    }

    /// λ = ln(signal/noise), half the logarithm of the signal-to-noise ratio; infinite at either end.
    pub fn lambda(&self) -> f64 {
        (self.signal / self.noise).ln()
    }

    /// ᾱ, the signal's share of the variance.
    pub fn alpha_cumprod(&self) -> f64 {
        let signal = self.signal * self.signal;
        signal / (signal + self.noise * self.noise)
    }

    /// Whether nothing is left to remove.
    pub fn is_clean(&self) -> bool {
        self.noise == 0.0
    }

    /// The same image, multiplied by `factor`.
    #[must_use]
    pub fn scaled(&self, factor: f64) -> Self {
        Self { timestep: self.timestep, signal: self.signal * factor, noise: self.noise * factor }
    }

    /// What the image must be multiplied by to have a variance of 1, as data of variance 1 would have.
    pub fn to_variance_preserving(&self) -> f64 {
        1.0 / self.signal.hypot(self.noise)
    }
}

/// c_noise = ¼·ln σ, what a preconditioned network is given in place of a timestep (Karras et al. 2022, table 1).
pub fn edm_noise_conditioning(log_sigma: f64) -> f64 {
    log_sigma / 4.0
}
