//! The training process of a model: its noise levels, the input of the network and its target.

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

/// EDM: preconditioned training at log-normal noise levels (Karras et al. 2022, table 1, last
/// column).
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct EdmConfig {
    /// The standard deviation of the data, above 0. Default: 0.5.
    pub sigma_data: f64,
    /// The mean of ln σ, between −10 and 10. Default: −1.2.
    pub p_mean: f64,
    /// The standard deviation of ln σ, above 0 and at most 10. Default: 1.2.
    pub p_std: f64,
}

impl Default for EdmConfig {
    fn default() -> Self {
        Self { sigma_data: 0.5, p_mean: -1.2, p_std: 1.2 }
    }
}

impl EdmConfig {
    /// The first invalid value, if any: its configuration key, the value, and what would be valid.
    pub fn problem(&self) -> Option<(&'static str, f64, &'static str)> {
        let positive = |value: f64| value > 0.0 && value.is_finite();
        if !positive(self.sigma_data) {
            return Some(("edm.sigma_data", self.sigma_data, "it must be a number above 0"));
        }
        if !(-MAX_LOG_SIGMA..=MAX_LOG_SIGMA).contains(&self.p_mean) {
            return Some(("edm.p_mean", self.p_mean, "it must be between -10 and 10"));
        }
        if !(self.p_std > 0.0 && self.p_std <= MAX_LOG_SIGMA) {
            return Some(("edm.p_std", self.p_std, "it must be above 0 and at most 10"));
        }
        None
    }
}

/// Limit for the mean and deviation of ln σ. Beyond it, σ can leave the range of the float type.
const MAX_LOG_SIGMA: f64 = 10.0;

/// Flow networks receive 1000·s, so that the time embedding has the same range as in diffusion.
const FLOW_TIME_SCALE: f64 = 1000.0;

/// Shares are clamped to this distance from 0 and 1, because the normal distribution is unbounded.
/// It corresponds to 7 standard deviations.
const MIN_SHARE: f64 = 1e-12;

/// The process that a model was trained on: the path from data to noise, and what the network
/// predicts.
#[derive(Clone, Debug, PartialEq)]
pub enum Objective {
    /// The discrete steps of a schedule (Ho et al. 2020).
    Diffusion {
        /// The schedule.
        schedule: NoiseSchedule,
        /// ε, x₀ or v.
        prediction_type: PredictionType,
    },
    /// Flow matching on the straight path x = (1 − s)·x₀ + s·ε with s uniform in [0, 1). The
    /// network receives 1000·s and predicts u = ε − x₀ (Lipman et al. 2023).
    Flow,
    /// EDM: x = x₀ + σ·ε with ln σ normal. The network receives c_in·x and ln(σ)/4, and its output
    /// F gives D = c_skip·x + c_out·F (Karras et al. 2022).
    Edm(EdmConfig),
}

/// A batch of noisy images, with the network's inputs and target.
#[derive(Clone, Debug)]
pub struct NoisyBatch {
    /// x₀ (N, C, H, W).
    pub x0: Tensor,
    /// The noisy images (N, C, H, W).
    pub x_t: Tensor,
    /// The noise level of each image, N in total.
    pub levels: Vec<NoiseLevel>,
    /// The image input of the network (N, C, H, W).
    pub input: Tensor,
    /// The timestep input of the network (N).
    pub timesteps: Tensor,
    /// The network's target (N, C, H, W).
    pub target: Tensor,
}

impl Objective {
    /// EDM if `edm` is given, flow if `prediction_type` is flow, otherwise diffusion along
    /// `schedule`.
    ///
    /// # Errors
    /// If the schedule is used and invalid.
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

    /// The name of the process in messages.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Diffusion { .. } => "diffusion",
            Self::Flow => "flow",
            Self::Edm(_) => "edm",
        }
    }

    /// The schedule; `None` for flow and EDM.
    pub fn schedule(&self) -> Option<&NoiseSchedule> {
        match self {
            Self::Diffusion { schedule, .. } => Some(schedule),
            Self::Flow | Self::Edm(_) => None,
        }
    }

    /// The noise level at the quantile `share`, in [0, 1), of the levels in training.
    pub fn level_at(&self, share: f64) -> NoiseLevel {
        match self {
            Self::Diffusion { schedule, .. } => {
                let index = (share * schedule.len() as f64) as usize;
                schedule.level(index.min(schedule.len() - 1))
            }
            Self::Flow => NoiseLevel::flow(FLOW_TIME_SCALE * share, share),
            Self::Edm(edm) => {
                let share = share.clamp(MIN_SHARE, 1.0 - MIN_SHARE);
                let normal = std::f64::consts::SQRT_2 * erf_inv(2.0 * share - 1.0);
                let log_sigma = edm.p_mean + edm.p_std * normal;
                NoiseLevel::variance_exploding(edm_noise_conditioning(log_sigma), log_sigma.exp())
            }
        }
    }

    /// The inverse of [`level_at`](Self::level_at): the share of the levels in training that are
    /// below `level`.
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

    /// Adds `noise` to `x0`, both (N, C, H, W), each image at its level.
    ///
    /// # Errors
    /// If the shapes differ, or if the number of levels is not N.
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

    /// The parametrisation of the network's output.
    pub fn parametrisation(&self) -> Parametrisation {
        match self {
            Self::Diffusion { prediction_type, .. } => (*prediction_type).into(),
            Self::Flow => Parametrisation::Flow,
            Self::Edm(edm) => Parametrisation::Edm { sigma_data: edm.sigma_data },
        }
    }

    /// Wraps a network of this process as a denoiser for samplers.
    pub fn denoiser<N: Network>(&self, network: N) -> NetworkDenoiser<N> {
        NetworkDenoiser::new(network, self.parametrisation())
    }

    /// Checks that a sampler suits the process.
    ///
    /// # Errors
    /// If a flow sampler is used for another process, or DDPM for a process without a schedule.
    pub fn check_sampler(&self, sampler: SamplerKind) -> std::result::Result<(), SamplerError> {
        let (name, process) = (sampler.name(), self.name());
        if sampler.follows_flow() && !matches!(self, Self::Flow) {
            return Err(SamplerError::NeedsFlow { name, process });
        }
        if sampler == SamplerKind::Ddpm && self.schedule().is_none() {
            return Err(SamplerError::NeedsSchedule {
                name,
                process,
                suggested: self.default_sampler(false).name(),
            });
        }
        Ok(())
    }

    /// The default sampler. For diffusion it is stochastic, because new noise corrects the errors
    /// of a briefly trained network (figures: docs/recipe.md). With a learned variance it is DDPM,
    /// the only sampler that uses the variance. Flow and EDM use the sampler of their paper.
    pub fn default_sampler(&self, learned_variance: bool) -> SamplerKind {
        match self {
            Self::Diffusion { .. } if learned_variance => SamplerKind::Ddpm,
            Self::Diffusion { .. } => SamplerKind::DpmSolver2mSde,
            Self::Flow => SamplerKind::FlowHeun,
            Self::Edm(_) => SamplerKind::Heun,
        }
    }

    /// The default number of steps: all of the schedule's for DDPM, otherwise a number that suits a
    /// second-order method.
    pub fn default_steps(&self, sampler: SamplerKind) -> usize {
        match self {
            Self::Diffusion { schedule, .. } if sampler == SamplerKind::Ddpm => schedule.len(),
            Self::Diffusion { schedule, .. } => schedule.len().min(20),
            Self::Flow => 25,
            Self::Edm(_) => 18,
        }
    }

    /// The default plan with `steps` steps: trailing spacing, at the noise levels of the timesteps.
    ///
    /// # Errors
    /// If `steps` is 0 or above that of the schedule.
    pub fn default_plan(&self, steps: usize) -> std::result::Result<SamplingPlan, ScheduleError> {
        self.plan(steps, TimestepSpacing::Trailing, SigmaSpacing::Timesteps)
    }

    /// A plan of `steps` steps. `spacing` and `sigmas` distribute them over the steps of a
    /// schedule. Flow plans are evenly spaced in s. EDM plans go from σ = 80 to 0.002 with ρ = 7,
    /// as in the paper.
    ///
    /// # Errors
    /// If `steps` is 0 or above that of the schedule.
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

/// The kind of a model with this process, with its article.
fn model_kind(process: &str) -> &'static str {
    match process {
        "flow" => "a flow model",
        "edm" => "an EDM model",
        _ => "a diffusion model",
    }
}

/// Why a sampler does not suit a model.
#[derive(Debug, Error)]
pub enum SamplerError {
    /// The sampler needs the straight path of flow matching.
    #[error("{name} needs a flow model; this is {}", model_kind(process))]
    NeedsFlow {
        /// The name of the sampler.
        name: &'static str,
        /// The name of the model's process.
        process: &'static str,
    },
    /// The sampler needs the steps of a schedule.
    #[error("{name} needs a schedule; this is {}: use {suggested}", model_kind(process))]
    NeedsSchedule {
        /// The name of the sampler.
        name: &'static str,
        /// The name of the model's process.
        process: &'static str,
        /// The name of a sampler that suits the process.
        suggested: &'static str,
    },
}
