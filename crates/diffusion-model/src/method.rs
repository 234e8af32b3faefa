//! Sampling methods from outside of this project.

use std::error::Error;
use std::fmt;

use diffusion_process::Threshold;
use diffusion_sample::Sampler;
use diffusion_schedule::SamplingPlan;

/// A sampling method that makes its own plan, such as a scheduler of `diffusers`. A model that came
/// with one is sampled by it, unless another sampler is chosen.
pub trait SamplingMethod: fmt::Debug + Send + Sync {
    /// The name for display.
    fn name(&self) -> &str;

    /// The default number of steps.
    fn default_steps(&self) -> usize;

    /// The plan of `steps` steps.
    ///
    /// # Errors
    /// If the method does not have that many steps.
    fn plan(&self, steps: usize) -> Result<SamplingPlan, Box<dyn Error + Send + Sync>>;

    /// A sampler for one batch.
    fn sampler(&self) -> Box<dyn Sampler>;

    /// How x̂₀ is kept in range in each step, and whether ε̂ stays unchanged by it. `None`: it is
    /// not.
    fn threshold(&self) -> Option<(Threshold, bool)>;

    /// The factor of noise of variance 1 at the start of `plan`.
    fn initial_scale(&self, plan: &SamplingPlan) -> f64;
}
