use diffusion_model::{EdmConfig, Objective};
use diffusion_process::{Domain, NoiseSource, PredictionType};
use diffusion_train::{LevelSampler, LossHistory, TimestepSampling};
use rand::RngExt;

use crate::diffusion;

const SOURCE: u64 = 4;

fn objectives() -> [Objective; 3] {
    [diffusion(50, PredictionType::Epsilon), Objective::Flow, Objective::Edm(EdmConfig::default())]
}

/// The positions in the distribution of noise levels of `n` images per batch, over `steps` batches.
fn shares(sampling: TimestepSampling, objective: &Objective, steps: u64, n: usize) -> Vec<f64> {
    let sampler = LevelSampler::new(sampling, objective);
    let draw = |step| sampler.draw(objective, NoiseSource::new(SOURCE), step, n).levels;
    (0..steps).flat_map(draw).map(|level| objective.share_below(&level)).collect()
}

#[test]
fn every_sampling_method_covers_the_levels_evenly() {
    for objective in objectives() {
        for sampling in [
            TimestepSampling::Uniform,
            TimestepSampling::LowDiscrepancy,
            TimestepSampling::Importance,
        ] {
            let shares = shares(sampling, &objective, 500, 16);
            for tenth in 0..10 {
                let inside = |share: &&f64| (**share * 10.0 + 1e-9) as usize == tenth;
                let count = shares.iter().filter(inside).count() as f64;
                let what =
                    format!("{sampling:?} {}: {count} of 8000 in tenth {tenth}", objective.name());
                assert!((count / 8000.0 - 0.1).abs() < 0.012, "{what}");
            }
        }
    }
}

#[test]
fn levels_and_their_shares_are_inverse_and_edm_is_log_normal() {
    for objective in [Objective::Flow, Objective::Edm(EdmConfig::default())] {
        for i in 1..100 {
            let share = f64::from(i) / 100.0;
            let level = objective.level_at(share);
            assert!(
                (objective.share_below(&level) - share).abs() < 1e-9,
                "{} {share}",
                objective.name()
            );
        }
    }
    let edm = Objective::Edm(EdmConfig::default());
    // The median and one standard deviation above it (Karras et al. 2022, table 1).
    assert!((edm.level_at(0.5).sigma().ln() + 1.2).abs() < 1e-9);
    let one_above = edm.level_at(0.841_344_746_068_542_9);
    assert!((one_above.sigma().ln()).abs() < 1e-9 && (one_above.timestep).abs() < 1e-9);
    for share in [0.0, 1.0] {
        let sigma = edm.level_at(share).sigma();
        assert!(sigma.is_finite() && sigma > 0.0, "{sigma}");
    }
}

#[test]
fn uniform_timesteps_are_the_same_as_in_earlier_versions() {
    let objective = diffusion(200, PredictionType::Epsilon);
    let sampler = LevelSampler::new(TimestepSampling::Uniform, &objective);
    let source = NoiseSource::new(SOURCE);
    let drawn = sampler.draw(&objective, source, 17, 8);
    assert_eq!(drawn.weights, None);
    for (i, level) in drawn.levels.iter().enumerate() {
        let expected: usize = source.rng(Domain::Timestep, 17, i as u64).random_range(0..200);
        assert_eq!(level.timestep, expected as f64);
    }
}

#[test]
fn low_discrepancy_puts_one_image_in_each_part_of_the_range() {
    for objective in [Objective::Flow, Objective::Edm(EdmConfig::default())] {
        let mut orders = vec![];
        for step in 0..20 {
            let sampler = LevelSampler::new(TimestepSampling::LowDiscrepancy, &objective);
            let drawn = sampler.draw(&objective, NoiseSource::new(SOURCE), step, 8).levels;
            let parts = drawn.iter().map(|level| (objective.share_below(level) * 8.0) as usize);
            let parts: Vec<usize> = parts.collect();
            let mut sorted = parts.clone();
            sorted.sort_unstable();
            assert_eq!(sorted, [0, 1, 2, 3, 4, 5, 6, 7]);
            orders.push(parts);
        }
        orders.sort();
        orders.dedup();
        assert!(orders.len() > 15, "the order hardly changes: {orders:?}");
    }
}

/// A loss that grows with t.
fn loss(t: f64) -> f32 {
    (0.1 + t * t) as f32
}

#[test]
fn importance_sampling_draws_large_losses_more_often_and_keeps_the_mean() {
    let objective = diffusion(20, PredictionType::Epsilon);
    let mut sampler = LevelSampler::new(TimestepSampling::Importance, &objective);
    let draw =
        |sampler: &LevelSampler, step| sampler.draw(&objective, NoiseSource::new(SOURCE), step, 64);
    let losses = |levels: &[diffusion_process::NoiseLevel]| -> Vec<f32> {
        levels.iter().map(|level| loss(level.timestep)).collect()
    };
    let first = draw(&sampler, 0);
    assert!(first.weights.unwrap().iter().all(|weight| (weight - 1.0).abs() < 1e-12));
    for step in 0..20 {
        let drawn = draw(&sampler, step);
        sampler.record(&drawn.levels, &losses(&drawn.levels));
    }
    let probabilities = sampler.history().unwrap().probabilities();
    assert!((probabilities.iter().sum::<f64>() - 1.0).abs() < 1e-12);
    let ratio = (probabilities[19] - 0.001 / 20.0) / (probabilities[3] - 0.001 / 20.0);
    assert!((ratio - f64::from(loss(19.0) / loss(3.0))).abs() < 1e-4, "{ratio}");

    // Σ p·L/(T·p) equals the plain mean exactly, and approximately over many draws.
    let mean = (0..20).map(|t| f64::from(loss(f64::from(t)))).sum::<f64>() / 20.0;
    let mut sum = 0.0;
    for step in 100..400 {
        let drawn = draw(&sampler, step);
        let weights = drawn.weights.clone().unwrap();
        for (level, weight) in drawn.levels.iter().zip(&weights) {
            assert!((weight * 20.0 * probabilities[level.timestep as usize] - 1.0).abs() < 1e-12);
        }
        sum += drawn.mean(&losses(&drawn.levels)) / 300.0;
    }
    assert!((sum / mean - 1.0).abs() < 0.02, "got {sum}, expected {mean}");
}

#[test]
fn importance_sampling_uses_the_last_ten_losses() {
    let mut history = LossHistory::new(2);
    for loss in 0..15 {
        history.push(0, loss as f32);
        assert_eq!(history.probabilities(), [0.5, 0.5]);
    }
    for _ in 0..10 {
        history.push(1, 2.0);
    }
    history.push(7, 1.0);
    let root = ((5..15).map(|loss| f64::from(loss * loss)).sum::<f64>() / 10.0).sqrt();
    let expected = 0.999 * root / (root + 2.0) + 0.0005;
    assert!((history.probabilities()[0] - expected).abs() < 1e-12);
    assert_eq!(LossHistory::from_tensors(history.to_tensors().unwrap()).unwrap(), history);

    // Ten zeros give no information, so the draws stay uniform.
    let mut zeros = LossHistory::new(1);
    (0..10).for_each(|_| zeros.push(0, 0.0));
    assert_eq!(zeros.probabilities(), [1.0]);
}

#[test]
fn a_history_that_does_not_fit_is_refused() {
    let objective = diffusion(20, PredictionType::Epsilon);
    let mut importance = LevelSampler::new(TimestepSampling::Importance, &objective);
    let mut uniform = LevelSampler::new(TimestepSampling::Uniform, &objective);
    assert!(
        importance
            .restore(None)
            .unwrap_err()
            .to_string()
            .contains("of 0 timesteps, the run needs 20")
    );
    assert!(
        uniform
            .restore(Some(LossHistory::new(20)))
            .unwrap_err()
            .to_string()
            .contains("the run needs 0")
    );
    importance.restore(Some(LossHistory::new(20))).unwrap();
    uniform.restore(None).unwrap();
    let none =
        LossHistory::from_tensors(std::collections::BTreeMap::new()).unwrap_err().to_string();
    assert!(none.contains("`loss_history` is missing"), "{none}");
}
