//! The settings in a `scheduler_config.json`.

use diffusion_process::PredictionType;
use diffusion_schedule::{BetaSchedule, TimestepSpacing};
use serde::{Deserialize, Serialize};

/// The supported schedulers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SchedulerClass {
    /// `DDPMScheduler`.
    Ddpm,
    /// `DDIMScheduler`.
    Ddim,
    /// `DPMSolverMultistepScheduler`.
    DpmSolverMultistep,
    /// `EulerDiscreteScheduler`.
    Euler,
    /// `EulerAncestralDiscreteScheduler`.
    EulerAncestral,
    /// `HeunDiscreteScheduler`.
    Heun,
    /// `UniPCMultistepScheduler`.
    UniPc,
    /// `LMSDiscreteScheduler`.
    Lms,
    /// `PNDMScheduler`.
    Pndm,
    /// `EDMEulerScheduler`.
    EdmEuler,
    /// `EDMDPMSolverMultistepScheduler`.
    EdmDpmSolverMultistep,
}

impl SchedulerClass {
    const ALL: [Self; 11] = [
        Self::Ddpm,
        Self::Ddim,
        Self::DpmSolverMultistep,
        Self::Euler,
        Self::EulerAncestral,
        Self::Heun,
        Self::UniPc,
        Self::Lms,
        Self::Pndm,
        Self::EdmEuler,
        Self::EdmDpmSolverMultistep,
    ];

    /// The class's name in Python.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ddpm => "DDPMScheduler",
            Self::Ddim => "DDIMScheduler",
            Self::DpmSolverMultistep => "DPMSolverMultistepScheduler",
            Self::Euler => "EulerDiscreteScheduler",
            Self::EulerAncestral => "EulerAncestralDiscreteScheduler",
            Self::Heun => "HeunDiscreteScheduler",
            Self::UniPc => "UniPCMultistepScheduler",
            Self::Lms => "LMSDiscreteScheduler",
            Self::Pndm => "PNDMScheduler",
            Self::EdmEuler => "EDMEulerScheduler",
            Self::EdmDpmSolverMultistep => "EDMDPMSolverMultistepScheduler",
        }
    }

    /// The class with this name in Python; `None` if it is not supported.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|class| class.name() == name)
    }

    pub(crate) fn names() -> String {
        Self::ALL.map(Self::name).join(", ")
    }

    /// Whether it is a scheduler of Karras et al. 2022. These have noise levels σ and no timesteps.
    pub(crate) fn is_edm(self) -> bool {
        matches!(self, Self::EdmEuler | Self::EdmDpmSolverMultistep)
    }
}

/// The settings of all schedulers, under their names in `diffusers`. A missing setting has the
/// default of its class.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[allow(missing_docs, clippy::struct_excessive_bools)] // Documented in diffusers.
pub struct SchedulerConfig {
    #[serde(rename = "_class_name", skip_serializing_if = "Option::is_none")]
    pub class_name: Option<String>,
    #[serde(rename = "_diffusers_version", skip_serializing_if = "Option::is_none")]
    pub diffusers_version: Option<String>,
    pub num_train_timesteps: Option<usize>,
    pub beta_start: Option<f64>,
    pub beta_end: Option<f64>,
    pub beta_schedule: Option<BetaSchedule>,
    pub trained_betas: Option<Vec<f64>>,
    pub prediction_type: Option<PredictionType>,
    pub timestep_spacing: Option<TimestepSpacing>,
    pub steps_offset: Option<usize>,
    pub rescale_betas_zero_snr: bool,
    pub clip_sample: Option<bool>,
    pub clip_sample_range: Option<f64>,
    pub thresholding: bool,
    pub dynamic_thresholding_ratio: Option<f64>,
    pub sample_max_value: Option<f64>,
    pub variance_type: Option<String>,
    pub set_alpha_to_one: Option<bool>,
    pub skip_prk_steps: Option<bool>,
    pub solver_order: Option<usize>,
    pub algorithm_type: Option<String>,
    pub solver_type: Option<String>,
    pub lower_order_final: Option<bool>,
    pub euler_at_final: Option<bool>,
    pub final_sigmas_type: Option<String>,
    pub lambda_min_clipped: Option<f64>,
    pub predict_x0: Option<bool>,
    pub disable_corrector: Option<Vec<usize>>,
    pub solver_p: Option<serde_json::Value>,
    pub use_karras_sigmas: Option<bool>,
    pub use_exponential_sigmas: Option<bool>,
    pub use_beta_sigmas: Option<bool>,
    pub use_lu_lambdas: Option<bool>,
    pub use_flow_sigmas: Option<bool>,
    pub flow_shift: Option<f64>,
    pub use_dynamic_shifting: Option<bool>,
    pub time_shift_type: Option<String>,
    pub shift_terminal: Option<f64>,
    pub interpolation_type: Option<String>,
    pub timestep_type: Option<String>,
    pub sigma_min: Option<f64>,
    pub sigma_max: Option<f64>,
    pub sigma_data: Option<f64>,
    pub sigma_schedule: Option<String>,
    pub rho: Option<f64>,
}
