//! A training and its folder: metrics, grids and checkpoints as it goes.

use std::ops::ControlFlow;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use diffusion_files::FileError;
use diffusion_model::GenerationProgress;

use super::samples::{draw_grid, judge_samples};
use super::{HeldOut, RunDir, SampleJudge};
use crate::{StepMetrics, TrainError, Trainer};

/// What a run reports as it goes.
#[derive(Debug)]
pub enum TrainEvent<'a> {
    /// A step was made.
    Step(&'a StepMetrics),
    /// The first steps of this process are done, and say what the others will take.
    Pace(Pace),
    /// A pass over the data ended.
    Epoch {
        /// Counted from 1.
        epoch: u64,
        /// The mean loss of its steps made by this process.
        mean_loss: f64,
    },
    /// A grid is being drawn.
    Sampling(&'a GenerationProgress<'a>),
    /// A grid was written.
    Grid(PathBuf),
    /// A checkpoint was written.
    Checkpoint(PathBuf),
}

/// What the first steps say of all others.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Pace {
    /// The median.
    pub seconds_per_step: f64,
}

/// Steps that are enough to know the pace; the first of them, which fills caches, does not count.
const PACE_STEPS: usize = 5;

/// Measures the first steps.
#[derive(Default)]
struct Pacemaker {
    seconds: Vec<f64>,
}

impl Pacemaker {
    /// One step of `trainer`, and the pace when this was the last step needed to know it.
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

/// Makes a few steps to learn what the others will take. The training is no longer at its beginning afterwards: it is for those
/// who do not go on with it.
///
/// # Errors
/// Those of [`Trainer::step`].
pub fn rehearse(trainer: &mut Trainer) -> Result<Pace, TrainError> {
    let mut pacemaker = Pacemaker::default();
    loop {
        if let (_, Some(pace)) = pacemaker.step(trainer)? {
            return Ok(pace);
        }
    }
}

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Where its configuration says.
    Finished,
    /// Where its callback said; the state is saved.
    Interrupted,
}

/// What is looked at on the way, besides the loss.
#[derive(Default)]
pub struct Checks {
    /// Pictures kept out of training, on which the loss of the averaged weights is measured.
    pub validation: Option<HeldOut>,
    /// A judge of generated images.
    pub judge: Option<SampleJudge>,
}

/// Trains until the configuration's end or until `observer` breaks, saving into `run_dir` as the configuration says and
/// always at the end.
///
/// # Errors
/// Those of [`Trainer::step`]; what the system refuses in the folder.
pub fn run(
    trainer: &mut Trainer,
    run_dir: &RunDir,
    checks: &Checks,
    observer: &mut dyn FnMut(TrainEvent<'_>) -> ControlFlow<()>,
) -> Result<Outcome, TrainError> {
    if !run_dir.is_locked() {
        let problem = "the folder was opened to look at it; create or resume it to train there";
        return Err(FileError::unusable(run_dir.path(), problem).into());
    }
    run_dir.write_config(trainer.config())?;
    let mut metrics_file = run_dir.open_metrics(trainer.steps_done())?;
    let (before, start) = (trainer.elapsed(), Instant::now());
    let mut rate = Rate::new(trainer.config().batch_size);
    let mut epoch_losses = Vec::new();
    let mut pacemaker = Pacemaker::default();
    let mut flow = ControlFlow::Continue(());
    // With a checkpoint from the first moment on, a run can be resumed whenever it is killed.
    if trainer.steps_done() == 0 {
        flow = save(trainer, run_dir, observer)?;
    }
    let mut saved_step = trainer.steps_done();

    while flow.is_continue() && !trainer.is_finished() {
        let (mut metrics, pace) =
            pacemaker.step(trainer).map_err(|e| with_checkpoint(e, run_dir))?;
        trainer.set_elapsed(before + start.elapsed());
        metrics.images_per_second = rate.tick();
        let grid_every = trainer.config().sample_grid.every;
        let look = grid_every > 0 && metrics.step % grid_every == 0;
        if let Some(held_out) = &checks.validation
            && (look || trainer.is_finished())
        {
            metrics.validation_loss = Some(held_out.loss(trainer)?);
        }
        if let Some(judge) = checks.judge.as_ref().filter(|judge| judge.is_due(trainer)) {
            match judge_samples(trainer, judge, observer)? {
                ControlFlow::Continue(samples) => metrics.samples = samples,
                ControlFlow::Break(()) => flow = ControlFlow::Break(()),
            }
        }
        metrics_file.write(&metrics)?;
        flow = both(flow, observer(TrainEvent::Step(&metrics)));
        if let Some(pace) = pace {
            flow = both(flow, observer(TrainEvent::Pace(pace)));
        }

        epoch_losses.push(metrics.loss);
        if metrics.step % trainer.steps_per_epoch() == 0 {
            let mean_loss = epoch_losses.iter().sum::<f64>() / epoch_losses.len() as f64;
            epoch_losses.clear();
            flow = both(flow, observer(TrainEvent::Epoch { epoch: metrics.epoch + 1, mean_loss }));
        }
        if look && !trainer.is_finished() && flow.is_continue() {
            flow = both(flow, draw_grid(trainer, run_dir, observer)?);
        }
        if metrics.step % trainer.config().checkpoint.every == 0 {
            flow = both(flow, save(trainer, run_dir, observer)?);
            saved_step = metrics.step;
        }
    }
    trainer.set_elapsed(before + start.elapsed());
    if saved_step != trainer.steps_done() {
        flow = both(flow, save(trainer, run_dir, observer)?);
    }
    if !trainer.is_finished() {
        return Ok(Outcome::Interrupted);
    }
    if flow.is_continue() {
        let _ = draw_grid(trainer, run_dir, observer)?;
    }
    Ok(Outcome::Finished)
}

fn save(
    trainer: &Trainer,
    run_dir: &RunDir,
    observer: &mut dyn FnMut(TrainEvent<'_>) -> ControlFlow<()>,
) -> Result<ControlFlow<()>, TrainError> {
    let step = trainer.steps_done();
    let path = run_dir.layout().checkpoint(step);
    trainer.checkpoint()?.write(&path)?;
    run_dir.set_latest(step)?;
    run_dir.prune_checkpoints(step, trainer.config().checkpoint.keep)?;
    Ok(observer(TrainEvent::Checkpoint(path)))
}

fn both(a: ControlFlow<()>, b: ControlFlow<()>) -> ControlFlow<()> {
    if a.is_break() { a } else { b }
}

fn with_checkpoint(error: TrainError, run_dir: &RunDir) -> TrainError {
    match error {
        TrainError::NotFinite { what, step, lr, .. } => TrainError::NotFinite {
            what,
            step,
            lr,
            last_checkpoint: run_dir.layout().latest_checkpoint().ok(),
        },
        other => other,
    }
}

/// Images a second, averaged over about the last ten steps.
struct Rate {
    batch_size: usize,
    last: Instant,
    mean: Option<Duration>,
}

impl Rate {
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
