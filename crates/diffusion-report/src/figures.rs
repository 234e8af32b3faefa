//! The charts of the project's own questions.

mod network;

use diffusion_eval::{Estimate, ModelBin, ModelErrors, PredictionError, PredictorErrors};
use diffusion_schedule::{NoiseSchedule, ScheduleComparison};

use crate::{Chart, Curve, Panel, Scale};

pub use network::{NetworkBox, NetworkPicture};

/// The least signal-to-noise ratio that is drawn; cosine schedules end far below, where nothing can be seen.
const LEAST_DB: f64 = -60.0;

/// ᾱ, the signal-to-noise ratio and β of schedules over their timesteps, a panel each.
pub fn schedule_chart(comparison: &ScheduleComparison) -> Chart {
    let panel = |y: &str, y_scale, y_range, value: &dyn Fn(&NoiseSchedule, usize) -> f64| Panel {
        y: y.to_owned(),
        y_scale,
        y_range,
        curves: comparison
            .schedules()
            .iter()
            .map(|(name, schedule)| {
                let points = (0..schedule.len()).map(|t| (t as f64, value(schedule, t)));
                Curve::new(name, points.filter(|(_, y)| y_range.is_none_or(|(low, _)| *y >= low)))
            })
            .collect(),
    };
    let snr_range = comparison
        .schedules()
        .iter()
        .map(|(_, schedule)| schedule.snr_db(0))
        .fold(f64::NEG_INFINITY, f64::max);
    Chart {
        title: "Noise schedules".to_owned(),
        x: "timestep t".to_owned(),
        panels: vec![
            panel("alpha_cumprod", Scale::Linear, Some((0.0, 1.0)), &|s, t| s.alphas_cumprod()[t]),
            panel(
                "SNR in dB, from −60 on",
                Scale::Linear,
                Some((LEAST_DB, snr_range.max(0.0) + 5.0)),
                &NoiseSchedule::snr_db,
            ),
            panel("β", Scale::Logarithmic, None, &|s, t| s.betas()[t]),
        ],
    }
}

/// The errors of predictors against the noise level, in both scales, a panel each; `x` says what a level's position is.
pub fn predictor_chart(errors: &[(String, PredictorErrors)], x: &str) -> Chart {
    let panel = |y: &str, of: fn(&PredictionError) -> Estimate| Panel {
        y: y.to_owned(),
        y_scale: Scale::Linear,
        y_range: None,
        curves: errors
            .iter()
            .map(|(name, errors)| {
                let points =
                    errors.bins.iter().map(|bin| (middle(bin.levels), of(&bin.error).mean));
                let bars = errors.bins.iter().map(|bin| of(&bin.error).standard_error).collect();
                Curve { errors: Some(bars), ..Curve::new(name, points) }
            })
            .collect(),
    };
    Chart {
        title: "Error of predictors, ± standard error".to_owned(),
        x: x.to_owned(),
        panels: vec![
            panel("mean square of ε error", |error| error.noise),
            panel("the same in the image's scale", |error| error.image),
        ],
    }
}

/// A model's losses by noise level, and where there is a bound, the bits of a level; `x` says what a level's position is.
pub fn model_chart(errors: &ModelErrors, x: &str) -> Chart {
    let curve = |name: &str, of: &dyn Fn(&ModelBin) -> f64| {
        Curve::new(name, errors.bins.iter().map(|bin| (middle(bin.levels), of(bin))))
    };
    let panel = |y: &str, curves| Panel {
        y: y.to_owned(),
        y_scale: Scale::Logarithmic,
        y_range: None,
        curves,
    };
    let mut panels = vec![panel(
        "mean square of the error",
        vec![
            curve("ε", &|bin| bin.loss.noise.mean),
            curve("x0", &|bin| bin.loss.x0.mean),
            curve("v", &|bin| bin.loss.velocity.mean),
        ],
    )];
    if errors.bound.is_some() {
        let at_one = |bin: &ModelBin| {
            let count = bin.levels.1 + 1 - bin.levels.0;
            bin.bits.map_or(f64::NAN, |bits| bits.mean / count as f64)
        };
        panels.push(panel("bits/dim of a timestep", vec![curve("bound", &at_one)]));
    }
    Chart { title: "A model by noise level".to_owned(), x: x.to_owned(), panels }
}

fn middle((first, last): (usize, usize)) -> f64 {
    f64::midpoint(first as f64, last as f64)
}
