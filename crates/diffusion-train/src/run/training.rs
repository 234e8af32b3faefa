//! The training loop, which writes metrics, grids and checkpoints into the folder of the run.

use std::ops::ControlFlow;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use diffusion_files::FileError;
use diffusion_model::GenerationProgress;

use super::averages::{remove_later_averages, save_averages};
use super::samples::{judge_samples, write_grid};
use super::{RunDir, SampleJudge, ValidationSet};
use crate::{StepMetrics, TrainError, Trainer};

/// An event that a run reports to its observer.
#[derive(Debug)]
pub enum TrainEvent<'a> {
    /// A step was made.
    Step(&'a StepMetrics),
    /// The first steps of this process were timed.
    Pace(Pace),
    /// A pass over the data ended.
    Epoch {
        /// The number of the epoch, counted from 1.
        epoch: u64,
        /// The mean loss of its steps, without those of earlier processes.
        mean_loss: f64,
    },
    /// Images are being generated for a grid or an evaluation.
    Sampling(&'a GenerationProgress<'a>),
    /// A grid was written.
    Grid(PathBuf),
    /// A checkpoint was written.
    Checkpoint(PathBuf),
}

/// The speed of a training, measured over its first steps.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Pace {
    /// The median time of a step, in seconds.
    pub seconds_per_step: f64,
}

/// The number of steps to time. The first one, which fills caches, is left out of the median.
const PACE_STEPS: usize = 5;

/// Measures the duration of the first steps.
#[derive(Default)]
struct PaceMeter {
    seconds: Vec<f64>,
}

impl PaceMeter {
    /// Makes one step of `trainer`; returns the pace after the last step that is timed.
    fn step(&mut self, trainer: &mut Trainer) -> Result<(StepMetrics, Option<Pace>), TrainError> {
        if self.seconds.len() == PACE_STEPS {
            return Ok((trainer.step()?, None));
        }
        let start = Instant::now();
        let metrics = trainer.step()?;
        self.seconds.push(start.elapsed().as_secs_f64());
        let pace = self.seconds.get(1..PACE_STEPS).map(|seconds| {
            let mut seconds = seconds.to_vec();
            seconds.sort_by(f64::total_cmp);
            Pace { seconds_per_step: seconds[seconds.len() / 2] }
        });
        Ok((metrics, pace))
    }
}

/// Measures the time of a step by making a few steps.
///
/// The steps change the weights, so `trainer` should not be used for a training afterwards.
///
/// # Errors
/// If the loss or a gradient is not finite, or a parameter gets no gradient; an error of the
/// device.
pub fn measure_pace(trainer: &mut Trainer) -> Result<Pace, TrainError> {
    let mut pace_meter = PaceMeter::default();
    loop {
        if let (_, Some(pace)) = pace_meter.step(trainer)? {
            return Ok(pace);
        }
    }
}

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The end given by the configuration is reached.
    Finished,
    /// The observer stopped it; the state is saved.
    Interrupted,
}

/// Evaluations during training, besides the training loss.
#[derive(Default)]
pub struct Checks {
    /// Validation pictures, on which the loss of the EMA weights is measured at the steps of the
    /// sample grids.
    pub validation: Option<ValidationSet>,
    /// An evaluation of generated images.
    pub judge: Option<SampleJudge>,
}

/// Trains until the end given by the configuration, or until `observer` breaks.
///
/// Metrics, sample grids and checkpoints are written into `run_dir`. The last state is always
/// saved.
///
/// # Errors
/// If `run_dir` was opened for reading only; if the loss or a gradient is not finite, or a
/// parameter gets no gradient; if an evaluation fails; an I/O error of the operating system.
pub fn run(
    trainer: &mut Trainer,
    run_dir: &RunDir,
    checks: &Checks,
    observer: &mut dyn FnMut(TrainEvent<'_>) -> ControlFlow<()>,
) -> Result<Outcome, TrainError> {
    if !run_dir.is_locked() {
        let problem =
            "the folder was opened for reading only; create or resume the run to train in it";
        return Err(FileError::unusable(run_dir.path(), problem).into());
    }
    if let Some((newest, path)) = run_dir.layout().complete_checkpoints().pop()
        && newest > trainer.steps_done()
    {
        let problem = format!(
            "the training would begin at step {} and replace this checkpoint; restore it first",
            trainer.steps_done()
        );
        return Err(FileError::unusable(&path, problem).into());
    }
    if run_dir.layout().checkpoint(trainer.steps_done()).is_dir() {
        run_dir.set_latest(trainer.steps_done())?;
    }
    run_dir.write_config(trainer.config())?;
    let mut metrics_file = run_dir.open_metrics(trainer.steps_done())?;
    let (before, start) = (trainer.elapsed(), Instant::now());
    let mut throughput = Throughput::new(trainer.config().batch_size);
    let mut epoch_losses = Vec::new();
    let mut pace_meter = PaceMeter::default();
    let mut flow = ControlFlow::Continue(());
    // With a checkpoint of step 0, a run can be resumed whenever it is killed. `RunDir::start` has
    // saved it.
    if trainer.steps_done() == 0 && run_dir.layout().complete_checkpoints().is_empty() {
        flow = save(trainer, run_dir, observer)?;
    }
    let mut saved_step = trainer.steps_done();
    remove_later_averages(run_dir.layout(), trainer.steps_done())?;
    let averages_due = |trainer: &Trainer| {
        (trainer.share_done() * trainer.config().checkpoint.averages as f64) as usize
    };
    let mut averages_saved = averages_due(trainer);

    while flow.is_continue() && !trainer.is_finished() {
        let (mut metrics, pace) =
            pace_meter.step(trainer).map_err(|e| with_checkpoint(e, run_dir))?;
        trainer.set_elapsed(before + start.elapsed());
        metrics.images_per_second = throughput.tick();
        let grid_every = trainer.config().sample_grid.every;
        let grid_due = grid_every > 0 && metrics.step % grid_every == 0;
        if let Some(validation) = &checks.validation
            && (grid_due || trainer.is_finished())
        {
            metrics.validation_loss = Some(validation.loss(trainer)?);
        }
        if let Some(judge) = checks.judge.as_ref().filter(|judge| judge.is_due(trainer)) {
            match judge_samples(trainer, judge, observer)? {
                ControlFlow::Continue(samples) => {
                    (metrics.samples, metrics.judge) = (samples, judge.name.clone());
                }
                ControlFlow::Break(()) => flow = ControlFlow::Break(()),
            }
        }
        metrics_file.write(&metrics)?;
        flow = first_break(flow, observer(TrainEvent::Step(&metrics)));
        if let Some(pace) = pace {
            flow = first_break(flow, observer(TrainEvent::Pace(pace)));
        }

        epoch_losses.push(metrics.loss);
        if metrics.step % trainer.steps_per_epoch() == 0 {
            let mean_loss = epoch_losses.iter().sum::<f64>() / epoch_losses.len() as f64;
            epoch_losses.clear();
            flow = first_break(
                flow,
                observer(TrainEvent::Epoch { epoch: metrics.epoch + 1, mean_loss }),
            );
        }
        if grid_due && !trainer.is_finished() && flow.is_continue() {
            flow = first_break(flow, write_grid(trainer, run_dir, observer)?);
        }
        if averages_due(trainer) > averages_saved || trainer.is_finished() {
            averages_saved = averages_due(trainer);
            save_averages(trainer, run_dir.layout())?;
        }
        if metrics.step % trainer.config().checkpoint.every == 0 {
            flow = first_break(flow, save(trainer, run_dir, observer)?);
            saved_step = metrics.step;
        }
    }
    trainer.set_elapsed(before + start.elapsed());
    if saved_step != trainer.steps_done() {
        flow = first_break(flow, save(trainer, run_dir, observer)?);
    }
    if !trainer.is_finished() {
        return Ok(Outcome::Interrupted);
    }
    if flow.is_continue() {
        let _ = write_grid(trainer, run_dir, observer)?;
    }
    Ok(Outcome::Finished)
}

fn save(
    trainer: &Trainer,
    run_dir: &RunDir,
    observer: &mut dyn FnMut(TrainEvent<'_>) -> ControlFlow<()>,
) -> Result<ControlFlow<()>, TrainError> {
    Ok(observer(TrainEvent::Checkpoint(run_dir.save(trainer)?)))
}

/// `Break` if either of the two is.
fn first_break(a: ControlFlow<()>, b: ControlFlow<()>) -> ControlFlow<()> {
    if a.is_break() { a } else { b }
}

/// Adds the latest checkpoint to the error of a diverged training.
fn with_checkpoint(error: TrainError, run_dir: &RunDir) -> TrainError {
    match error {
        TrainError::NotFinite { quantity, step, lr, .. } => TrainError::NotFinite {
            quantity,
            step,
            lr,
            last_checkpoint: run_dir.layout().latest_checkpoint().ok(),
        },
        other => other,
    }
}

/// Images per second, averaged over about the last ten steps.
struct Throughput {
    batch_size: usize,
    last: Instant,
    mean: Option<Duration>,
}

impl Throughput {
    fn new(batch_size: usize) -> Self {
        Self { batch_size, last: Instant::now(), mean: None }
    }

    fn tick(&mut self) -> f64 {
        let now = Instant::now();
        let latest = now - self.last;
        self.last = now;
        let mean = self.mean.map_or(latest, |mean| mean.mul_f64(0.9) + latest.mul_f64(0.1));
        self.mean = Some(mean);
        self.batch_size as f64 / mean.as_secs_f64().max(1e-9)
    }
}
