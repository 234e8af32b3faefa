//! The noise level of an image.

/// The noise level of an image x = `signal`·x₀ + `noise`·ε, with its timestep for the network.
///
/// The two factors may follow any path from (1, 0) to noise:
///
/// - variance-preserving (DDPM): the squares of the factors add up to 1;
/// - variance-exploding (Karras et al. 2022): `signal` stays 1;
/// - straight (flow matching, Lipman et al. 2023): the factors themselves add up to 1.
///
/// Two levels with the same ratio noise/signal hold the same image at different scales.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct NoiseLevel {
    /// The timestep that the network receives, whole or fractional.
    pub timestep: f64,
    /// The factor of x₀, in [0, 1].
    pub signal: f64,
    /// The factor of ε, at least 0.
    pub noise: f64,
}

impl NoiseLevel {
    /// The level of the data itself, without noise.
    pub const CLEAN: Self = Self { timestep: 0.0, signal: 1.0, noise: 0.0 };

    /// The level with the factors √ᾱ and √(1 − ᾱ) (Ho et al. 2020, eq. 4).
    pub fn variance_preserving(timestep: f64, alpha_cumprod: f64) -> Self {
        Self { timestep, signal: alpha_cumprod.sqrt(), noise: (1.0 - alpha_cumprod).sqrt() }
    }

    /// The level with the factors 1 and σ (Karras et al. 2022).
    pub fn variance_exploding(timestep: f64, sigma: f64) -> Self {
        Self { timestep, signal: 1.0, noise: sigma }
    }

    /// The level with the factors 1 and σ, for a network that receives ¼·ln σ in place of a
    /// timestep (Karras et al. 2022, table 1). `sigma` must be above 0.
    pub fn edm(sigma: f64) -> Self {
        Self::variance_exploding(edm_noise_conditioning(sigma.ln()), sigma)
    }

    /// The level with the factors 1 − s and s, for s in [0, 1] (Lipman et al. 2023).
    pub fn flow(timestep: f64, s: f64) -> Self {
        Self { timestep, signal: 1.0 - s, noise: s }
    }

    /// σ = noise/signal; infinite if there is no signal.
    pub fn sigma(&self) -> f64 {
        self.noise / self.signal
    }

    /// λ = ln(signal/noise), half the logarithm of the signal-to-noise ratio. Infinite if there is
    /// no noise or no signal.
    pub fn lambda(&self) -> f64 {
        (self.signal / self.noise).ln()
    }

    /// ᾱ, the share of the signal in the variance: signal²/(signal² + noise²).
    pub fn alpha_cumprod(&self) -> f64 {
        let signal = self.signal * self.signal;
        signal / (signal + self.noise * self.noise)
    }

    /// Whether there is no noise.
    pub fn is_clean(&self) -> bool {
        self.noise == 0.0
    }

    /// The level of the same image multiplied by `factor`.
    #[must_use]
    pub fn scaled(&self, factor: f64) -> Self {
        Self { timestep: self.timestep, signal: self.signal * factor, noise: self.noise * factor }
    }

    /// The factor that brings the image to the variance-preserving scale: variance 1, if the data
    /// have variance 1.
    pub fn to_variance_preserving(&self) -> f64 {
        1.0 / self.signal.hypot(self.noise)
    }
}

/// c_noise = ¼·ln σ, which a preconditioned network receives in place of a timestep (Karras et al.
/// 2022, table 1).
pub fn edm_noise_conditioning(log_sigma: f64) -> f64 {
    log_sigma / 4.0
}
