use std::collections::BTreeMap;
use std::fs;
use std::ops::ControlFlow;
use std::path::Path;

use candle_core::Device;
use diffusion_data::ImageDataset;
use diffusion_model::{EdmConfig, LoadedModel, Weights};
use diffusion_process::{PredictionType, Threshold, Thresholded};
use diffusion_sample::{SampleRequest, SamplerOptions, VarianceType, sample};
use diffusion_schedule::{ScheduleConfig, SigmaSpacing, TimestepSpacing};
use diffusion_train::{
    Checkpoint, Checks, LossConfig, LossWeighting, LrSchedule, PixelError, RunDir,
    TimestepSampling, TrainConfig, Trainer, run,
};
use diffusion_unet::{DownBlockType, NetworkConfig, SimpleUNetConfig, UNet2DConfig, UpBlockType};

use crate::cosine;

/// Pictures with a dark and a bright half, divided horizontally or vertically: learned quickly.
fn pictures() -> ImageDataset {
    let bright = |i: usize, p: usize| if i.is_multiple_of(2) { p / 8 < 4 } else { p % 8 < 4 };
    let pixels = (0..40).flat_map(|i| (0..64).map(move |p| if bright(i, p) { 255 } else { 0 }));
    ImageDataset::new(pixels.collect(), None, [1, 8, 8]).unwrap()
}

fn config() -> TrainConfig {
    let mut config = TrainConfig::preset("mnist").unwrap();
    config.network = NetworkConfig::SimpleUnet(SimpleUNetConfig {
        in_channels: 1,
        base_channels: 16,
        time_dim: 16,
        ..SimpleUNetConfig::default()
    });
    (config.steps, config.max_minutes, config.batch_size) = (Some(60), None, 8);
    config.lr_schedule = LrSchedule::default();
    config.optimizer.lr = 5e-3;
    config.sample_grid.num = 0;
    config
}

fn weighted(weighting: LossWeighting) -> TrainConfig {
    TrainConfig { loss: LossConfig { weighting, ..LossConfig::default() }, ..config() }
}

fn with_error(error: PixelError) -> TrainConfig {
    TrainConfig { loss: LossConfig { error, ..LossConfig::default() }, ..config() }
}

/// One configuration per kind of training, with its name.
fn kinds() -> Vec<(&'static str, TrainConfig)> {
    let tiny_unet2d = UNet2DConfig {
        block_out_channels: vec![8, 16],
        layers_per_block: 1,
        down_block_types: vec![DownBlockType::DownBlock2D, DownBlockType::AttnDownBlock2D],
        up_block_types: vec![UpBlockType::AttnUpBlock2D, UpBlockType::UpBlock2D],
        norm_num_groups: 4,
        ..UNet2DConfig::default()
    };
    let predicting = |prediction_type| TrainConfig { prediction_type, ..config() };
    let zero_snr = ScheduleConfig { rescale_betas_zero_snr: true, ..cosine(50) };
    vec![
        ("epsilon", predicting(PredictionType::Epsilon)),
        ("sample", predicting(PredictionType::Sample)),
        ("v_prediction", predicting(PredictionType::VPrediction)),
        ("v_prediction, zero terminal SNR", TrainConfig { schedule: zero_snr, ..config() }),
        ("flow", predicting(PredictionType::Flow)),
        ("edm", TrainConfig { edm: Some(EdmConfig::default()), ..config() }),
        ("min-SNR", weighted(LossWeighting::MinSnr { gamma: 5.0 })),
        ("P2", weighted(LossWeighting::P2 { k: 1.0, gamma: 1.0 })),
        ("L1", with_error(PixelError::L1)),
        ("Huber", with_error(PixelError::Huber { delta: 0.5 })),
        ("learned variance", TrainConfig { learned_variance: true, ..config() }),
        (
            "learned variance, configurable U-Net",
            TrainConfig {
                learned_variance: true,
                prediction_type: PredictionType::Epsilon,
                network: NetworkConfig::Unet2d(tiny_unet2d),
                ..config()
            },
        ),
        (
            "low discrepancy",
            TrainConfig { timestep_sampling: TimestepSampling::LowDiscrepancy, ..config() },
        ),
        // Few timesteps, so that each has ten losses before half of the training.
        (
            "importance",
            TrainConfig {
                timestep_sampling: TimestepSampling::Importance,
                schedule: cosine(8),
                ..config()
            },
        ),
        ("offset noise", TrainConfig { offset_noise: 0.1, accumulate: 2, ..config() }),
    ]
}

/// Trains until `trainer` has made `steps` steps; returns the losses.
fn advance(trainer: &mut Trainer, steps: u64) -> Vec<f64> {
    // The first step fails if a parameter gets no gradient.
    std::iter::from_fn(|| (trainer.steps_done() < steps).then(|| trainer.step().unwrap().loss))
        .collect()
}

fn files(dir: &Path) -> BTreeMap<String, Vec<u8>> {
    let entries = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap());
    entries.map(|e| (e.file_name().into_string().unwrap(), fs::read(e.path()).unwrap())).collect()
}

#[test]
fn every_kind_of_training_learns_and_resumes_byte_for_byte_and_samples() {
    let data = pictures();
    let folder = tempfile::tempdir().unwrap();
    let [whole_path, half_path, resumed_path] =
        ["whole", "half", "resumed"].map(|n| folder.path().join(n));
    for (name, config) in kinds() {
        let new = || config.trainer(&data, &Device::Cpu).unwrap();
        let mut whole = new();
        let losses = advance(&mut whole, 60);
        let mean = |losses: &[f64]| losses.iter().sum::<f64>() / losses.len() as f64;
        assert!(mean(&losses[45..]) < 0.75 * mean(&losses[..5]), "{name}: {losses:?}");
        whole.checkpoint().unwrap().write(&whole_path).unwrap();

        let mut half = new();
        advance(&mut half, 40);
        half.checkpoint().unwrap().write(&half_path).unwrap();
        let mut resumed = new();
        Checkpoint::read(&half_path, &Device::Cpu)
            .unwrap()
            .restore_into(&mut resumed, &half_path)
            .unwrap();
        advance(&mut resumed, 60);
        resumed.checkpoint().unwrap().write(&resumed_path).unwrap();
        assert!(
            files(&whole_path) == files(&resumed_path),
            "{name}: resuming changed the training"
        );
        let has_history = whole_path.join("loss_history.safetensors").exists();
        assert_eq!(has_history, config.timestep_sampling == TimestepSampling::Importance, "{name}");

        samples(name, &whole_path, &config);
    }
}

fn samples(name: &str, checkpoint: &Path, config: &TrainConfig) {
    let model = LoadedModel::open(checkpoint, Weights::Ema, &Device::Cpu).unwrap();
    assert_eq!(model.description.learned_variance(), config.learned_variance, "{name}");
    let objective = &model.objective;
    assert_eq!(*objective, config.objective().unwrap(), "{name}");
    let sampler = objective.default_sampler(config.learned_variance);
    let steps = objective.default_steps(sampler).min(10);
    let plan = objective.plan(steps, TimestepSpacing::Trailing, SigmaSpacing::Timesteps).unwrap();
    let variance =
        if config.learned_variance { VarianceType::LearnedRange } else { VarianceType::FixedSmall };
    let mut sampler = sampler.build(&SamplerOptions { variance, ..SamplerOptions::default() });
    let request = SampleRequest {
        seed: 1,
        indices: vec![0, 1, 2],
        image_shape: [1, 8, 8],
        device: &Device::Cpu,
    };
    let clipped = Thresholded::new(&model.denoiser, Threshold::Clip { range: 1.0 });
    // `sample` fails if a number is not finite.
    let images =
        sample(&clipped, &mut *sampler, &plan, &request, &mut |_| ControlFlow::Continue(()))
            .unwrap();
    let largest = images.abs().unwrap().max_all().unwrap().to_scalar::<f32>().unwrap();
    assert!(images.dims() == [3, 1, 8, 8] && largest > 0.1 && largest < 1.1, "{name}: {largest}");
}

#[test]
fn every_kind_of_training_writes_its_grid() {
    let data = pictures();
    let folder = tempfile::tempdir().unwrap();
    for (name, mut config) in kinds() {
        (config.steps, config.sample_grid.num, config.sample_grid.steps) = (Some(1), 4, Some(3));
        let run_dir = RunDir::create(&folder.path().join(name), &config).unwrap();
        let mut trainer = config.trainer(&data, &Device::Cpu).unwrap();
        run(&mut trainer, &run_dir, &Checks::default(), &mut |_| ControlFlow::Continue(()))
            .unwrap();
        assert!(run_dir.layout().grid(1).exists(), "{name}");
    }
}

#[test]
fn a_learned_variance_doubles_the_output_and_both_halves_get_gradients() {
    let data = pictures();
    let config = TrainConfig { learned_variance: true, ..config() };
    let mut trainer = config.trainer(&data, &Device::Cpu).unwrap();
    assert_eq!(trainer.description().network.output_channels(), 2);
    let weights = |trainer: &Trainer| {
        let tensor = &trainer.parameters().tensors()["out.weight"];
        [0, 1].map(|half| crate::flat(&tensor.narrow(0, half, 1).unwrap()))
    };
    let before = weights(&trainer);
    advance(&mut trainer, 1);
    for (before, after) in before.into_iter().zip(weights(&trainer)) {
        assert!(before.iter().zip(&after).all(|(before, after)| before != after));
    }
    let mut other = config;
    other.network = NetworkConfig::SimpleUnet(SimpleUNetConfig {
        in_channels: 1,
        base_channels: 16,
        time_dim: 16,
        out_channels: Some(3),
        ..SimpleUNetConfig::default()
    });
    let error = other.trainer(&data, &Device::Cpu).err().unwrap().to_string();
    assert!(error.contains("network.out_channels is 3; it must equal in_channels"), "{error}");
}

#[test]
fn a_run_without_its_loss_history_is_not_resumed() {
    let data = pictures();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("c");
    let config = TrainConfig { timestep_sampling: TimestepSampling::Importance, ..config() };
    let mut trainer = config.trainer(&data, &Device::Cpu).unwrap();
    trainer.checkpoint().unwrap().write(&path).unwrap();
    fs::remove_file(path.join("loss_history.safetensors")).unwrap();
    let error = Checkpoint::read(&path, &Device::Cpu)
        .unwrap()
        .restore_into(&mut trainer, &path)
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("loss_history.safetensors") && error.contains("of 0 timesteps"),
        "{error}"
    );
}

#[test]
fn invalid_descriptions_are_errors() {
    let data = pictures();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("c");
    let config =
        TrainConfig { edm: Some(EdmConfig::default()), learned_variance: false, ..config() };
    config.trainer(&data, &Device::Cpu).unwrap().checkpoint().unwrap().write(&path).unwrap();
    let file = path.join("checkpoint.json");
    let text = fs::read_to_string(&file).unwrap();
    for (from, to, expected) in [
        (
            "\"sigma_data\": 0.5",
            "\"sigma_data\": 0.0",
            "edm.sigma_data is 0; it must be a number above 0",
        ),
        (
            "\"time_dim\": 16",
            "\"time_dim\": 16, \"out_channels\": 3",
            "the network gives 3 channels",
        ),
        (
            "\"time_dim\": 16",
            "\"time_dim\": 16, \"out_channels\": 2",
            "it learned a variance, which edm",
        ),
    ] {
        assert!(text.contains(from), "{from}");
        fs::write(&file, text.replace(from, to)).unwrap();
        let error = Checkpoint::read_state(&path).unwrap_err().to_string();
        assert!(error.contains(expected), "{expected}: {error}");
    }
}
