//! Validation of a configuration before training.

use std::fmt::Display;

use diffusion_model::Objective;
use diffusion_process::PredictionType;
use diffusion_sample::VarianceType;

use super::{ConfigError, LrDecay, TrainConfig};
use crate::{LossWeighting, PixelError, TimestepSampling};

/// The largest number of saved averages: each takes as much space as the weights.
const MAX_AVERAGES: u64 = 100;

impl TrainConfig {
    /// Checks the ranges of all fields except the network's, which are checked when it is built.
    ///
    /// # Errors
    /// If a field is invalid. The error names the first one, its value and the valid values.
    pub fn validate(&self) -> Result<(), ConfigError> {
        let field = |field, value: String, expected: &str, ok: bool| {
            if ok {
                Ok(())
            } else {
                Err(ConfigError::Field { field, value, expected: expected.to_owned() })
            }
        };
        let at_least_1 =
            |name, value: u64| field(name, value.to_string(), "it must be at least 1", value >= 1);
        let positive = |name, value: f64| {
            field(
                name,
                value.to_string(),
                "it must be a number above 0",
                value > 0.0 && value.is_finite(),
            )
        };
        let fraction = |name, value: f64| {
            let ok = (0.0..1.0).contains(&value);
            field(name, value.to_string(), "it must be at least 0 and below 1", ok)
        };
        at_least_1("size", self.size.unwrap_or(1) as u64)?;
        if let Some((name, value, expected)) = self.pictures.problem() {
            field(name, value, expected, false)?;
        }
        at_least_1("steps", self.steps.unwrap_or(1))?;
        at_least_1("epochs", self.epochs.unwrap_or(1))?;
        positive("max_minutes", self.max_minutes.unwrap_or(1.0))?;
        field(
            "none of steps, epochs and max_minutes",
            "set".to_owned(),
            "the training needs at least one of them to end",
            self.steps.is_some() || self.epochs.is_some() || self.max_minutes.is_some(),
        )?;
        field(
            "seed",
            self.seed.to_string(),
            "it must be below 2^63, the largest whole number of a TOML file",
            i64::try_from(self.seed).is_ok(),
        )?;
        at_least_1("batch_size", self.batch_size as u64)?;
        at_least_1("accumulate", self.accumulate as u64)?;
        field(
            "accumulate",
            self.accumulate.to_string(),
            &format!("it must divide batch_size, which is {}", self.batch_size),
            self.batch_size.is_multiple_of(self.accumulate),
        )?;
        at_least_1("parallel_parts", self.parallel_parts as u64)?;
        positive("clip_grad_norm", self.clip_grad_norm.unwrap_or(1.0))?;
        positive("optimizer.lr", self.optimizer.lr)?;
        fraction("optimizer.beta1", self.optimizer.beta1)?;
        fraction("optimizer.beta2", self.optimizer.beta2)?;
        positive("optimizer.eps", self.optimizer.eps)?;
        let decay = self.optimizer.weight_decay;
        field(
            "optimizer.weight_decay",
            decay.to_string(),
            "it must be a number of at least 0",
            decay >= 0.0 && decay.is_finite(),
        )?;
        fraction("class_dropout", self.class_dropout)?;
        fraction("ema.decay", self.ema.decay)?;
        fraction("ema.min_decay", self.ema.min_decay)?;
        positive("ema.inv_gamma", self.ema.inv_gamma)?;
        positive("ema.power", self.ema.power)?;
        at_least_1("checkpoint.every", self.checkpoint.every)?;
        at_least_1("checkpoint.keep", self.checkpoint.keep as u64)?;
        let at_most = |name, value: u64, most: u64| {
            field(name, value.to_string(), &format!("it must be at most {most}"), value <= most)
        };
        at_most("checkpoint.averages", self.checkpoint.averages as u64, MAX_AVERAGES)?;
        at_least_1("sample_grid.steps", self.sample_grid.steps.unwrap_or(1) as u64)?;
        at_most("sample_grid.num", self.sample_grid.num, 4096)?;
        field(
            "ema.min_decay",
            self.ema.min_decay.to_string(),
            &format!("it must not exceed ema.decay, which is {}", self.ema.decay),
            self.ema.min_decay <= self.ema.decay,
        )?;
        match self.lr_schedule.decay {
            LrDecay::CosineWithRestarts { num_cycles } => {
                at_least_1("lr_schedule.decay.num_cycles", num_cycles.into())?;
            }
            LrDecay::Polynomial { power, lr_end } => {
                positive("lr_schedule.decay.power", power)?;
                let ok = (0.0..=self.optimizer.lr).contains(&lr_end);
                let expected = "it must be from 0 to optimizer.lr";
                field("lr_schedule.decay.lr_end", lr_end.to_string(), expected, ok)?;
            }
            LrDecay::ConstantThenLinear { share } => {
                let ok = share > 0.0 && share <= 1.0;
                let expected = "it must be above 0 and at most 1";
                field("lr_schedule.decay.share", share.to_string(), expected, ok)?;
            }
            LrDecay::Constant | LrDecay::Linear | LrDecay::Cosine => {}
        }
        self.validate_objective()
    }

    /// Checks the objective, the loss, the noise levels and the guidance, and whether they fit
    /// together.
    fn validate_objective(&self) -> Result<(), ConfigError> {
        let objective = self.objective()?;
        let positive = |field, value: f64| {
            require(value > 0.0 && value.is_finite(), field, value, "it must be a number above 0")
        };
        if let Some((field, value, expected)) = self.edm.and_then(|edm| edm.problem()) {
            return require(false, field, value, expected);
        }
        let at_least_0 = self.offset_noise >= 0.0 && self.offset_noise.is_finite();
        require(
            at_least_0,
            "offset_noise",
            self.offset_noise,
            "it must be a number of at least 0",
        )?;
        let scale = self.guidance_scale.unwrap_or(1.0);
        let expected = "it must be a number from -1000 to 1000";
        require((-1000.0..=1000.0).contains(&scale), "guidance_scale", scale, expected)?;
        if let PixelError::Huber { delta } = self.loss.error {
            positive("loss.error.delta", delta)?;
        }
        match self.loss.weighting {
            LossWeighting::None => {}
            LossWeighting::MinSnr { gamma } => positive("loss.weighting.gamma", gamma)?,
            LossWeighting::P2 { k, gamma } => {
                positive("loss.weighting.k", k)?;
                positive("loss.weighting.gamma", gamma)?;
            }
        }
        match objective {
            Objective::Diffusion { schedule, prediction_type } => {
                // ᾱ ends in 0 if the schedule was rescaled to zero terminal SNR.
                let no_signal = prediction_type == PredictionType::Epsilon
                    && schedule.alphas_cumprod().ends_with(&[0.0]);
                let expected = "with schedule.rescale_betas_zero_snr it must be v_prediction or \
                                sample: the last step is pure noise, where epsilon gives no image";
                require(!no_signal, "prediction_type", "epsilon", expected)?;
            }
            Objective::Flow | Objective::Edm(_) => self.validate_without_schedule(&objective)?,
        }
        let range =
            self.sample_grid.variance == VarianceType::LearnedRange && !self.learned_variance;
        let expected = "it must be fixed_small or fixed_large when learned_variance is false";
        require(!range, "sample_grid.variance", "learned_range", expected)
    }

    /// Checks that a model without a noise schedule uses no setting that needs one.
    fn validate_without_schedule(&self, objective: &Objective) -> Result<(), ConfigError> {
        let name = if matches!(objective, Objective::Edm(_)) { "EDM" } else { objective.name() };
        let expected = |valid: &str| format!("{valid}: {name} models have no schedule");
        require(
            self.edm.is_none() || self.prediction_type != PredictionType::Flow,
            "prediction_type",
            "flow_prediction",
            "leave it out or remove [edm]: a model cannot be both a flow and EDM",
        )?;
        require(
            self.loss.weighting == LossWeighting::None,
            "loss.weighting",
            match self.loss.weighting {
                LossWeighting::None => "none",
                LossWeighting::MinSnr { .. } => "min_snr",
                LossWeighting::P2 { .. } => "p2",
            },
            expected("it must be none"),
        )?;
        require(
            self.timestep_sampling != TimestepSampling::Importance,
            "timestep_sampling",
            "importance",
            expected("it must be uniform or low_discrepancy"),
        )?;
        require(!self.learned_variance, "learned_variance", true, expected("it must be false"))
    }
}

fn require(
    ok: bool,
    field: &'static str,
    value: impl Display,
    expected: impl Into<String>,
) -> Result<(), ConfigError> {
    if ok {
        Ok(())
    } else {
        Err(ConfigError::Field { field, value: value.to_string(), expected: expected.into() })
    }
}
