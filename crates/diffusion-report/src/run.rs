//! The page of a run, written from the files in its folder.
//!
//! ```text
//! index.html    the whole report in one file, without external resources
//! loss.png      the losses
//! samples.gif   the sample grids, from the first to the last
//! ```

mod page;

use std::path::Path;

use diffusion_files::write_file;
use diffusion_picture::Picture;
use diffusion_train::{RunDir, StepMetrics};

use crate::{Chart, Curve, Panel, ReportError, Scale, sheet};

/// The largest number of frames of the animation.
const MAX_FRAMES: usize = 60;
/// The duration of a frame, in hundredths of a second.
const DELAY: u16 = 20;
/// The largest number of points of a curve: more would not be visible.
const MAX_POINTS: usize = 800;
/// The names of the loss curves of the four quarters of the noise levels.
const QUARTERS: [&str; 4] = ["cleanest quarter", "second", "third", "noisiest quarter"];

/// Writes the page, the loss chart and the animation of a run.
///
/// Everything is read from the run's folder, so the page can be written at any time.
#[derive(Debug)]
pub struct RunPage<'a> {
    run: &'a RunDir,
    /// Lines about the run that its files do not contain: the device, the number of parameters.
    pub notes: Vec<String>,
    /// Command lines that the page suggests as next commands.
    pub commands: Vec<String>,
}

impl<'a> RunPage<'a> {
    /// The page of `run`, without notes and commands.
    pub fn new(run: &'a RunDir) -> Self {
        Self { run, notes: Vec::new(), commands: Vec::new() }
    }

    /// Writes `loss.png` and `index.html`. The page includes `samples.gif` if it exists, so call
    /// [`animate`](Self::animate) first. Without metrics, there is no `loss.png`.
    ///
    /// # Errors
    /// If the run's files cannot be read. An I/O error of the operating system.
    pub fn write(&self) -> Result<(), ReportError> {
        let metrics = self.run.read_metrics()?;
        let chart = (!metrics.is_empty()).then(|| loss_chart(&metrics));
        if let Some(chart) = &chart {
            chart.write(&self.run.layout().loss_chart())?;
        }
        let quality = quality_chart(&metrics);
        let page = page::html(self, &metrics, chart.as_ref(), quality.as_ref())?;
        Ok(write_file(&self.run.layout().page(), page.as_bytes())?)
    }

    /// Writes `samples.gif` from the sample grids; does nothing if there are none.
    ///
    /// # Errors
    /// If a grid cannot be read, or the grids differ in size. An I/O error of the operating system.
    pub fn animate(&self) -> Result<(), ReportError> {
        let grids = self.run.grids()?;
        if grids.is_empty() {
            return Ok(());
        }
        let frames = spread(&grids, MAX_FRAMES)
            .map(|(step, path)| Ok((format!("step {step}"), Picture::read_png(path)?)));
        animation(
            &frames.collect::<Result<Vec<_>, ReportError>>()?,
            DELAY,
            &self.run.layout().animation(),
        )
    }
}

/// Writes pictures of the same size as an animated GIF, each below its label. Each frame lasts
/// `hundredths` hundredths of a second.
///
/// # Errors
/// If there are no pictures, or pictures differ in size. An I/O error of the operating system.
pub fn animation(
    frames: &[(String, Picture)],
    hundredths: u16,
    path: &Path,
) -> Result<(), ReportError> {
    let labelled = frames.iter().map(|(name, frame)| {
        let picture =
            sheet(&[vec![frame.clone().into()]], &[String::new()], std::slice::from_ref(name))?;
        // A grey picture keeps its 256 greys; an RGB picture would need a reduced palette.
        Ok(if frame.channels == 1 { grey(&picture) } else { picture })
    });
    Ok(diffusion_picture::write_gif(
        &labelled.collect::<Result<Vec<_>, ReportError>>()?,
        hundredths,
        path,
    )?)
}

/// A grey picture from the red channel of an RGB picture whose channels are equal.
fn grey(picture: &Picture) -> Picture {
    let pixels = picture.pixels.chunks_exact(3).map(|rgb| rgb[0]).collect();
    Picture { channels: 1, pixels, ..*picture }
}

/// At most `most` elements of `all`, evenly spread, including the last one.
fn spread<T>(all: &[T], most: usize) -> impl Iterator<Item = &T> {
    let count = all.len().min(most);
    (0..count).map(move |i| &all[(i + 1) * all.len() / count - 1])
}

/// The chart of the losses: smoothed over all images and over each quarter of the noise levels, and
/// the validation loss.
fn loss_chart(metrics: &[StepMetrics]) -> Chart {
    let smooth = |value: &dyn Fn(&StepMetrics) -> Option<f64>| smoothed(metrics, value);
    let mut curves = vec![Curve::new("all", smooth(&|m| Some(m.loss)))];
    for (quarter, name) in QUARTERS.iter().enumerate() {
        curves.push(Curve::new(*name, smooth(&|m| m.loss_by_t_quartile[quarter])));
    }
    let validation: Vec<(f64, f64)> =
        metrics.iter().filter_map(|m| Some((m.step as f64, m.validation_loss?))).collect();
    if !validation.is_empty() {
        curves.push(Curve::new("validation", validation));
    }
    curves.retain(|curve| !curve.points.is_empty());
    Chart {
        title: "Loss by noise level, smoothed over about 1/50 of the steps".to_owned(),
        x: "step".to_owned(),
        x_scale: Scale::Linear,
        panels: vec![Panel {
            y: "loss".to_owned(),
            y_scale: Scale::Logarithmic,
            y_range: None,
            curves,
        }],
    }
}

/// The key of the share of copies of training pictures, which needs no features.
const COPIES: &str = "copies";
/// The features of the digit judge, which older runs did not name.
const DIGIT_FEATURES: &str = "features of the digit judge";

/// The last evaluation of samples, if there is one.
fn last_evaluation(metrics: &[StepMetrics]) -> Option<&StepMetrics> {
    metrics.iter().rfind(|m| !m.samples.is_empty())
}

/// The chart of sample quality during training: Fréchet distances above, shares below. `None` if
/// samples were not evaluated. Metrics of other features than the last ones are left out.
fn quality_chart(metrics: &[StepMetrics]) -> Option<Chart> {
    // Older runs do not name the features; they were those of the digit judge.
    let features = |m: &StepMetrics| {
        let known = m.samples.contains_key("frechet_distance").then_some(DIGIT_FEATURES);
        m.judge.clone().or(known.map(str::to_owned))
    };
    let last = metrics.iter().rev().find_map(features);
    let curve = |name: &str, label: &str| {
        let points = metrics.iter().filter(|m| name == COPIES || features(m) == last);
        let points = points.filter_map(|m| Some((m.step as f64, *m.samples.get(name)?)));
        Curve::new(label, points.collect::<Vec<_>>())
    };
    let panel = |y: &str, y_scale: Scale, y_range, curves: Vec<Curve>| {
        let curves: Vec<_> = curves.into_iter().filter(|curve| !curve.points.is_empty()).collect();
        (!curves.is_empty()).then(|| Panel { y: y.to_owned(), y_scale, y_range, curves })
    };
    let distance = curve("frechet_distance", "Fréchet distance");
    let named = [("sure", "classified confidently"), ("as_asked", "class accuracy")];
    let others = ["precision", "recall", "coverage", COPIES].map(|name| (name, name));
    let shares = named.into_iter().chain(others).map(|(name, label)| curve(name, label)).collect();
    let panels = [
        panel("Fréchet distance", Scale::Logarithmic, None, vec![distance]),
        panel("share", Scale::Linear, Some((0.0, 1.0)), shares),
    ];
    let panels: Vec<Panel> = panels.into_iter().flatten().collect();
    (!panels.is_empty()).then(|| Chart {
        title: "Sample quality (EMA weights)".to_owned(),
        x: "step".to_owned(),
        x_scale: Scale::Linear,
        panels,
    })
}

/// The running mean of `value`, skipping missing and non-finite values, at most [`MAX_POINTS`]
/// points.
fn smoothed(
    metrics: &[StepMetrics],
    value: &dyn Fn(&StepMetrics) -> Option<f64>,
) -> Vec<(f64, f64)> {
    let share = 1.0 / (metrics.len() as f64 / 50.0).max(1.0);
    // Dividing by the sum of the weights removes the bias towards the initial 0.
    let (mut sum, mut weights) = (0.0, 0.0);
    let mut points = Vec::new();
    for m in metrics {
        if let Some(value) = value(m).filter(|value| value.is_finite()) {
            sum += share * (value - sum);
            weights += share * (1.0 - weights);
            points.push((m.step as f64, sum / weights));
        }
    }
    spread(&points, MAX_POINTS).copied().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn metrics(step: u64, loss: f64) -> StepMetrics {
        StepMetrics {
            step,
            epoch: 0,
            loss,
            loss_by_t_quartile: [None, Some(loss), None, None],
            lr: 1e-3,
            grad_norm: 1.0,
            images_per_second: 10.0,
            validation_loss: None,
            samples: std::collections::BTreeMap::new(),
            judge: None,
        }
    }

    #[test]
    fn a_constant_loss_stays_constant_and_points_are_thinned_out() {
        let constant: Vec<_> = (1..=2000).map(|step| metrics(step, 0.25)).collect();
        let chart = loss_chart(&constant);
        let names: Vec<&str> =
            chart.panels[0].curves.iter().map(|curve| curve.name.as_str()).collect();
        assert_eq!(names, ["all", "second"], "a quarter without images has no curve");
        let points = &chart.panels[0].curves[0].points;
        assert_eq!((points.len(), points[points.len() - 1].0), (MAX_POINTS, 2000.0));
        assert!(points.iter().all(|(_, loss)| (loss - 0.25).abs() < 1e-12));
    }

    #[test]
    fn smoothing_follows_a_falling_loss() {
        let falling: Vec<_> =
            (1..=100).map(|step| metrics(step, if step < 50 { 1.0 } else { 0.0 })).collect();
        let points = smoothed(&falling, &|m| Some(m.loss));
        assert_eq!(points[0], (1.0, 1.0));
        assert!(points[99].1 < 1e-3 && points[20].1 > 0.999);
    }
}
