//! The trainer: one update at a time, and its state.

use std::collections::BTreeMap;
use std::ops::Range;
use std::time::Duration;

use candle_core::{Device, Tensor};
use diffusion_data::{Batch, ImageDataset, Loader, LoaderConfig};
use diffusion_kernels::{
    Precision, autocast, backward, checkpoint_activations, in_parallel, in_pool,
};
use diffusion_model::{FORMAT_VERSION, ModelDescription, Objective};
use diffusion_nn::{DropoutNoise, ParameterError, Parameters};
use diffusion_random::{Domain, NoiseSource};
use diffusion_unet::TrainingNetwork;
use rand::RngExt;
use tracing::trace_span;

use super::guard;
use super::metrics::{StepMetrics, by_quartile};
use super::power_ema::PowerEma;
use crate::{
    AdamW, Checkpoint, CheckpointFile, CheckpointState, DrawnLevels, Ema, Gradients, LevelSampler,
    PowerProfile, RestoreError, TrainConfig, TrainError, TrainingLoss, TrainingPrecision,
};

const _: () = assert!(diffusion_data::AUGMENTATION_LABELS == diffusion_unet::AUGMENTATION_LABELS);

/// A network to train, its parameters and its description.
pub struct TrainingModel {
    /// The description of the model.
    pub description: ModelDescription,
    /// The network.
    pub network: Box<dyn TrainingNetwork + Send + Sync>,
    /// The parameters of the network.
    pub parameters: Parameters,
}

/// A training in progress.
///
/// Every random number is a function of the seed, the step and the position in the batch. The state
/// therefore consists of the tensors, the step, the loader's position and the loss history of
/// importance sampling.
pub struct Trainer {
    config: TrainConfig,
    precision: Precision,
    device: Device,
    loader: Loader,
    data_fingerprint: u32,
    loss: TrainingLoss,
    levels: LevelSampler,
    source: NoiseSource,
    model: TrainingModel,
    optimizer: AdamW,
    ema: Ema,
    /// Averages of other lengths, if the run saves them.
    averages: Option<PowerEma>,
    step: u64,
    elapsed: Duration,
}

impl Trainer {
    /// A new training of `model` on `dataset`.
    ///
    /// # Errors
    /// If the configuration is invalid or does not fit the data; an error of the device.
    pub fn new(
        config: &TrainConfig,
        model: TrainingModel,
        dataset: &ImageDataset,
        device: &Device,
    ) -> Result<Self, TrainError> {
        config.validate()?;
        let precision = config.precision.on(device);
        if config.precision == TrainingPrecision::Bf16 && precision == Precision::F32 {
            tracing::warn!(
                "bf16 needs a CPU with AVX512-BF16 or a GPU with bf16; training in f32 instead"
            );
        }
        let objective = config.objective()?;
        let loader = LoaderConfig {
            batch_size: config.batch_size,
            seed: config.seed,
            repeat: config.pictures.repeat,
            flip: config.pictures.flip,
            augment: config.pictures.augment,
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
            averages: (config.checkpoint.averages > 0)
                .then(|| PowerEma::new(&model.parameters))
                .transpose()?,
            model,
            step: 0,
            elapsed: Duration::ZERO,
            config: config.clone(),
            precision,
            device: device.clone(),
        })
    }

    /// Makes one update: noise a batch, predict, compute the loss, descend its gradient (Ho et al.
    /// 2020, algorithm 1).
    ///
    /// # Errors
    /// If the loss or a gradient is not finite; if a parameter gets no gradient in the first step,
    /// or in the third for a network whose output starts as zeros. The error names the tensors.
    pub fn step(&mut self) -> Result<StepMetrics, TrainError> {
        let _span = trace_span!("training step, other").entered();
        let lr = self.learning_rate();
        let epoch = self.loader.position().epoch;
        let batch = trace_span!("load batch").in_scope(|| self.loader.next_batch(&self.device))?;
        let classes = self.classes_after_dropout(&batch.labels);
        let drawn =
            self.levels.draw(self.objective(), self.source, self.step, self.config.batch_size);

        let (losses, mut gradients) = autocast(self.precision, || {
            checkpoint_activations(self.config.checkpoint_activations, || {
                self.losses_and_gradients(&batch, &classes, &drawn)
            })
        })?;
        let loss = drawn.mean(&losses);
        let grad_norm = gradients.global_norm()?;
        guard::check_finite(loss, grad_norm, &gradients, self.parameters())
            .map_err(|e| e.at(self.step, lr))?;
        if self.step == guard::first_step_with_gradients(&self.model.description.network) {
            guard::check_every_parameter_learns(
                &gradients,
                self.parameters(),
                self.config.loss.error,
            )?;
        }
        if let Some(max_norm) = self.config.clip_grad_norm {
            gradients.clip(grad_norm, max_norm);
        }
        trace_span!("AdamW and EMA").in_scope(|| {
            self.optimizer.update(&self.model.parameters, &gradients, lr, Some(&self.ema))
        })?;
        self.levels.record(&drawn.levels, &losses);
        self.step += 1;
        if let Some(averages) = &mut self.averages {
            in_pool(|| averages.update(&self.model.parameters, self.step))?;
        }
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

    /// The loss of each image, and the gradients of their weighted mean. The batch is computed in
    /// `accumulate` parts one after the other, each in `parallel_parts` parts at the same time.
    fn losses_and_gradients(
        &self,
        batch: &Batch,
        classes: &[Option<u32>],
        drawn: &DrawnLevels,
    ) -> Result<(Vec<f32>, Gradients), TrainError> {
        let mut losses = Vec::with_capacity(drawn.levels.len());
        let mut gradients = Gradients::default();
        let accumulated = self.config.batch_size / self.config.accumulate;
        // A GPU computes everything at the same time.
        let parallel = if self.device.is_cpu() { self.config.parallel_parts } else { 1 };
        let part = accumulated.div_ceil(parallel);
        for first in (0..self.config.batch_size).step_by(accumulated) {
            let parts = in_parallel(accumulated.div_ceil(part), |i| {
                let range = first + i * part..first + accumulated.min((i + 1) * part);
                self.part(range, batch, classes, drawn)
            });
            let parts = parts.into_iter().collect::<Result<Vec<_>, _>>()?;
            let (of_parts, of_images): (Vec<_>, Vec<_>) = parts.into_iter().unzip();
            in_pool(|| gradients.add(Gradients::total(of_parts)?))?;
            losses.extend(of_images.into_iter().flatten());
        }
        Ok((losses, gradients))
    }

    /// The losses of some images of the batch, and the gradients of their part of the weighted mean
    /// over the whole batch.
    fn part(
        &self,
        part: Range<usize>,
        batch: &Batch,
        classes: &[Option<u32>],
        drawn: &DrawnLevels,
    ) -> Result<(Gradients, Vec<f32>), TrainError> {
        let (first, count) = (part.start as u64, part.len() as u64);
        let of_part = |tensor: &Tensor| tensor.narrow(0, part.start, part.len());
        let x0 = of_part(&batch.images)?;
        let augmentation = batch.augmentation.as_ref().map(of_part).transpose()?;
        let noise = trace_span!("draw noise").in_scope(|| self.noise(first, count))?;
        let batch = self.objective().noisy_batch(&x0, &noise, &drawn.levels[part.clone()])?;
        let dropout = DropoutNoise { source: self.source, draw: self.step, first_index: first };
        let classes = &classes[part.clone()];
        let output = trace_span!("forward, other").in_scope(|| {
            let (network, augmentation) = (&self.model.network, augmentation.as_ref());
            network.forward_training(&batch.input, &batch.timesteps, classes, augmentation, dropout)
        })?;
        let loss = self.loss.per_image(&output, &batch)?;
        let share =
            (drawn.weighted(&loss, part.start)?.sum_all()? / self.config.batch_size as f64)?;
        let store = trace_span!("backward, other").in_scope(|| backward(&share))?;
        Ok((Gradients::new(&self.model.parameters, store), loss.to_vec1::<f32>()?))
    }

    /// The classes that the network is conditioned on: `labels`, some of them hidden at random.
    fn classes_after_dropout(&self, labels: &[Option<u32>]) -> Vec<Option<u32>> {
        if self.model.description.classes.is_empty() {
            return vec![None; labels.len()];
        }
        let hidden = |i| {
            let mut rng = self.source.rng(Domain::HiddenLabel, self.step, i as u64);
            rng.random::<f64>() < self.config.class_dropout
        };
        labels.iter().enumerate().map(|(i, label)| label.filter(|_| !hidden(i))).collect()
    }

    /// The noise ε, (count, C, H, W), of the images of the batch from index `first` on.
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

    /// The learning rate of the next update.
    pub fn learning_rate(&self) -> f64 {
        self.config.lr_schedule.lr(self.config.optimizer.lr, self.step, self.progress())
    }

    /// The progress of the learning rate's decay: the larger of steps done and time used.
    fn progress(&self) -> f64 {
        let by_steps = self
            .total_steps()
            .map_or(0.0, |total| self.config.lr_schedule.progress(self.step, total));
        by_steps.max(self.share_of_time())
    }

    /// The share of the training that is done, in \[0, 1\]: the larger of steps and time.
    pub(crate) fn share_done(&self) -> f64 {
        let by_steps =
            self.total_steps().map_or(0.0, |total| self.step as f64 / total.max(1) as f64);
        by_steps.max(self.share_of_time()).min(1.0)
    }

    /// The share of the time limit that is used, in \[0, 1\]; 0 without a limit.
    fn share_of_time(&self) -> f64 {
        let share = |minutes: f64| (self.elapsed.as_secs_f64() / (60.0 * minutes)).min(1.0);
        self.config.max_minutes.map_or(0.0, share)
    }

    /// The number of updates made.
    pub fn steps_done(&self) -> u64 {
        self.step
    }

    /// The number of updates to make, if `steps` or `epochs` is set.
    pub fn total_steps(&self) -> Option<u64> {
        let by_epochs =
            self.config.epochs.map(|epochs| epochs.saturating_mul(self.loader.batches_per_epoch()));
        [self.config.steps, by_epochs].into_iter().flatten().min()
    }

    /// The number of updates per pass over the data.
    pub fn steps_per_epoch(&self) -> u64 {
        self.loader.batches_per_epoch()
    }

    /// Whether `steps`, `epochs` or `max_minutes` of the configuration is reached.
    pub fn is_finished(&self) -> bool {
        self.total_steps().is_some_and(|total| self.step >= total)
            || self
                .config
                .max_minutes
                .is_some_and(|minutes| self.elapsed.as_secs_f64() >= 60.0 * minutes)
    }

    /// Sets the total training time, which determines the time limit and its learning rate.
    pub fn set_elapsed(&mut self, elapsed: Duration) {
        self.elapsed = elapsed;
    }

    /// The total training time: the last value of [`set_elapsed`](Self::set_elapsed), or that of
    /// the checkpoint.
    pub fn elapsed(&self) -> Duration {
        self.elapsed
    }

    /// The configuration.
    pub fn config(&self) -> &TrainConfig {
        &self.config
    }

    /// The description of the model.
    pub fn description(&self) -> &ModelDescription {
        &self.model.description
    }

    /// The training objective: diffusion, flow or EDM.
    pub fn objective(&self) -> &Objective {
        &self.loss.objective
    }

    /// The training loss.
    pub fn loss(&self) -> &TrainingLoss {
        &self.loss
    }

    /// The weights, not averaged.
    pub fn parameters(&self) -> &Parameters {
        &self.model.parameters
    }

    /// The moving average of the weights.
    pub fn ema(&self) -> &Ema {
        &self.ema
    }

    /// The averages of the weights by power functions and their profiles; `None` if the run does
    /// not save them, or before their first update.
    pub(crate) fn averages(&self) -> Option<([PowerProfile; 2], BTreeMap<String, Tensor>)> {
        let averages = self.averages.as_ref()?;
        Some((averages.profiles()?, averages.tensors()))
    }

    /// The device.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// The complete state of the training. Its tensors share memory with the trainer's, so write it
    /// before the next step.
    ///
    /// # Errors
    /// If the configuration cannot be written as JSON, which does not happen in practice.
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
            averages: self.averages.as_ref().map(PowerEma::tensors),
        })
    }

    /// Restores the state of a checkpoint.
    ///
    /// # Errors
    /// If the checkpoint has another network, configuration or data set, or is damaged. The error
    /// names the difference and, if known, the file.
    pub fn restore(&mut self, checkpoint: Checkpoint) -> Result<(), RestoreError> {
        let state = checkpoint.state;
        let incompatible = |problem: &str| Err(RestoreError::new(None, problem));
        if state.data_fingerprint != self.data_fingerprint {
            return Err(RestoreError::OtherData);
        }
        if state.model != self.model.description {
            return incompatible("it has another model than config.toml and the data describe");
        }
        if !self.config.has_hash(&state.config_hash).map_err(|e| RestoreError::new(None, e))? {
            return incompatible(
                "the run's config.toml was changed after this checkpoint; only steps, epochs, \
                 max_minutes, checkpoint and sample_grid may change within a run",
            );
        }
        let position = state.position;
        let batches = position.epoch.checked_mul(self.loader.batches_per_epoch());
        if state.seed != self.config.seed
            || batches.and_then(|n| n.checked_add(position.batch)) != Some(state.step)
        {
            let problem =
                "its seed, step and position do not belong together; it was edited or is damaged";
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
        match (&mut self.averages, checkpoint.averages) {
            (None, _) => {}
            (Some(averages), Some(tensors)) => averages
                .restore(state.step, tensors)
                .map_err(|e| RestoreError::new(Some(CheckpointFile::Averages), e))?,
            (Some(_), None) if state.step == 0 => {}
            (Some(_), None) => {
                return Err(RestoreError::new(
                    None,
                    "it has no averages of the weights; checkpoint.averages can be switched on \
                     at the start of a run only",
                ));
            }
        }
        self.loader.seek(position).map_err(|e| RestoreError::new(None, e))?;
        self.step = state.step;
        self.elapsed = Duration::try_from_secs_f64(state.elapsed_seconds)
            .map_err(|e| RestoreError::new(None, format!("elapsed_seconds: {e}")))?;
        Ok(())
    }

    /// Replaces the weights. The moving average starts anew.
    ///
    /// # Errors
    /// If a tensor is missing, unknown or has another shape than this training's network needs.
    pub(crate) fn start_with(
        &mut self,
        weights: &BTreeMap<String, Tensor>,
    ) -> Result<(), ParameterError> {
        self.model.parameters.load(weights)?;
        self.ema = Ema::new(self.config.ema, &self.model.parameters)?;
        if self.averages.is_some() {
            self.averages = Some(PowerEma::new(&self.model.parameters)?);
        }
        Ok(())
    }
}
