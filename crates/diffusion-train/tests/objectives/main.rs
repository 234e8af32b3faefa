//! Objectives, losses and noise levels other than the plain prediction of ε: each one on its own,
//! and all of them in a short training.

mod configuration;
mod levels;
mod loss;
mod training;

use candle_core::{DType, Device, Tensor};
use diffusion_model::Objective;
use diffusion_process::{Domain, NoiseSource, PredictionType};
use diffusion_schedule::{BetaSchedule, ScheduleConfig};

/// Standard normal numbers, (n, 1, 4, 4), in f64.
fn normal(seed: u64, n: u64) -> Tensor {
    let source = NoiseSource::new(seed);
    let noise = source.normal(Domain::Initial, 0, 0..n, &[1, 4, 4], &Device::Cpu).unwrap();
    noise.to_dtype(DType::F64).unwrap()
}

fn flat(tensor: &Tensor) -> Vec<f64> {
    tensor.to_dtype(DType::F64).unwrap().flatten_all().unwrap().to_vec1().unwrap()
}

fn cosine(num_train_timesteps: usize) -> ScheduleConfig {
    ScheduleConfig {
        num_train_timesteps,
        beta_schedule: BetaSchedule::Cosine,
        ..ScheduleConfig::default()
    }
}

fn diffusion(num_train_timesteps: usize, prediction_type: PredictionType) -> Objective {
    Objective::new(&cosine(num_train_timesteps), prediction_type, None).unwrap()
}
