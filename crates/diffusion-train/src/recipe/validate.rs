//! What a configuration must fulfil before it is trained.

use std::fmt::Display;

use diffusion_model::Objective;
use diffusion_process::PredictionType;
use diffusion_sample::VarianceType;

use super::{ConfigError, LrDecay, TrainConfig};
use crate::{LossWeighting, PixelError, TimestepSampling};

impl TrainConfig {
    /// Checks the ranges of all fields but the network's, which are checked where it is built.
    ///
    /// # Errors
    /// The first field that is outside it, with what would be right.
    pub fn validate(&self) -> Result<(), ConfigError> {
        let field = |field, value: String, expected: &str, ok: bool| {
            if ok {
                Ok(())
            } else {
                Err(ConfigError::Field { field, value, expected: expected.to_owned() })
            }
        };
        let whole =
            |name, value: u64| field(name, value.to_string(), "it must be at least 1", value >= 1);
        let positive = |name, value: f64| {
            field(
                name,
                value.to_string(),
                "it must be a number above 0",
                value > 0.0 && value.is_finite(),
            )
        };
        let share = |name, value: f64| {
            field(name, value.to_string(), "it must lie in [0, 1)", (0.0..1.0).contains(&value))
        };
        whole("size", self.size.unwrap_or(1) as u64)?;
        if let Some((name, value, expected)) = self.pictures.problem() {
            field(name, value, expected, false)?;
        }
        whole("steps", self.steps.unwrap_or(1))?;
        whole("epochs", self.epochs.unwrap_or(1))?;
        positive("max_minutes", self.max_minutes.unwrap_or(1.0))?;
        field(
            "steps, epochs and max_minutes",
            "not given".to_owned(),
            "one of them must say when to stop",
            self.steps.is_some() || self.epochs.is_some() || self.max_minutes.is_some(),
        )?;
        field(
            "seed",
            self.seed.to_string(),
            "it must be below 2^63, the largest whole number of a TOML file",
            i64::try_from(self.seed).is_ok(),
        )?;
        whole("batch_size", self.batch_size as u64)?;
        whole("accumulate", self.accumulate as u64)?;
        field(
            "accumulate",
            self.accumulate.to_string(),
            &format!("it must divide batch_size, which is {}", self.batch_size),
            self.batch_size.is_multiple_of(self.accumulate),
        )?;
        positive("clip_grad_norm", self.clip_grad_norm.unwrap_or(1.0))?;
        positive("optimizer.lr", self.optimizer.lr)?;
        share("optimizer.beta1", self.optimizer.beta1)?;
        share("optimizer.beta2", self.optimizer.beta2)?;
        positive("optimizer.eps", self.optimizer.eps)?;
        let decay = self.optimizer.weight_decay;
        field(
            "optimizer.weight_decay",
            decay.to_string(),
            "it must be a number of at least 0",
            decay >= 0.0 && decay.is_finite(),
        )?;
        share("class_dropout", self.class_dropout)?;
        share("ema.decay", self.ema.decay)?;
        share("ema.min_decay", self.ema.min_decay)?;
        positive("ema.inv_gamma", self.ema.inv_gamma)?;
        positive("ema.power", self.ema.power)?;
        whole("checkpoint.every", self.checkpoint.every)?;
        whole("checkpoint.keep", self.checkpoint.keep as u64)?;
        whole("sample_grid.steps", self.sample_grid.steps.unwrap_or(1) as u64)?;
        field(
            "sample_grid.num",
            self.sample_grid.num.to_string(),
            "it must be at most 4096",
            self.sample_grid.num <= 4096,
        )?;
        field(
            "ema.min_decay",
            self.ema.min_decay.to_string(),
            &format!("it must not exceed ema.decay, which is {}", self.ema.decay),
            self.ema.min_decay <= self.ema.decay,
        )?;
        match self.lr_schedule.decay {
            LrDecay::CosineWithRestarts { num_cycles } => {
                whole("lr_schedule.decay.num_cycles", num_cycles.into())?;
            }
            LrDecay::Polynomial { power, lr_end } => {
                positive("lr_schedule.decay.power", power)?;
                let ok = (0.0..=self.optimizer.lr).contains(&lr_end);
                let expected = "it must lie between 0 and optimizer.lr";
                field("lr_schedule.decay.lr_end", lr_end.to_string(), expected, ok)?;
            }
            LrDecay::Constant | LrDecay::Linear | LrDecay::Cosine => {}
        }
        self.validate_objective()
    }

    /// The process, the loss and the levels: each by itself, and with each other.
    fn validate_objective(&self) -> Result<(), ConfigError> {
        let objective = self.objective()?;
        let positive = |field, value: f64| {
            refuse_unless(
                value > 0.0 && value.is_finite(),
                field,
                value,
                "it must be a number above 0",
            )
        };
        if let Some((field, value, expected)) = self.edm.and_then(|edm| edm.problem()) {
            return refuse_unless(false, field, value, expected);
        }
        let at_least_0 = self.offset_noise >= 0.0 && self.offset_noise.is_finite();
        refuse_unless(
            at_least_0,
            "offset_noise",
            self.offset_noise,
            "it must be a number of at least 0",
        )?;
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
                // ᾱ ends in 0 where the schedule was rescaled to it.
                let blind = prediction_type == PredictionType::Epsilon
                    && schedule.alphas_cumprod().ends_with(&[0.0]);
                let expected = "with schedule.rescale_betas_zero_snr it must be v_prediction or sample: at the last \
                                step there is nothing but noise, and naming it says nothing of the image";
                refuse_unless(!blind, "prediction_type", "epsilon", expected)?;
            }
            Objective::Flow | Objective::Edm(_) => self.refuse_what_needs_a_schedule(&objective)?,
        }
        let range =
            self.sample_grid.variance == VarianceType::LearnedRange && !self.learned_variance;
        let expected = "it must be fixed_small or fixed_large where learned_variance is false";
        refuse_unless(!range, "sample_grid.variance", "learned_range", expected)
    }

    fn refuse_what_needs_a_schedule(&self, objective: &Objective) -> Result<(), ConfigError> {
        let why = |instead: &str| {
            format!("{instead}: {} has no schedule, only a diffusion has one", objective.name())
        };
        refuse_unless(
            self.edm.is_none() || self.prediction_type != PredictionType::Flow,
            "prediction_type",
            "flow_prediction",
            "leave it out beside [edm]: a model is one of the two",
        )?;
        refuse_unless(
            self.loss.weighting == LossWeighting::None,
            "loss.weighting",
            match self.loss.weighting {
                LossWeighting::None => "none",
                LossWeighting::MinSnr { .. } => "min_snr",
                LossWeighting::P2 { .. } => "p2",
            },
            why("it must be none"),
        )?;
        refuse_unless(
            self.timestep_sampling != TimestepSampling::Importance,
            "timestep_sampling",
            "importance",
            why("it must be uniform or low_discrepancy"),
        )?;
        refuse_unless(!self.learned_variance, "learned_variance", true, why("it must be false"))
    }
}

fn refuse_unless(
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
