//! The mathematics of training, one step at a time.

use std::collections::BTreeMap;
use std::time::Duration;

use candle_core::{Device, Tensor};
use diffusion_data::{ImageDataset, Loader, LoaderConfig};
use diffusion_kernels::in_pool;
use diffusion_model::{FORMAT_VERSION, ModelDescription, Objective};
use diffusion_nn::{DropoutNoise, ParameterError, Parameters};
use diffusion_random::{Domain, NoiseSource};
use diffusion_unet::TrainingNetwork;
use rand::RngExt;
use tracing::trace_span;

use super::guard;
use super::metrics::{StepMetrics, by_quartile};
use crate::{
    AdamW, Checkpoint, CheckpointFile, CheckpointState, DrawnLevels, Ema, Gradients, LevelSampler,
    RestoreError, TrainConfig, TrainError, TrainingLoss,
};

/// A network to be trained, its parameters, and what it is.
pub struct TrainingModel {
    /// What it is.
    pub description: ModelDescription,
    /// The network.
    pub network: Box<dyn TrainingNetwork + Send + Sync>,
    /// Its parameters.
    pub parameters: Parameters,
}

/// A training in progress. Every random number is a function of (seed, step, position in the batch), so the state is
/// the tensors, the step, the loader's position and the losses that importance sampling goes by, and nothing else.
pub struct Trainer {
    config: TrainConfig,
    device: Device,
    loader: Loader,
    data_fingerprint: u32,
    loss: TrainingLoss,
    levels: LevelSampler,
    source: NoiseSource,
    model: TrainingModel,
    optimizer: AdamW,
    ema: Ema,
    step: u64,
    elapsed: Duration,
}

impl Trainer {
    /// A training of `model` at its beginning.
    ///
    /// # Errors
    /// A configuration that cannot be trained, by itself or on this data.
    pub fn new(
        config: &TrainConfig,
        model: TrainingModel,
        dataset: &ImageDataset,
        device: &Device,
    ) -> Result<Self, TrainError> {
        config.validate()?;
        let objective = config.objective()?;
        let loader = LoaderConfig {
            batch_size: config.batch_size,
            seed: config.seed,
            repeat: config.pictures.repeat,
            flip: config.pictures.flip,
        };
        Ok(Self {
            loader: Loader::new(dataset, loader)?,
            data_fingerprint: dataset.fingerprint(),
            levels: LevelSampler::new(config.timestep_sampling, &objective),
            loss: TrainingLoss {
                objective,
                config: config.loss,
                learned_variance: config.learned_variance,
            },
            source: NoiseSource::new(config.seed),
            optimizer: AdamW::new(config.optimizer, &model.parameters)?,
            ema: Ema::new(config.ema, &model.parameters)?,
            model,
            step: 0,
            elapsed: Duration::ZERO,
            config: config.clone(),
            device: device.clone(),
        })
    }

    /// One update: predict at random noise levels, compare, go down the gradient (Ho et al. 2020, algorithm 1).
    ///
    /// # Errors
    /// A loss or gradient that is not finite, naming the first bad tensor; in the first step, parameters that got no
    /// gradient.
    pub fn step(&mut self) -> Result<StepMetrics, TrainError> {
        let _span = trace_span!("the rest of the step").entered();
        let lr = self.lr();
        let epoch = self.loader.position().epoch;
        let batch = trace_span!("load").in_scope(|| self.loader.next_batch(&self.device))?;
        let classes = self.classes_after_dropout(batch.labels);
        let drawn =
            self.levels.draw(self.objective(), self.source, self.step, self.config.batch_size);

        let (losses, mut gradients) =
            in_pool(|| self.losses_and_gradients(&batch.images, &classes, &drawn))?;
        let loss = drawn.mean(&losses);
        let grad_norm = gradients.global_norm()?;
        guard::finite(loss, grad_norm, &gradients, self.parameters())
            .map_err(|e| e.at(self.step, lr))?;
        if self.step == guard::first_step_with_gradients(&self.model.description.network) {
            guard::every_parameter_learns(&gradients, self.parameters(), self.config.loss.error)?;
        }
        if let Some(max_norm) = self.config.clip_grad_norm {
            gradients.clip(grad_norm, max_norm);
        }
        trace_span!("AdamW and moving average").in_scope(|| {
            self.optimizer.update(&self.model.parameters, &gradients, lr, Some(&self.ema))
        })?;
        self.levels.record(&drawn.levels, &losses);
        self.step += 1;
        let shares: Vec<f64> =
            drawn.levels.iter().map(|level| self.objective().share_below(level)).collect();
        let loss_by_t_quartile = by_quartile(&losses, &shares);
        Ok(StepMetrics {
            step: self.step,
            epoch,
            loss,
            loss_by_t_quartile,
            lr,
            grad_norm,
            ..Default::default()
        })
    }

    /// The loss of each image, and the gradient of their mean as `drawn` counts them, computed in `accumulate` parts.
    fn losses_and_gradients(
        &self,
        images: &Tensor,
        classes: &[Option<u32>],
        drawn: &DrawnLevels,
    ) -> Result<(Vec<f32>, Gradients), TrainError> {
        let part = drawn.levels.len() / self.config.accumulate;
        let mut losses = Vec::with_capacity(drawn.levels.len());
        let mut gradients = Gradients::default();
        for (k, levels) in drawn.levels.chunks_exact(part).enumerate() {
            let first = k * part;
            let x0 = images.narrow(0, first, part)?;
            let noise =
                trace_span!("draw noise").in_scope(|| self.noise(first as u64, part as u64))?;
            let batch = self.objective().noisy_batch(&x0, &noise, levels)?;
            let dropout =
                DropoutNoise { source: self.source, draw: self.step, first_index: first as u64 };
            let classes = &classes[first..first + part];
            let output = trace_span!("forward, between the operations").in_scope(|| {
                self.model.network.forward_training(
                    &batch.input,
                    &batch.timesteps,
                    classes,
                    dropout,
                )
            })?;
            let loss = self.loss.per_image(&output, &batch)?;
            let mean = (drawn.weigh(&loss, first)?.sum_all()? / self.config.batch_size as f64)?;
            let store =
                trace_span!("backward, between the operations").in_scope(|| mean.backward())?;
            gradients.accumulate(&self.model.parameters, store)?;
            losses.extend(loss.to_vec1::<f32>()?);
        }
        Ok((losses, gradients))
    }

    /// The classes of a batch as the network sees them: a share of `labels` is left out.
    fn classes_after_dropout(&self, labels: Vec<Option<u32>>) -> Vec<Option<u32>> {
        if self.model.description.classes.is_empty() {
            return vec![None; labels.len()];
        }
        let hidden = |i| {
            let mut rng = self.source.rng(Domain::HiddenLabel, self.step, i as u64);
            rng.random::<f64>() < self.config.class_dropout
        };
        labels.into_iter().enumerate().map(|(i, label)| label.filter(|_| !hidden(i))).collect()
    }

    /// ε for `count` images of the batch, from number `first` on.
    fn noise(&self, first: u64, count: u64) -> candle_core::Result<Tensor> {
        let shape @ [channels, _, _] = self.model.description.image_shape;
        let normal = |domain, shape: &[usize]| {
            self.source.normal(domain, self.step, first..first + count, shape, &self.device)
        };
        let noise = normal(Domain::Training, &shape)?;
        match self.config.offset_noise {
            0.0 => Ok(noise),
            strength => noise
                .broadcast_add(&normal(Domain::Offset, &[channels, 1, 1])?.affine(strength, 0.0)?),
        }
    }

    fn lr(&self) -> f64 {
        self.config.lr_schedule.lr(self.config.optimizer.lr, self.step, self.progress())
    }

    /// How far the learning rate's decay is: by steps, by the clock, whichever is further.
    fn progress(&self) -> f64 {
        let by_steps = self
            .total_steps()
            .map_or(0.0, |total| self.config.lr_schedule.progress(self.step, total));
        let by_clock = self
            .config
            .max_minutes
            .map_or(0.0, |minutes| (self.elapsed.as_secs_f64() / (60.0 * minutes)).min(1.0));
        by_steps.max(by_clock)
    }

    /// Updates made so far.
    pub fn steps_done(&self) -> u64 {
        self.step
    }

    /// Updates to make, if `steps` or `epochs` say so.
    pub fn total_steps(&self) -> Option<u64> {
        let by_epochs =
            self.config.epochs.map(|epochs| epochs.saturating_mul(self.loader.batches_per_epoch()));
        [self.config.steps, by_epochs].into_iter().flatten().min()
    }

    /// Updates in one pass over the data.
    pub fn steps_per_epoch(&self) -> u64 {
        self.loader.batches_per_epoch()
    }

    /// Whether the configuration's end is reached.
    pub fn is_finished(&self) -> bool {
        self.total_steps().is_some_and(|total| self.step >= total)
            || self
                .config
                .max_minutes
                .is_some_and(|minutes| self.elapsed.as_secs_f64() >= 60.0 * minutes)
    }

    /// Tells the trainer how long it has been at work in all; a time limit and its learning rate follow this clock.
    pub fn set_elapsed(&mut self, elapsed: Duration) {
        self.elapsed = elapsed;
    }

    /// What [`set_elapsed`](Self::set_elapsed) said last, or the checkpoint that this training goes on from.
    pub fn elapsed(&self) -> Duration {
        self.elapsed
    }

    /// The configuration.
    pub fn config(&self) -> &TrainConfig {
        &self.config
    }

    /// What is being trained.
    pub fn description(&self) -> &ModelDescription {
        &self.model.description
    }

    /// The process that is trained.
    pub fn objective(&self) -> &Objective {
        &self.loss.objective
    }

    /// The loss that is minimised.
    pub fn loss(&self) -> &TrainingLoss {
        &self.loss
    }

    /// The trained weights.
    pub fn parameters(&self) -> &Parameters {
        &self.model.parameters
    }

    /// Their moving average.
    pub fn ema(&self) -> &Ema {
        &self.ema
    }

    /// The device.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// The training at rest. Its tensors share memory with the trainer's: write it before the next step.
    ///
    /// # Errors
    /// Those of [`TrainConfig::hash`].
    pub fn checkpoint(&self) -> Result<Checkpoint, TrainError> {
        Ok(Checkpoint {
            loss_history: self.levels.history().cloned(),
            state: CheckpointState {
                format_version: FORMAT_VERSION,
                step: self.step,
                elapsed_seconds: self.elapsed.as_secs_f64(),
                seed: self.config.seed,
                position: self.loader.position(),
                config_hash: self.config.hash()?,
                data_fingerprint: self.data_fingerprint,
                model: self.model.description.clone(),
            },
            model: self.model.parameters.tensors(),
            ema: self.ema.tensors(),
            optimizer: self.optimizer.tensors(),
        })
    }

    /// Goes on from a checkpoint.
    ///
    /// # Errors
    /// A checkpoint of another network, configuration or data set; each says in what it differs, and in which file.
    pub fn restore(&mut self, checkpoint: Checkpoint) -> Result<(), RestoreError> {
        let state = checkpoint.state;
        let refuse = |problem: &str| Err(RestoreError::new(None, problem));
        if state.data_fingerprint != self.data_fingerprint {
            return Err(RestoreError::OtherData);
        }
        if state.model != self.model.description {
            return refuse("it holds another model than the run's configuration and data describe");
        }
        if !self.config.has_hash(&state.config_hash).map_err(|e| RestoreError::new(None, e))? {
            return refuse(
                "the run's config.toml was changed since; only steps, epochs, max_minutes, checkpoint and sample_grid \
                 may change in a run",
            );
        }
        let position = state.position;
        let batches = position.epoch.checked_mul(self.loader.batches_per_epoch());
        if state.seed != self.config.seed
            || batches.and_then(|n| n.checked_add(position.batch)) != Some(state.step)
        {
            let problem = "its seed, step and position do not belong together; it was changed by hand or damaged";
            return Err(RestoreError::new(Some(CheckpointFile::State), problem));
        }
        let parameters = &self.model.parameters;
        for (tensors, file) in
            [(&checkpoint.ema, CheckpointFile::Ema), (&checkpoint.model, CheckpointFile::Model)]
        {
            parameters.load(tensors).map_err(|e| RestoreError::new(Some(file), e))?;
        }
        let device_error = |e| RestoreError::new(None, e);
        self.ema.restore(checkpoint.ema).map_err(device_error)?;
        self.optimizer
            .restore(state.step, checkpoint.optimizer)
            .map_err(|e| RestoreError::new(Some(CheckpointFile::Optimizer), e))?;
        self.levels.restore(checkpoint.loss_history)?;
        self.loader.seek(position).map_err(|e| RestoreError::new(None, e))?;
        self.step = state.step;
        self.elapsed = Duration::try_from_secs_f64(state.elapsed_seconds)
            .map_err(|e| RestoreError::new(None, format!("elapsed_seconds: {e}")))?;
        Ok(())
    }

    /// Begins with `weights` in place of random ones. Optimizer and moving average begin anew.
    ///
    /// # Errors
    /// A tensor that is missing, unknown or of another shape than this training's network needs.
    pub(crate) fn start_with(
        &mut self,
        weights: &BTreeMap<String, Tensor>,
    ) -> Result<(), ParameterError> {
        self.model.parameters.load(weights)?;
        self.ema = Ema::new(self.config.ema, &self.model.parameters)?;
        Ok(())
    }
}
