//! What a training has left in its folder, for a browser.
//!
//! ```text
//! index.html    everything on one page, with nothing outside of it
//! loss.png      the losses
//! samples.gif   the grids, from the first to the last
//! ```

mod page;

use std::path::Path;

use diffusion_files::write_file;
use diffusion_picture::Picture;
use diffusion_train::{RunDir, StepMetrics};

use crate::{Chart, Curve, Panel, ReportError, Scale, sheet};

/// Frames of the animation, at most.
const FRAMES: usize = 60;
/// Hundredths of a second for a frame.
const DELAY: u16 = 20;
/// Points of a curve, at most: more cannot be told apart.
const POINTS: usize = 800;
/// The curves beside that of all images.
const QUARTERS: [&str; 4] = ["cleanest quarter", "second", "third", "noisiest quarter"];

/// Draws what is in a run's folder. Everything is read from there, so it can be done at any time.
#[derive(Debug)]
pub struct RunPage<'a> {
    run: &'a RunDir,
    /// Lines about the run that its files do not say: the device, the parameters.
    pub notes: Vec<String>,
    /// How the user calls the program's commands, to go on.
    pub commands: Vec<String>,
}

impl<'a> RunPage<'a> {
    /// The page of `run`.
    pub fn new(run: &'a RunDir) -> Self {
        Self { run, notes: Vec::new(), commands: Vec::new() }
    }

    /// Writes `loss.png` and `index.html`. An animation that is there already is shown.
    ///
    /// # Errors
    /// A run that cannot be read; what the system refuses.
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

    /// Writes `samples.gif`, if there are grids.
    ///
    /// # Errors
    /// Grids that cannot be read; what the system refuses.
    pub fn animate(&self) -> Result<(), ReportError> {
        let grids = self.run.grids()?;
        if grids.is_empty() {
            return Ok(());
        }
        let frames = spread(&grids, FRAMES)
            .map(|(step, path)| Ok((format!("step {step}"), Picture::read_png(path)?)));
        animation(
            &frames.collect::<Result<Vec<_>, ReportError>>()?,
            DELAY,
            &self.run.layout().animation(),
        )
    }
}

/// Writes pictures of one size, each below its name, as an animated GIF: each for `hundredths` of a second.
///
/// # Errors
/// No pictures, or pictures of different sizes; what the system refuses.
pub fn animation(
    frames: &[(String, Picture)],
    hundredths: u16,
    path: &Path,
) -> Result<(), ReportError> {
    let named = frames.iter().map(|(name, frame)| {
        let drawn =
            sheet(&[vec![frame.clone().into()]], &[String::new()], std::slice::from_ref(name))?;
        // A grey picture keeps its 256 greys, where colours would have to be chosen.
        Ok(if frame.channels == 1 { grey(&drawn) } else { drawn })
    });
    Ok(diffusion_picture::write_gif(
        &named.collect::<Result<Vec<_>, ReportError>>()?,
        hundredths,
        path,
    )?)
}

/// The red channel of a picture whose channels are the same.
fn grey(picture: &Picture) -> Picture {
    let pixels = picture.pixels.chunks_exact(3).map(|rgb| rgb[0]).collect();
    Picture { channels: 1, pixels, ..*picture }
}

/// At most `most` of `all`, evenly spread, the last one included.
fn spread<T>(all: &[T], most: usize) -> impl Iterator<Item = &T> {
    let count = all.len().min(most);
    (0..count).map(move |i| &all[(i + 1) * all.len() / count - 1])
}

/// The losses of a training, smoothed: of all images, of the images in each quarter of the noise levels, and of pictures kept
/// out of training.
fn loss_chart(metrics: &[StepMetrics]) -> Chart {
    let smooth = |value: &dyn Fn(&StepMetrics) -> Option<f64>| smoothed(metrics, value);
    let mut curves = vec![Curve::new("all", smooth(&|m| Some(m.loss)))];
    for (quarter, name) in QUARTERS.iter().enumerate() {
        curves.push(Curve::new(*name, smooth(&|m| m.loss_by_t_quartile[quarter])));
    }
    let held_out: Vec<(f64, f64)> =
        metrics.iter().filter_map(|m| Some((m.step as f64, m.validation_loss?))).collect();
    if !held_out.is_empty() {
        curves.push(Curve::new("held out", held_out));
    }
    curves.retain(|curve| !curve.points.is_empty());
    Chart {
        title: "Loss, smoothed over about 1/50 of the steps".to_owned(),
        x: "step".to_owned(),
        panels: vec![Panel {
            y: "loss".to_owned(),
            y_scale: Scale::Logarithmic,
            y_range: None,
            curves,
        }],
    }
}

/// What a judge said of samples on the way, if one was asked: distances above, shares below.
fn quality_chart(metrics: &[StepMetrics]) -> Option<Chart> {
    let curve = |name: &str, label: &str| {
        let points = metrics.iter().filter_map(|m| Some((m.step as f64, *m.samples.get(name)?)));
        Curve::new(label, points.collect::<Vec<_>>())
    };
    let panel = |y: &str, y_scale: Scale, y_range, curves: Vec<Curve>| {
        let curves: Vec<_> = curves.into_iter().filter(|curve| !curve.points.is_empty()).collect();
        (!curves.is_empty()).then(|| Panel { y: y.to_owned(), y_scale, y_range, curves })
    };
    let distance = curve("frechet_distance", "Fréchet distance");
    let shares =
        ["sure", "precision", "recall", "coverage", "copies"].map(|name| curve(name, name));
    let panels = [
        panel("Fréchet distance", Scale::Logarithmic, None, vec![distance]),
        panel("share", Scale::Linear, Some((0.0, 1.0)), shares.into()),
    ];
    let panels: Vec<Panel> = panels.into_iter().flatten().collect();
    (!panels.is_empty()).then(|| Chart {
        title: "Samples of the averaged weights".to_owned(),
        x: "step".to_owned(),
        panels,
    })
}

/// The running mean of what `value` says, where it says anything, at most [`POINTS`] of it.
fn smoothed(
    metrics: &[StepMetrics],
    value: &dyn Fn(&StepMetrics) -> Option<f64>,
) -> Vec<(f64, f64)> {
    let share = 1.0 / (metrics.len() as f64 / 50.0).max(1.0);
    // Divided by the weights so far, the mean owes nothing to where it began.
    let (mut sum, mut weights) = (0.0, 0.0);
    let mut points = Vec::new();
    for m in metrics {
        if let Some(value) = value(m).filter(|value| value.is_finite()) {
            sum += share * (value - sum);
            weights += share * (1.0 - weights);
            points.push((m.step as f64, sum / weights));
        }
    }
    spread(&points, POINTS).copied().collect()
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
        }
    }

    #[test]
    fn a_constant_loss_stays_what_it_is_and_few_points_are_kept() {
        let constant: Vec<_> = (1..=2000).map(|step| metrics(step, 0.25)).collect();
        let chart = loss_chart(&constant);
        let names: Vec<&str> =
            chart.panels[0].curves.iter().map(|curve| curve.name.as_str()).collect();
        assert_eq!(names, ["all", "second"], "a quarter that no image lay in has no curve");
        let points = &chart.panels[0].curves[0].points;
        assert_eq!((points.len(), points[points.len() - 1].0), (POINTS, 2000.0));
        assert!(points.iter().all(|(_, loss)| (loss - 0.25).abs() < 1e-12));
    }

    #[test]
    fn smoothing_follows_a_fall() {
        let falling: Vec<_> =
            (1..=100).map(|step| metrics(step, if step < 50 { 1.0 } else { 0.0 })).collect();
        let points = smoothed(&falling, &|m| Some(m.loss));
        assert_eq!(points[0], (1.0, 1.0));
        assert!(points[99].1 < 1e-3 && points[20].1 > 0.999);
    }
}
