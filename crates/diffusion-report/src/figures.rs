//! Charts of noise schedules, of noise-prediction errors and of a model's losses.

mod network;

use diffusion_eval::{Estimate, ModelBin, ModelErrors, PredictionError, PredictorErrors};
use diffusion_schedule::{NoiseSchedule, ScheduleComparison};

use crate::{Chart, Curve, Panel, Scale};

pub use network::{NetworkBox, NetworkPicture};

/// The lowest signal-to-noise ratio shown. Cosine schedules end far below it.
const MIN_DB: f64 = -60.0;

/// A chart of ᾱ, the signal-to-noise ratio and β of schedules by timestep, one panel each.
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
        x_scale: Scale::Linear,
        panels: vec![
            panel("alpha_cumprod", Scale::Linear, Some((0.0, 1.0)), &|s, t| s.alphas_cumprod()[t]),
            panel(
                "SNR in dB, down to −60",
                Scale::Linear,
                Some((MIN_DB, snr_range.max(0.0) + 5.0)),
                &NoiseSchedule::snr_db,
            ),
            panel("β", Scale::Logarithmic, None, &|s, t| s.betas()[t]),
        ],
    }
}

/// A chart of noise-prediction errors by noise level: one panel in the scale of ε, one in the scale
/// of the image. `x` is the label of the x axis: what the position of a level is.
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
        title: "Noise-prediction error: mean square ± standard error".to_owned(),
        x: x.to_owned(),
        x_scale: Scale::Linear,
        panels: vec![
            panel("error of ε", |error| error.noise),
            panel("error in the image's scale", |error| error.image),
        ],
    }
}

/// A chart of a model's losses by noise level and, if `errors` has a variational bound, its bits
/// per dimension for each timestep. `x` is the label of the x axis: what the position of a level
/// is.
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
        "mean squared error",
        vec![
            curve("ε", &|bin| bin.loss.noise.mean),
            curve("x0", &|bin| bin.loss.x0.mean),
            curve("v", &|bin| bin.loss.velocity.mean),
        ],
    )];
    if errors.bound.is_some() {
        let per_timestep = |bin: &ModelBin| {
            let count = bin.levels.1 + 1 - bin.levels.0;
            bin.bits.map_or(f64::NAN, |bits| bits.mean / count as f64)
        };
        panels.push(panel("bits/dim per timestep", vec![curve("bound", &per_timestep)]));
    }
    Chart {
        title: "Model error by noise level".to_owned(),
        x: x.to_owned(),
        x_scale: Scale::Linear,
        panels,
    }
}

fn middle((first, last): (usize, usize)) -> f64 {
    f64::midpoint(first as f64, last as f64)
}
