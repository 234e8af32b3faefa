//! The process that a model is trained on: what its network sees, and what it should say.

use candle_core::cpu::erf::{erf_f64, erf_inv};
use candle_core::{Result, Tensor};
use diffusion_process::{
    Levels, Network, NetworkDenoiser, NoiseLevel, Parametrisation, PredictionType, per_image,
};
use diffusion_sample::SamplerKind;
use diffusion_schedule::{
    KARRAS_RHO, KARRAS_SIGMAS, NoiseSchedule, SamplingPlan, ScheduleConfig, ScheduleError,
    SigmaSpacing, TimestepSpacing, edm_noise_conditioning,
};
use serde::{Deserialize, Serialize};
use thiserror::Error;

/// Preconditioned training at log-normal noise levels (Karras et al. 2022, table 1, last column).
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct EdmConfig {
    /// The data's standard deviation, above 0.
    pub sigma_data: f64,
    /// The mean of ln σ.
    pub p_mean: f64,
    /// The standard deviation of ln σ, above 0.
    pub p_std: f64,
}

impl Default for EdmConfig {
    fn default() -> Self {
        Self { sigma_data: 0.5, p_mean: -1.2, p_std: 1.2 }
    }
}

impl EdmConfig {
    /// The first number with which there is no preconditioning or no level, if any: its name in a configuration, its value,
    /// and what would be right.
    pub fn problem(&self) -> Option<(&'static str, f64, &'static str)> {
        let positive = |value: f64| value > 0.0 && value.is_finite();
        if !positive(self.sigma_data) {
            return Some(("edm.sigma_data", self.sigma_data, "it must be a number above 0"));
        }
        if !(-MAX_LOG_SIGMA..=MAX_LOG_SIGMA).contains(&self.p_mean) {
            return Some(("edm.p_mean", self.p_mean, "it must lie between -10 and 10"));
        }
        if !(self.p_std > 0.0 && self.p_std <= MAX_LOG_SIGMA) {
            return Some(("edm.p_std", self.p_std, "it must be above 0 and at most 10"));
        }
        None
    }
}

/// A mean or deviation of ln σ beyond this leads out of the float type.
const MAX_LOG_SIGMA: f64 = 10.0;

/// What flow networks are told is 1000·s, so that the time embedding sees the range that it has in diffusion.
const FLOW_TIME_SCALE: f64 = 1000.0;

/// Shares this close to 0 and 1 stand for the ends of a distribution without ends: 7 standard deviations.
const LEAST_SHARE: f64 = 1e-12;

/// The way from data to noise that a model knows, and the meaning of its output.
#[derive(Clone, Debug, PartialEq)]
pub enum Objective {
    /// The discrete steps of a schedule (Ho et al. 2020).
    Diffusion {
        /// The schedule.
        schedule: NoiseSchedule,
        /// ε, x₀ or v.
        prediction_type: PredictionType,
    },
    /// The straight path x = (1 − s)·x₀ + s·ε with s uniform in [0, 1); the network says u = ε − x₀ and is told 1000·s
    /// (Lipman et al. 2023).
    Flow,
    /// x = x₀ + σ·ε with ln σ normal; the network sees c_in·x, is told ln(σ)/4, and its output is brought to
    /// D = c_skip·x + c_out·F (Karras et al. 2022).
    Edm(EdmConfig),
}

/// Noisy images, and what a network makes of them where it is perfect.
#[derive(Clone, Debug)]
pub struct NoisyBatch {
    /// x₀ (N, C, H, W).
    pub x0: Tensor,
    /// The noisy images (N, C, H, W).
    pub x_t: Tensor,
    /// Where each image is: N of them.
    pub levels: Vec<NoiseLevel>,
    /// What the network sees (N, C, H, W).
    pub input: Tensor,
    /// What it is told (N).
    pub timesteps: Tensor,
    /// What it should say (N, C, H, W).
    pub target: Tensor,
}

impl Objective {
    /// Edm if `edm` is given, Flow if the prediction type says so, and else a diffusion along `schedule`.
    ///
    /// # Errors
    /// A schedule that cannot be built, where it is used.
    pub fn new(
        schedule: &ScheduleConfig,
        prediction_type: PredictionType,
        edm: Option<EdmConfig>,
    ) -> std::result::Result<Self, ScheduleError> {
        match (edm, prediction_type) {
            (Some(edm), _) => Ok(Self::Edm(edm)),
            (None, PredictionType::Flow) => Ok(Self::Flow),
            (None, _) => Ok(Self::Diffusion { schedule: schedule.build()?, prediction_type }),
        }
    }

    /// The name of the process, for people.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Diffusion { .. } => "diffusion",
            Self::Flow => "flow",
            Self::Edm(_) => "edm",
        }
    }

    /// The schedule, where there is one.
    pub fn schedule(&self) -> Option<&NoiseSchedule> {
        match self {
            Self::Diffusion { schedule, .. } => Some(schedule),
            Self::Flow | Self::Edm(_) => None,
        }
    }

    /// The level below which the share `share`, in [0, 1), of the levels of training lie.
    pub fn level_at(&self, share: f64) -> NoiseLevel {
        match self {
            Self::Diffusion { schedule, .. } => {
                let index = (share * schedule.len() as f64) as usize;
                schedule.level(index.min(schedule.len() - 1))
            }
            Self::Flow => NoiseLevel::flow(FLOW_TIME_SCALE * share, share),
            Self::Edm(edm) => {
                let share = share.clamp(LEAST_SHARE, 1.0 - LEAST_SHARE);
                let normal = std::f64::consts::SQRT_2 * erf_inv(2.0 * share - 1.0);
                let log_sigma = edm.p_mean + edm.p_std * normal;
                NoiseLevel::variance_exploding(edm_noise_conditioning(log_sigma), log_sigma.exp())
            }
        }
    }

    /// The inverse of [`level_at`](Self::level_at): which share of the levels of training lie below `level`.
    pub fn share_below(&self, level: &NoiseLevel) -> f64 {
        match self {
            Self::Diffusion { schedule, .. } => level.timestep / schedule.len() as f64,
            Self::Flow => level.noise,
            Self::Edm(edm) => {
                let normal = (level.sigma().ln() - edm.p_mean) / edm.p_std;
                f64::midpoint(1.0, erf_f64(normal / std::f64::consts::SQRT_2))
            }
        }
    }

    /// `x0` (N, C, H, W) with `noise` of the same shape on it, each image at its level.
    ///
    /// # Errors
    /// Shapes that differ; a number of levels other than N.
    pub fn noisy_batch(
        &self,
        x0: &Tensor,
        noise: &Tensor,
        levels: &[NoiseLevel],
    ) -> Result<NoisyBatch> {
        let factors = Levels::new(levels, x0)?;
        let x_t = factors.add_noise(x0, noise)?;
        let timesteps =
            Tensor::from_iter(levels.iter().map(|level| level.timestep as f32), x0.device())?;
        let parametrisation = self.parametrisation();
        let c_in: Vec<f64> =
            levels.iter().map(|level| parametrisation.preconditioning(level).c_in).collect();
        let input = if c_in.iter().all(|c_in| *c_in == 1.0) {
            x_t.clone()
        } else {
            x_t.broadcast_mul(&per_image(c_in, x0)?)?
        };
        let target = parametrisation.target(x0, noise, &factors)?;
        Ok(NoisyBatch { x0: x0.clone(), x_t, levels: levels.to_vec(), input, timesteps, target })
    }

    /// What the network's output means.
    pub fn parametrisation(&self) -> Parametrisation {
        match self {
            Self::Diffusion { prediction_type, .. } => (*prediction_type).into(),
            Self::Flow => Parametrisation::Flow,
            Self::Edm(edm) => Parametrisation::Edm { sigma_data: edm.sigma_data },
        }
    }

    /// A network that was trained so, as samplers see it.
    pub fn denoiser<N: Network>(&self, network: N) -> NetworkDenoiser<N> {
        NetworkDenoiser::new(network, self.parametrisation())
    }

    /// Refuses a sampler that does not suit the process.
    ///
    /// # Errors
    /// A sampler of flows for another process; DDPM where there is no schedule.
    pub fn check_sampler(&self, sampler: SamplerKind) -> std::result::Result<(), SamplerError> {
        let (name, process) = (sampler.name(), self.name());
        if sampler.follows_flow() && !matches!(self, Self::Flow) {
            return Err(SamplerError::NeedsFlow { name, process });
        }
        if sampler == SamplerKind::Ddpm && self.schedule().is_none() {
            return Err(SamplerError::NeedsSchedule {
                name,
                process,
                own: self.sampler(false).name(),
            });
        }
        Ok(())
    }

    /// The sampler for those who name none. A diffusion's is stochastic, since fresh noise mends what a network of a short training got
    /// wrong (docs/recipe.md has the figures), or DDPM, which alone uses it, where a variance was learned; the others' is that of their
    /// paper.
    pub fn sampler(&self, learned_variance: bool) -> SamplerKind {
        match self {
            Self::Diffusion { .. } if learned_variance => SamplerKind::Ddpm,
            Self::Diffusion { .. } => SamplerKind::DpmSolver2mSde,
            Self::Flow => SamplerKind::FlowHeun,
            Self::Edm(_) => SamplerKind::Heun,
        }
    }

    /// Sampling steps for those who name none: all of the schedule's for DDPM, which was made so, and else what suits a second-order
    /// method.
    pub fn default_steps(&self, sampler: SamplerKind) -> usize {
        match self {
            Self::Diffusion { schedule, .. } if sampler == SamplerKind::Ddpm => schedule.len(),
            Self::Diffusion { schedule, .. } => schedule.len().min(20),
            Self::Flow => 25,
            Self::Edm(_) => 18,
        }
    }

    /// A plan of `steps` steps as they are laid out where nobody says how: trailing, at the noise levels of the timesteps.
    ///
    /// # Errors
    /// No steps, or more than a schedule has.
    pub fn usual_plan(&self, steps: usize) -> std::result::Result<SamplingPlan, ScheduleError> {
        self.plan(steps, TimestepSpacing::Trailing, SigmaSpacing::Timesteps)
    }

    /// A plan of `steps` steps on the way that the model knows. `spacing` and `sigmas` lay them over the steps of a
    /// schedule; flows go evenly in s, and EDM as its paper has it, from σ = 80 to 0.002 with ρ = 7.
    ///
    /// # Errors
    /// No steps, or more than a schedule has.
    pub fn plan(
        &self,
        steps: usize,
        spacing: TimestepSpacing,
        sigmas: SigmaSpacing,
    ) -> std::result::Result<SamplingPlan, ScheduleError> {
        match self {
            Self::Diffusion { schedule, .. } => SamplingPlan::new(schedule, steps, spacing, sigmas),
            Self::Flow => SamplingPlan::flow(steps, FLOW_TIME_SCALE),
            Self::Edm(_) => {
                SamplingPlan::edm(steps, KARRAS_SIGMAS[0], KARRAS_SIGMAS[1], KARRAS_RHO)
            }
        }
    }
}

/// Why a sampler does not suit a model.
#[derive(Debug, Error)]
pub enum SamplerError {
    /// It follows the straight path of flow matching.
    #[error("{name} follows the path of a flow; this model is one of {process}")]
    NeedsFlow {
        /// The sampler.
        name: &'static str,
        /// The model's process.
        process: &'static str,
    },
    /// It needs the steps of a schedule.
    #[error("{name} needs a schedule; this model is one of {process}: use {own}")]
    NeedsSchedule {
        /// The sampler.
        name: &'static str,
        /// The model's process.
        process: &'static str,
        /// The sampler that suits the process.
        own: &'static str,
    },
}
