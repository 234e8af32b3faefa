//! Training the configurable U-Net: presets, dropout, and network settings that cannot be trained.

use candle_core::Device;
use diffusion_data::ImageDataset;
use diffusion_nn::count_parameters;
use diffusion_train::{ConfigSource, TrainConfig};
use diffusion_unet::{DownBlockType, NetworkConfig, TimeEmbeddingType, UNet2DConfig, UpBlockType};

fn pictures() -> ImageDataset {
    let pixels = (0..40)
        .flat_map(|i: usize| (0..64).map(move |p| if (p / 8 + i) % 5 < 2 { 255 } else { 0 }));
    ImageDataset::new(pixels.collect(), None, [1, 8, 8]).unwrap()
}

/// A tiny network with dropout.
fn tiny() -> UNet2DConfig {
    UNet2DConfig {
        block_out_channels: vec![8, 16],
        layers_per_block: 1,
        down_block_types: vec![DownBlockType::DownBlock2D, DownBlockType::AttnDownBlock2D],
        up_block_types: vec![UpBlockType::AttnUpBlock2D, UpBlockType::UpBlock2D],
        norm_num_groups: 4,
        dropout: 0.2,
        ..UNet2DConfig::default()
    }
}

fn config(network: UNet2DConfig) -> TrainConfig {
    let mut config = TrainConfig::preset("mnist").unwrap();
    config.network = NetworkConfig::Unet2d(network);
    (config.steps, config.max_minutes, config.batch_size) = (Some(4), None, 8);
    config
}

#[test]
fn presets_are_valid_and_have_the_expected_parameter_counts() {
    let sizes = [
        ("cifar10", 3, 32, 35_746_307),
        ("digits-attn", 1, 28, 947_777),
        ("mnist", 1, 28, 520_193),
    ];
    for (name, channels, side, parameters) in sizes {
        let preset = TrainConfig::preset(name).unwrap();
        preset.validate().unwrap();
        assert_eq!(preset.network.image_channels(), channels, "{name}");
        assert!(
            preset.network.size_multiple() <= side && side % preset.network.size_multiple() == 0,
            "{name}"
        );
        assert_eq!(count_parameters(|vb| preset.network.build(vb)).unwrap(), parameters, "{name}");

        let text = preset.to_toml().unwrap();
        assert_eq!(
            TrainConfig::from_source(&ConfigSource { path: name.into(), text }).unwrap(),
            preset
        );
    }
}

#[test]
fn changing_the_image_channels_keeps_the_ratio_of_output_to_input() {
    let ratio = |out_channels| {
        let network =
            NetworkConfig::Unet2d(UNet2DConfig { in_channels: 3, out_channels, ..tiny() });
        match network.with_image_channels(1) {
            NetworkConfig::Unet2d(config) => (config.in_channels, config.out_channels),
            simple @ NetworkConfig::SimpleUnet(_) => panic!("another network: {simple:?}"),
        }
    };
    assert_eq!((ratio(3), ratio(6)), ((1, 1), (1, 2)));
}

/// The loss of each step, and the weights at the end.
fn train(config: &TrainConfig) -> (Vec<f64>, Vec<f32>) {
    let data = pictures();
    let mut trainer = config.trainer(&data, &Device::Cpu).unwrap();
    let losses = (0..4).map(|_| trainer.step().unwrap().loss).collect();
    let weights = trainer.parameters().iter().flat_map(|(_, var)| {
        let values = var.as_detached_tensor().flatten_all().unwrap();
        values.to_vec1::<f32>().unwrap()
    });
    (losses, weights.collect())
}

#[test]
fn training_with_dropout_is_reproducible_and_differs_from_training_without() {
    let with = config(tiny());
    assert!(train(&with) == train(&with));
    let (without, _) = train(&config(UNet2DConfig { dropout: 0.0, ..tiny() }));
    assert_ne!(train(&with).0, without);
}

#[test]
fn dropout_is_the_same_in_parts_of_a_batch() {
    let (whole, _) = train(&config(tiny()));
    let (parts, _) = train(&TrainConfig { accumulate: 4, ..config(tiny()) });
    assert!((whole[0] - parts[0]).abs() < 1e-6, "{whole:?} {parts:?}");
}

#[test]
fn network_settings_that_cannot_be_trained_are_named_by_field() {
    let cases = [
        ("network.out_channels is 2", UNet2DConfig { out_channels: 6, ..tiny() }),
        ("network.num_class_embeds is 10", UNet2DConfig { num_class_embeds: Some(10), ..tiny() }),
        (
            "network.time_embedding_type is fourier",
            UNet2DConfig { time_embedding_type: TimeEmbeddingType::Fourier, ..tiny() },
        ),
        ("network: norm_num_groups is 3", UNet2DConfig { norm_num_groups: 3, ..tiny() }),
        ("must be multiples of 16", UNet2DConfig { block_out_channels: vec![8; 5], ..tiny() }),
    ];
    let data = pictures();
    for (expected, network) in cases {
        let error = config(network).trainer(&data, &Device::Cpu).err().unwrap().to_string();
        assert!(error.contains(expected), "{expected}: {error}");
    }
}
