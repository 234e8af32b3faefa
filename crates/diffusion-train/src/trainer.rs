//! The mathematics of training, one step at a time.

use std::collections::BTreeMap;
use std::time::Duration;

use candle_core::{DType, Device, Tensor};
use diffusion_data::{ImageDataset, Loader, LoaderConfig};
use diffusion_kernels::in_pool;
use diffusion_process::{Domain, Network, NoiseSource};
use diffusion_unet::{DropoutNoise, NetworkConfig, Parameters, TimeEmbeddingType, TrainingNetwork};
use rand::RngExt;
use tracing::trace_span;

use crate::checkpoint::{Checkpoint, CheckpointState, FORMAT_VERSION};
use crate::config::ConfigError;
use crate::held_out::HeldOut;
use crate::metrics::by_quartile;
use crate::model::DATA_RANGE;
use crate::{
    AdamW, Conditional, DrawnLevels, Ema, Gradients, LevelSampler, ModelClass, ModelDescription, Objective,
    PixelError, SampleJudge, StepMetrics, TrainConfig, TrainError, TrainingLoss,
};

/// A training in progress. Every random number is a function of (seed, step, position in the batch), so the state is
/// the tensors, the step, the loader's position and the losses that importance sampling goes by, and nothing else.
pub struct Trainer {
    config: TrainConfig,
    device: Device,
    loader: Loader,
    data_fingerprint: u32,
    description: ModelDescription,
    loss: TrainingLoss,
    levels: LevelSampler,
    source: NoiseSource,
    network: Box<dyn TrainingNetwork + Send + Sync>,
    parameters: Parameters,
    optimizer: AdamW,
    ema: Ema,
    step: u64,
    elapsed: Duration,
    held_out: Option<HeldOut>,
    judge: Option<SampleJudge>,
}

impl Trainer {
    /// A training at its beginning.
    ///
    /// # Errors
    /// A configuration that cannot be trained, by itself or on this data.
    pub fn new(config: &TrainConfig, dataset: &ImageDataset, device: &Device) -> Result<Self, TrainError> {
        config.validate()?;
        let image_shape = dataset.image_shape();
        let classes = classes_for(config, dataset)?;
        let untold = config.class_dropout > 0.0 || (0..dataset.len()).any(|i| dataset.label(i).is_none());
        let network_config = network_for(config, image_shape, classes.len(), untold)?;
        let objective = config.objective()?;
        let (network, parameters) =
            Parameters::initialise(config.seed, device, |vb| network_config.build_for_training(vb))
                .map_err(|e| ConfigError::Text { place: "network".to_owned(), problem: e.to_string() })?;
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
            loss: TrainingLoss { objective, config: config.loss, learned_variance: config.learned_variance },
            source: NoiseSource::new(config.seed),
            network,
            optimizer: AdamW::new(config.optimizer, &parameters)?,
            ema: Ema::new(config.ema, &parameters)?,
            parameters,
            step: 0,
            elapsed: Duration::ZERO,
            held_out: None,
            judge: None,
            description: ModelDescription {
                network: network_config,
                schedule: config.schedule.clone(),
                prediction_type: config.prediction_type,
                edm: config.edm,
                classes,
                image_shape,
                data_range: DATA_RANGE,
            },
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
        let classes = self.told_classes(batch.labels);
        let batch_size = self.config.batch_size;
        let drawn = self.levels.draw(self.objective(), self.source, self.step, batch_size);

        let (losses, mut gradients) = in_pool(|| self.losses_and_gradients(&batch.images, &classes, &drawn))?;
        let loss = drawn.mean(&losses);
        let grad_norm = gradients.global_norm()?;
        if !loss.is_finite() || !grad_norm.is_finite() {
            return Err(self.not_finite(loss, &gradients, lr)?);
        }
        // An output of zeros has learned something after two updates: the first one of a warm-up has the rate 0.
        let judged_step = if self.description.network.begins_with_zeros() { 2 } else { 0 };
        if self.step == judged_step {
            let mut names = gradients.dead(&self.parameters)?;
            if self.config.loss.error == PixelError::L1 {
                // The signs that its gradient consists of may add up to exactly 0.
                names.retain(|name| gradients.get(name).is_none());
            }
            if !names.is_empty() {
                return Err(TrainError::DeadParameters { names });
            }
        }
        if let Some(max_norm) = self.config.clip_grad_norm {
            gradients.clip(grad_norm, max_norm);
        }
        trace_span!("AdamW and moving average")
            .in_scope(|| self.optimizer.update(&self.parameters, &gradients, lr, Some(&self.ema)))?;
        self.levels.record(&drawn.levels, &losses);
        self.step += 1;
        let shares: Vec<f64> = drawn.levels.iter().map(|level| self.objective().share_below(level)).collect();
        Ok(StepMetrics {
            step: self.step,
            epoch,
            loss,
            loss_by_t_quartile: by_quartile(&losses, &shares),
            lr,
            grad_norm,
            images_per_second: 0.0,
            validation_loss: None,
            samples: BTreeMap::new(),
        })
    }

    /// Names the pictures, kept out of training, that [`validation_loss`](Self::validation_loss) looks at: 256 of them, or
    /// all.
    ///
    /// # Errors
    /// Pictures of another shape than those of the training.
    pub fn validate_on(&mut self, pictures: &ImageDataset) -> Result<(), TrainError> {
        let (expected, found) = (self.description.image_shape, pictures.image_shape());
        if found != expected {
            let problem = format!("pictures to validate on are {found:?}, those to train on {expected:?}");
            return Err(diffusion_data::DataError::Invalid(problem).into());
        }
        self.held_out = Some(HeldOut::new(pictures, self.config.seed, !self.description.classes.is_empty())?);
        Ok(())
    }

    /// The mean loss of the averaged weights on pictures kept out of training, if there are any. Their noise stays the same,
    /// so that two of these losses differ by the weights alone.
    ///
    /// # Errors
    /// Those of the device.
    pub fn validation_loss(&self) -> Result<Option<f64>, TrainError> {
        let Some(held_out) = &self.held_out else { return Ok(None) };
        let network = self.averaged_network()?;
        held_out.loss(&*network, &self.loss, &self.device).map(Some)
    }

    /// Has `judge` look at images drawn on the way; [`run`](crate::run) does so.
    pub fn judge_by(&mut self, judge: SampleJudge) {
        self.judge = Some(judge);
    }

    /// The judge, where this step is one to look at.
    pub(crate) fn judge_now(&self) -> Option<&SampleJudge> {
        self.judge.as_ref().filter(|judge| self.is_finished() || self.step.is_multiple_of(judge.every))
    }

    /// The network with the averaged weights.
    ///
    /// # Errors
    /// Those of the device.
    pub fn averaged_network(&self) -> Result<Box<dyn Network + Send + Sync>, TrainError> {
        diffusion_unet::load_frozen(self.ema.tensors(), &self.device, |vb| self.description.network.build(vb))
            .map_err(|source| TrainError::Parameters { path: Checkpoint::EMA_FILE.into(), source })
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
            let noise = trace_span!("draw noise").in_scope(|| self.noise(first as u64, part as u64))?;
            let batch = self.objective().noisy_batch(&x0, &noise, levels)?;
            let dropout = DropoutNoise { source: self.source, draw: self.step, first_index: first as u64 };
            let classes = &classes[first..first + part];
            let output = trace_span!("forward, between the operations").in_scope(|| {
                self.network.forward_training(&batch.input, &batch.timesteps, classes, dropout)
            })?;
            let loss = self.loss.per_image(&output, &batch)?;
            let mean = (drawn.weigh(&loss, first)?.sum_all()? / self.config.batch_size as f64)?;
            let store = trace_span!("backward, between the operations").in_scope(|| mean.backward())?;
            gradients.accumulate(&self.parameters, store)?;
            losses.extend(loss.to_vec1::<f32>()?);
        }
        Ok((losses, gradients))
    }

    /// What the network is told of `labels`, those of a batch.
    fn told_classes(&self, labels: Vec<Option<u32>>) -> Vec<Option<u32>> {
        if self.description.classes.is_empty() {
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
        let shape @ [channels, _, _] = self.description.image_shape;
        let normal = |domain, shape: &[usize]| {
            self.source.normal(domain, self.step, first..first + count, shape, &self.device)
        };
        let noise = normal(Domain::Training, &shape)?;
        match self.config.offset_noise {
            0.0 => Ok(noise),
            strength => {
                noise.broadcast_add(&normal(Domain::Offset, &[channels, 1, 1])?.affine(strength, 0.0)?)
            }
        }
    }

    fn lr(&self) -> f64 {
        self.config.lr_schedule.lr(self.config.optimizer.lr, self.step, self.progress())
    }

    /// How far the learning rate's decay is: by steps, by the clock, whichever is further.
    fn progress(&self) -> f64 {
        let by_steps =
            self.total_steps().map_or(0.0, |total| self.config.lr_schedule.progress(self.step, total));
        let by_clock = self
            .config
            .max_minutes
            .map_or(0.0, |minutes| (self.elapsed.as_secs_f64() / (60.0 * minutes)).min(1.0));
        by_steps.max(by_clock)
    }

    fn not_finite(&self, loss: f64, gradients: &Gradients, lr: f64) -> Result<TrainError, TrainError> {
        let mut what = "the loss".to_owned();
        if loss.is_finite() {
            if let Some(name) = gradients.first_not_finite()? {
                what = format!("the gradient of `{name}`");
            }
        } else {
            for (name, var) in self.parameters.iter() {
                if !var.sqr()?.sum_all()?.to_dtype(DType::F64)?.to_scalar::<f64>()?.is_finite() {
                    what = format!("the loss, because of the weights `{name}`,");
                    break;
                }
            }
        }
        Ok(TrainError::NotFinite { what, step: self.step, lr, last_checkpoint: None })
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
            || self.config.max_minutes.is_some_and(|minutes| self.elapsed.as_secs_f64() >= 60.0 * minutes)
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
        &self.description
    }

    /// The process that is trained.
    pub fn objective(&self) -> &Objective {
        &self.loss.objective
    }

    /// The trained weights.
    pub fn parameters(&self) -> &Parameters {
        &self.parameters
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
    pub fn checkpoint(&self) -> Checkpoint {
        Checkpoint {
            loss_history: self.levels.history().cloned(),
            state: CheckpointState {
                format_version: FORMAT_VERSION,
                step: self.step,
                elapsed_seconds: self.elapsed.as_secs_f64(),
                seed: self.config.seed,
                position: self.loader.position(),
                config_hash: self.config.hash(),
                data_fingerprint: self.data_fingerprint,
                model: self.description.clone(),
            },
            model: self.parameters.tensors(),
            ema: self.ema.tensors(),
            optimizer: self.optimizer.tensors(),
        }
    }

    /// Goes on from a checkpoint, read from the folder at `path`.
    ///
    /// # Errors
    /// A checkpoint of another network, configuration or data set; each says in what it differs.
    pub fn restore(&mut self, checkpoint: Checkpoint, path: &std::path::Path) -> Result<(), TrainError> {
        let state = checkpoint.state;
        if state.data_fingerprint != self.data_fingerprint {
            return Err(TrainError::unusable(
                path,
                "the run was trained on other data; give the same --data",
            ));
        }
        if state.model != self.description {
            let problem = "it holds another model than the run's configuration and data describe";
            return Err(TrainError::unusable(path, problem));
        }
        if state.config_hash != self.config.hash() {
            let problem = "the run's config.toml was changed since; only steps, epochs, max_minutes, checkpoint and \
                           sample_grid may change in a run";
            return Err(TrainError::unusable(path, problem));
        }
        let position = state.position;
        let batches = position.epoch.checked_mul(self.loader.batches_per_epoch());
        if state.seed != self.config.seed
            || batches.and_then(|n| n.checked_add(position.batch)) != Some(state.step)
        {
            let problem =
                "its seed, step and position do not belong together; it was changed by hand or damaged";
            return Err(TrainError::unusable(&path.join(Checkpoint::STATE_FILE), problem));
        }
        let parameter_error = |file: &str| {
            let path = path.join(file);
            move |source| TrainError::Parameters { path, source }
        };
        self.parameters.load(&checkpoint.ema).map_err(parameter_error(Checkpoint::EMA_FILE))?;
        self.parameters.load(&checkpoint.model).map_err(parameter_error(Checkpoint::MODEL_FILE))?;
        self.ema.restore(checkpoint.ema)?;
        self.optimizer
            .restore(state.step, checkpoint.optimizer)
            .map_err(|problem| TrainError::unusable(&path.join(Checkpoint::OPTIMIZER_FILE), problem))?;
        self.levels
            .restore(checkpoint.loss_history)
            .map_err(|problem| TrainError::unusable(&path.join(Checkpoint::LOSS_HISTORY_FILE), problem))?;
        self.loader.seek(state.position)?;
        self.step = state.step;
        self.elapsed = Duration::try_from_secs_f64(state.elapsed_seconds)
            .map_err(|e| TrainError::unusable(path, format!("elapsed_seconds: {e}")))?;
        Ok(())
    }

    /// Begins with the averaged weights of the checkpoint folder at `path` in place of random ones. Optimizer and moving
    /// average begin anew.
    ///
    /// # Errors
    /// A folder that is no checkpoint; a tensor that is missing, unknown or of another shape than this training's network
    /// needs.
    pub fn start_from(&mut self, path: &std::path::Path) -> Result<(), TrainError> {
        let file = path.join(Checkpoint::EMA_FILE);
        let mut weights = Checkpoint::read_tensors(&file, &self.device)?;
        let origin = Checkpoint::read_state(path)?.model;
        if self.description.classes.is_empty() && !origin.classes.is_empty() {
            let problem = "its network is told classes, and this training's is not; leave out --conditional=never, or give it pictures \
                           with classes";
            return Err(TrainError::unusable(path, problem));
        }
        if let Some(table) = self.parameters.tensors().get(CLASS_TABLE) {
            let table = match weights.get(CLASS_TABLE) {
                Some(known) => self.table_by_name(known, &origin)?,
                // A network that is told classes for the first time begins by ignoring them.
                None => table.zeros_like()?,
            };
            weights.insert(CLASS_TABLE.to_owned(), table);
        }
        self.parameters.load(&weights).map_err(|source| TrainError::Parameters { path: file, source })?;
        self.ema = Ema::new(self.config.ema, &self.parameters)?;
        Ok(())
    }
}

impl Trainer {
    /// The vectors that `known`, the table of the model `origin`, has for classes of this training's names; others begin as none in
    /// particular does, or with zeros.
    fn table_by_name(&self, known: &Tensor, origin: &ModelDescription) -> candle_core::Result<Tensor> {
        let none = if origin.network.takes_no_class() {
            known.narrow(0, origin.classes.len(), 1)?
        } else {
            known.narrow(0, 0, 1)?.zeros_like()?
        };
        let row = |class: &ModelClass| match origin.classes.iter().position(|other| other.name == class.name)
        {
            Some(row) => known.narrow(0, row, 1),
            None => Ok(none.clone()),
        };
        let mut rows = self.description.classes.iter().map(row).collect::<candle_core::Result<Vec<_>>>()?;
        if self.description.network.takes_no_class() {
            rows.push(none.clone());
        }
        Tensor::cat(&rows, 0)
    }
}

/// The parameter in which a network keeps a vector for each class.
const CLASS_TABLE: &str = "class_embedding.weight";

/// The classes that the network is to be told of.
fn classes_for(config: &TrainConfig, dataset: &ImageDataset) -> Result<Vec<ModelClass>, ConfigError> {
    let classes = ModelClass::of(dataset);
    let seen = classes.iter().filter(|class| class.pictures > 0).count();
    match config.conditional {
        Conditional::Always if seen == 0 => Err(ConfigError::Field {
            field: "conditional",
            value: "always".to_owned(),
            expected: "the pictures must have classes then, by folders or labels, and they have none"
                .to_owned(),
        }),
        Conditional::Never => Ok(Vec::new()),
        Conditional::Auto if seen < 2 => Ok(Vec::new()),
        Conditional::Auto | Conditional::Always => Ok(classes),
    }
}

/// The configured network for pictures of this shape (C, H, W) and so many classes, and for none in particular if it sees some of it.
fn network_for(
    config: &TrainConfig,
    [channels, height, width]: [usize; 3],
    classes: usize,
    with_none: bool,
) -> Result<NetworkConfig, ConfigError> {
    let refuse = |field, value, expected: &str| {
        Err(ConfigError::Field { field, value, expected: expected.to_owned() })
    };
    let network = config.network.with_image_channels(channels);
    let multiple = network.size_multiple();
    if !height.is_multiple_of(multiple) || !width.is_multiple_of(multiple) {
        let expected = format!("both sides must be multiples of {multiple} for this network");
        return refuse("the size of the pictures", format!("{height}×{width}"), &expected);
    }
    let outputs = network.output_channels();
    if outputs != channels {
        let expected = "it must equal in_channels; learned_variance = true doubles what the network gives";
        return refuse("network.out_channels", outputs.to_string(), expected);
    }
    let network = if config.learned_variance { network.with_output_channels(2 * channels) } else { network };
    if network.classes() > 0 {
        let expected = "leave it out: it follows from the pictures' classes and `conditional`";
        return refuse("network.num_class_embeds", network.classes().to_string(), expected);
    }
    let network = network.with_classes(classes, with_none);
    let NetworkConfig::Unet2d(config) = &network else { return Ok(network) };
    if config.time_embedding_type == TimeEmbeddingType::Fourier {
        let expected = "it must be positional: fourier takes ln(t), and t = 0 is trained too";
        return refuse("network.time_embedding_type", "fourier".to_owned(), expected);
    }
    Ok(network)
}
