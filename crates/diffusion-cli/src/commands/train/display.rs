//! Reports a training while it runs: progress, the run's page and event files.

use std::ops::ControlFlow;
use std::time::Instant;

use diffusion_report::{EventWriter, RunPage};
use diffusion_train::{Checks, Outcome, RunDir, StepMetrics, TrainEvent, Trainer};

use super::estimate::TrainingEstimate;
use crate::args::runs;
use crate::session::interrupt;
use crate::session::progress::{LINE_INTERVAL, Progress, clock};

/// Shows and writes the progress of a training.
pub(super) struct TrainingDisplay<'a> {
    run_dir: &'a RunDir,
    page: RunPage<'a>,
    events: Option<EventWriter>,
    /// Whether writing the page has failed; it is then no longer written, and training continues.
    page_failed: bool,
    quiet: bool,
}

impl<'a> TrainingDisplay<'a> {
    /// Prepares the display for a training by `trainer` in `run_dir`.
    pub(super) fn new(
        trainer: &Trainer,
        run_dir: &'a RunDir,
        tensorboard: bool,
        quiet: bool,
    ) -> anyhow::Result<Self> {
        let path = runs::quoted(run_dir.path());
        let name = runs::image_folder_name(trainer.config());
        let mut page = RunPage::new(run_dir);
        page.notes = vec![format!(
            "{} parameters, trained on {} threads",
            trainer.parameters().count(),
            rayon::current_num_threads()
        )];
        page.commands = vec![
            format!(
                "{} --run {path} --num 64 --out {name} --grid {name}.png",
                runs::program("sample")
            ),
            format!("{} --run {path} --steps 50 --gif {name}.gif", runs::program("sample")),
            format!("{} --run {path} --steps 5,10,20,50", runs::program("evaluate grid")),
            format!("{} --run-dir {path} --resume --max-minutes 30", runs::program("train")),
        ];
        let folder = run_dir.path().join("tensorboard");
        let events =
            tensorboard.then(|| EventWriter::create(&folder, trainer.steps_done())).transpose()?;
        Ok(Self { run_dir, page, events, page_failed: false, quiet })
    }

    /// Trains until the end or until the user interrupts.
    pub(super) fn train(
        &mut self,
        trainer: &mut Trainer,
        checks: &Checks,
    ) -> anyhow::Result<Outcome> {
        // A run limited by time has no known number of steps; its bar shows the share of the time.
        let total_steps = trainer.total_steps();
        let limit_seconds = trainer.config().max_minutes.map(|minutes| minutes * 60.0);
        let (first_step, seconds_before) = (trainer.steps_done(), trainer.elapsed().as_secs_f64());
        let estimate = TrainingEstimate::of(trainer);
        let start = Instant::now();
        let length = total_steps.unwrap_or(1000);
        let mut progress = Progress::new("training", length, self.quiet);
        let mut smooth_loss = None;
        let mut last_epoch = None;
        let mut failed = None;
        let mut warned_of_copies = false;
        let run_dir = self.run_dir;
        let observer = &mut |event: TrainEvent<'_>| -> ControlFlow<()> {
            match event {
                TrainEvent::Step(metrics) => {
                    let loss =
                        smooth_loss.map_or(metrics.loss, |mean| 0.95 * mean + 0.05 * metrics.loss);
                    smooth_loss = Some(loss);
                    let seconds = start.elapsed().as_secs_f64();
                    let by_steps = total_steps.map(|total| {
                        seconds / (metrics.step - first_step) as f64
                            * total.saturating_sub(metrics.step) as f64
                    });
                    let by_clock = limit_seconds.map(|limit| limit - seconds_before - seconds);
                    let left =
                        [by_steps, by_clock].into_iter().flatten().fold(f64::INFINITY, f64::min);
                    let position = match limit_seconds {
                        Some(limit) if total_steps.is_none() => {
                            ((seconds_before + seconds) / limit * 1000.0) as u64
                        }
                        _ => metrics.step,
                    };
                    progress
                        .set(position.min(length), || describe(metrics, loss, total_steps, left));
                    if let Some(loss) = metrics.validation_loss {
                        progress.note(&format!("step {}: validation loss {loss:.4}", metrics.step));
                    }
                    if let Some(distance) = metrics.samples.get("frechet_distance") {
                        let confident = metrics.samples.get("sure");
                        let confident = confident
                            .map(|share| format!(", {:.0} % classified confidently", share * 100.0))
                            .unwrap_or_default();
                        progress.note(&format!(
                            "step {}: Fréchet distance {distance:.3}{confident}",
                            metrics.step
                        ));
                    } else if let Some(copies) = metrics.samples.get("copies") {
                        let copies = copies * 100.0;
                        progress.note(&format!(
                            "step {}: {copies:.1} % of the samples are copies of training pictures",
                            metrics.step
                        ));
                    }
                    if !warned_of_copies && metrics.shows_copies() {
                        warned_of_copies = true;
                        tracing::warn!(
                            "the model copies training pictures from step {} on, and more steps \
                             will add copies; stop here, or train again with --augment 0.12 or a \
                             smaller network",
                            metrics.step
                        );
                    }
                    if let Some(events) = &mut self.events
                        && let Err(e) = events.scalars(metrics.step, scalars(metrics))
                    {
                        failed = Some(e);
                        return ControlFlow::Break(());
                    }
                }
                TrainEvent::Pace(pace) => progress.note(&estimate.at(pace).to_string()),
                TrainEvent::Epoch { epoch, mean_loss } => {
                    // Epochs over a few pictures end too often to report each of them.
                    if last_epoch.is_none_or(|last: Instant| last.elapsed() >= LINE_INTERVAL) {
                        last_epoch = Some(Instant::now());
                        progress.note(&format!("epoch {epoch}: mean loss {mean_loss:.4}"));
                    }
                }
                TrainEvent::Grid(path) => {
                    progress.note(&format!("samples: {}", path.display()));
                    self.write_page();
                }
                TrainEvent::Checkpoint(path) => tracing::debug!("saved {}", path.display()),
                TrainEvent::Sampling(_) => {}
            }
            interrupt::flow()
        };
        let outcome = diffusion_train::run(trainer, run_dir, checks, observer);
        progress.finish();
        if let Some(error) = failed {
            return Err(error.into());
        }
        if outcome.is_ok() {
            self.animate();
            self.write_page();
        }
        Ok(outcome?)
    }

    fn write_page(&mut self) {
        if !self.page_failed
            && let Err(e) = self.page.write()
        {
            tracing::warn!("cannot write the run's page: {e}");
            self.page_failed = true;
        }
    }

    fn animate(&self) {
        if let Err(e) = self.page.animate() {
            tracing::warn!("cannot write the run's animation: {e}");
        }
    }
}

/// The metrics of a step with their TensorBoard tags.
fn scalars(metrics: &StepMetrics) -> Vec<(String, f64)> {
    const QUARTERS: [&str; 4] = [
        "loss_by_t/quarter_1_cleanest",
        "loss_by_t/quarter_2",
        "loss_by_t/quarter_3",
        "loss_by_t/quarter_4_noisiest",
    ];
    let mut scalars = vec![
        ("loss/train", metrics.loss),
        ("optimizer/lr", metrics.lr),
        ("optimizer/grad_norm", metrics.grad_norm),
        ("speed/images_per_second", metrics.images_per_second),
    ];
    let quarters = QUARTERS.into_iter().zip(metrics.loss_by_t_quartile);
    scalars.extend(quarters.filter_map(|(tag, loss)| Some((tag, loss?))));
    scalars.extend(metrics.validation_loss.map(|loss| ("loss/held_out", loss)));
    let scalars = scalars.into_iter().map(|(tag, value)| (tag.to_owned(), value));
    scalars
        .chain(metrics.samples.iter().map(|(name, value)| (format!("samples/{name}"), *value)))
        .collect()
}

fn describe(
    metrics: &StepMetrics,
    loss: f64,
    total_steps: Option<u64>,
    seconds_left: f64,
) -> String {
    let of = total_steps.map(|total| format!("/{total}")).unwrap_or_default();
    format!(
        "step {}{of}  loss {loss:.4}  {:.0} images/s  {} left",
        metrics.step,
        metrics.images_per_second,
        clock(seconds_left)
    )
}
