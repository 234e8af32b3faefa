//! The settings in a `scheduler_config.json`.

use diffusion_process::PredictionType;
use diffusion_schedule::{BetaSchedule, TimestepSpacing};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::folder::python_number;

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

    /// The settings that the class has in `diffusers`, which ignores all others. A scheduler that
    /// was made from the settings of another class contains those too.
    pub(crate) fn settings(self) -> Vec<&'static str> {
        const SCHEDULE: [&str; 8] = [
            "num_train_timesteps",
            "beta_start",
            "beta_end",
            "beta_schedule",
            "trained_betas",
            "prediction_type",
            "timestep_spacing",
            "steps_offset",
        ];
        const SIGMAS: [&str; 3] =
            ["use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas"];
        // Not settings of all these classes, but read where another class has left them.
        const LIMITS: [&str; 2] = ["sigma_min", "sigma_max"];
        const THRESHOLD: [&str; 3] =
            ["thresholding", "dynamic_thresholding_ratio", "sample_max_value"];
        const MULTISTEP: [&str; 4] =
            ["solver_order", "solver_type", "lower_order_final", "final_sigmas_type"];
        const SOLVER: [&str; 3] = ["algorithm_type", "euler_at_final", "lambda_min_clipped"];
        const FLOW: [&str; 4] =
            ["use_flow_sigmas", "flow_shift", "use_dynamic_shifting", "time_shift_type"];
        const CLIP: [&str; 2] = ["clip_sample", "clip_sample_range"];
        const ZERO_SNR: &str = "rescale_betas_zero_snr";
        const EDM: [&str; 8] = [
            "sigma_min",
            "sigma_max",
            "sigma_data",
            "sigma_schedule",
            "num_train_timesteps",
            "prediction_type",
            "rho",
            "final_sigmas_type",
        ];
        let lists: &[&[&str]] = match self {
            Self::Ddpm => &[&SCHEDULE, &CLIP, &THRESHOLD, &["variance_type", ZERO_SNR]],
            Self::Ddim => &[&SCHEDULE, &CLIP, &THRESHOLD, &["set_alpha_to_one", ZERO_SNR]],
            Self::DpmSolverMultistep => &[
                &SCHEDULE,
                &SIGMAS,
                &LIMITS,
                &THRESHOLD,
                &MULTISTEP,
                &SOLVER,
                &FLOW,
                &["use_lu_lambdas", "variance_type", ZERO_SNR],
            ],
            Self::Euler => &[
                &SCHEDULE,
                &SIGMAS,
                &LIMITS,
                &["interpolation_type", "timestep_type", "final_sigmas_type", ZERO_SNR],
            ],
            Self::EulerAncestral => &[&SCHEDULE, &[ZERO_SNR]],
            Self::Heun => &[&SCHEDULE, &SIGMAS, &LIMITS, &CLIP],
            Self::UniPc => &[
                &SCHEDULE,
                &SIGMAS,
                &LIMITS,
                &THRESHOLD,
                &MULTISTEP,
                &FLOW,
                &["predict_x0", "disable_corrector", "solver_p", "shift_terminal", ZERO_SNR],
            ],
            Self::Lms => &[&SCHEDULE, &SIGMAS, &LIMITS],
            Self::Pndm => &[&SCHEDULE, &["skip_prk_steps", "set_alpha_to_one"]],
            Self::EdmEuler => &[&EDM],
            Self::EdmDpmSolverMultistep => {
                &[&EDM, &THRESHOLD, &MULTISTEP, &["algorithm_type", "euler_at_final"]]
            }
        };
        lists.concat()
    }

    /// The pipeline of unconditional models with this scheduler.
    pub fn pipeline(self) -> &'static str {
        match self {
            Self::Ddim => "DDIMPipeline",
            Self::Pndm => "PNDMPipeline",
            _ => "DDPMPipeline",
        }
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

impl SchedulerConfig {
    /// The settings in the fields of a file. Settings of old versions of diffusers are translated.
    ///
    /// # Errors
    /// If a key is unknown or its value has the wrong type; the message names the key.
    pub(crate) fn from_fields(mut fields: Map<String, Value>) -> Result<Self, String> {
        translate(&mut fields);
        let Ok(Value::Object(known)) = serde_json::to_value(Self::complete()) else {
            return Err("the settings cannot be listed".to_owned());
        };
        for (key, value) in &fields {
            if !known.contains_key(key) {
                let distance = |other: &&String| strsim::levenshtein(key, other);
                let nearest = known.keys().min_by_key(distance).map_or("", String::as_str);
                return Err(format!(
                    "unknown field `{key}`; the most similar setting is `{nearest}`"
                ));
            }
            if let Some(number) = python_number(value) {
                return Err(format!("`{key}` is {number}; it must be a finite number"));
            }
            // Each key alone, so that the message can name it.
            serde_json::from_value::<Self>(json!({ key: value }))
                .map_err(|e| format!("`{key}`: {e}"))?;
        }
        serde_json::from_value(fields.into()).map_err(|e| e.to_string())
    }

    /// The settings that `class` has; the others have their defaults.
    pub(crate) fn of_class(&self, class: SchedulerClass) -> Self {
        let known = class.settings();
        let Ok(Value::Object(mut fields)) = serde_json::to_value(self) else { return self.clone() };
        fields.retain(|key, value| {
            (key.starts_with('_') || known.contains(&key.as_str())) && !value.is_null()
        });
        // A setting that JSON cannot hold, such as −∞, is one that was not limited.
        serde_json::from_value(fields.into()).unwrap_or_else(|_| self.clone())
    }

    /// Settings of which none is left out in a file.
    fn complete() -> Self {
        let name = || Some(String::new());
        Self { class_name: name(), diffusers_version: name(), ..Self::default() }
    }
}

/// Replaces the settings of old versions of diffusers, and removes what is not a setting.
fn translate(fields: &mut Map<String, Value>) {
    // Predictions before 0.11 were ε or x₀.
    let predicts_noise = fields.remove("predict_epsilon");
    if let Some(Value::Bool(noise)) = predicts_noise {
        let prediction = if noise { "epsilon" } else { "sample" };
        fields.entry("prediction_type").or_insert(prediction.into());
    }
    // The library of the tensors, a table that was always empty, and notes such as
    // `_use_default_values`.
    let is_obsolete = |key: &str| ["tensor_format", "timestep_values"].contains(&key);
    let is_note = |key: &str| key.starts_with('_') && key != "_class_name";
    fields.retain(|key, value| {
        let is_unlimited = key == "lambda_min_clipped" && python_number(value) == Some("-Infinity");
        !(value.is_null() || is_obsolete(key) || is_note(key) || is_unlimited)
    });
}
