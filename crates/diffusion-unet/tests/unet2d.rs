//! The configurable U-Net: parameters, gradients, errors, classes and dropout.

use candle_core::{DType, Device, Tensor};
use diffusion_nn::{DropoutNoise, Parameters, count_parameters};
use diffusion_process::{Domain, Network, NoiseSource};
use diffusion_unet::{
    AUGMENTATION_LABELS,
    DownBlockType::{AttnDownBlock2D, DownBlock2D},
    NetworkConfig, ResampleType, TimeEmbeddingType, TimeScaleShift, TrainingNetwork, UNet2D,
    UNet2DConfig,
    UpBlockType::{AttnUpBlock2D, UpBlock2D},
};

/// Three levels with every kind of layer, as small as the groups allow.
fn tiny() -> UNet2DConfig {
    UNet2DConfig {
        in_channels: 2,
        out_channels: 1,
        block_out_channels: vec![8, 16, 16],
        layers_per_block: 1,
        down_block_types: vec![DownBlock2D, AttnDownBlock2D, AttnDownBlock2D],
        up_block_types: vec![AttnUpBlock2D, AttnUpBlock2D, UpBlock2D],
        attention_head_dim: Some(8),
        norm_num_groups: 4,
        ..UNet2DConfig::default()
    }
}

/// Like [`tiny`], with the non-default choice of most settings.
fn other() -> UNet2DConfig {
    UNet2DConfig {
        resnet_time_scale_shift: TimeScaleShift::ScaleShift,
        downsample_type: ResampleType::Resnet,
        upsample_type: ResampleType::Resnet,
        downsample_padding: 0,
        time_embedding_type: TimeEmbeddingType::Fourier,
        num_class_embeds: Some(3),
        attn_norm_num_groups: Some(2),
        center_input_sample: true,
        ..tiny()
    }
}

fn build(config: &UNet2DConfig) -> (UNet2D, Parameters) {
    Parameters::initialise(1, &Device::Cpu, |vb| UNet2D::new(config, vb)).unwrap()
}

fn images(n: u64, side: usize) -> Tensor {
    let source = NoiseSource::new(5);
    source.normal(Domain::Initial, 0, 0..n, &[2, side, side], &Device::Cpu).unwrap()
}

fn timesteps(n: usize) -> Tensor {
    Tensor::from_iter((0..n).map(|i| (i * 37 % 200 + 1) as f32), &Device::Cpu).unwrap()
}

fn classes(config: &UNet2DConfig, n: usize) -> Vec<Option<u32>> {
    (0..n).map(|i| config.num_class_embeds.map(|classes| (i % classes) as u32)).collect()
}

fn bits(x: &Tensor) -> Vec<u32> {
    x.flatten_all().unwrap().to_vec1::<f32>().unwrap().into_iter().map(f32::to_bits).collect()
}

#[test]
fn the_ddpm_papers_cifar10_network_has_35746307_parameters() {
    let config = UNet2DConfig {
        block_out_channels: vec![128, 256, 256, 256],
        down_block_types: vec![DownBlock2D, AttnDownBlock2D, DownBlock2D, DownBlock2D],
        up_block_types: vec![UpBlock2D, UpBlock2D, AttnUpBlock2D, UpBlock2D],
        ..UNet2DConfig::default()
    };
    assert_eq!(count_parameters(|vb| UNet2D::new(&config, vb)).unwrap(), 35_746_307);
}

#[test]
fn counting_agrees_with_building() {
    for config in [tiny(), other()] {
        assert_eq!(
            count_parameters(|vb| UNet2D::new(&config, vb)).unwrap(),
            build(&config).1.count()
        );
    }
}

#[test]
fn every_parameter_receives_a_finite_nonzero_gradient() {
    for config in [tiny(), other(), UNet2DConfig { dropout: 0.3, ..tiny() }] {
        let (unet, parameters) = build(&config);
        let noise = DropoutNoise { source: NoiseSource::new(3), draw: 0, first_index: 0 };
        let classes = classes(&config, 3);
        let output =
            unet.forward_training(&images(3, 8), &timesteps(3), &classes, None, noise).unwrap();
        let gradients = output.sqr().unwrap().mean_all().unwrap().backward().unwrap();
        for (name, var) in parameters.iter() {
            if name == "time_proj.weight" {
                assert!(gradients.get(var).is_none(), "the random frequencies are not trained");
                continue;
            }
            let gradient = gradients.get(var).unwrap_or_else(|| panic!("{name} got no gradient"));
            assert_eq!(gradient.dims(), var.dims(), "{name}");
            let norm: f32 =
                gradient.sqr().unwrap().sum_all().unwrap().sqrt().unwrap().to_scalar().unwrap();
            assert!(norm.is_finite() && norm > 1e-12, "{name}: {norm}");
        }
    }
}

#[test]
fn an_image_gives_the_same_bits_alone_and_in_a_batch() {
    for config in [tiny(), other(), UNet2DConfig { dropout: 0.3, ..tiny() }] {
        let (unet, _) = build(&config);
        let (x, t, classes) = (images(4, 16), timesteps(4), classes(&config, 4));
        let noise =
            |first_index| DropoutNoise { source: NoiseSource::new(3), draw: 7, first_index };
        let together = unet.forward_training(&x, &t, &classes, None, noise(0)).unwrap();
        for i in 0..4 {
            let one = |tensor: &Tensor| tensor.narrow(0, i, 1).unwrap();
            let alone = unet
                .forward_training(&one(&x), &one(&t), &classes[i..=i], None, noise(i as u64))
                .unwrap();
            assert!(bits(&one(&together)) == bits(&alone), "image {i}");
        }
    }
}

#[test]
fn dropout_acts_in_training_only_and_follows_its_seed() {
    let (unet, _) = build(&UNet2DConfig { dropout: 0.5, ..tiny() });
    let (plain, _) = build(&tiny());
    let (x, t) = (images(2, 8), timesteps(2));
    let training = |seed, draw| {
        let noise = DropoutNoise { source: NoiseSource::new(seed), draw, first_index: 0 };
        bits(&unet.forward_training(&x, &t, &[None; 2], None, noise).unwrap())
    };
    let forward = bits(&unet.forward(&x, &t).unwrap());
    assert!(forward == bits(&plain.forward(&x, &t).unwrap()));
    assert!(training(1, 4) == training(1, 4));
    assert!(training(1, 4) != training(2, 4) && training(1, 4) != training(1, 5));
    assert!(training(1, 4) != forward);
}

#[test]
fn classes_change_the_output_and_must_be_known() {
    let config = UNet2DConfig { num_class_embeds: Some(3), ..tiny() };
    let (unet, _) = build(&config);
    let (x, t) = (images(1, 8), timesteps(1));
    let output = |class| unet.forward_classes(&x, &t, &[Some(class)]);
    assert!(bits(&output(0).unwrap()) != bits(&output(2).unwrap()));
    let error = output(3).unwrap_err().to_string();
    assert!(error.contains("class 3 is not among the 3 classes of the network"), "{error}");
    let error = unet.forward(&x, &t).unwrap_err().to_string();
    assert!(error.contains("has 3 classes and needs one for each image"), "{error}");

    let (with_null_class, _) = build(&UNet2DConfig { null_class: true, ..config });
    let error = with_null_class.forward_classes(&x, &t, &[Some(2)]).unwrap_err().to_string();
    assert!(error.contains("class 2 is not among the 2 classes of the network"), "{error}");
    assert!(
        bits(&with_null_class.forward(&x, &t).unwrap()) == bits(&output(2).unwrap()),
        "no class must use the last row"
    );

    let error = build(&tiny()).0.forward_classes(&x, &t, &[Some(0)]).unwrap_err().to_string();
    assert!(error.contains("is unconditional; pass no classes"), "{error}");
}

#[test]
fn there_must_be_one_timestep_and_one_class_per_image() {
    let (unet, _) = build(&tiny());
    let error =
        unet.forward_classes(&images(3, 8), &timesteps(3), &[None; 2]).unwrap_err().to_string();
    assert!(error.contains("expected 3 classes (one per image), got 2"), "{error}");
    let error = unet.forward(&images(3, 8), &timesteps(2)).unwrap_err().to_string();
    assert!(
        error.contains("expected 3 timesteps (one per image), got a tensor of shape [2]"),
        "{error}"
    );
}

#[test]
fn a_timestep_without_a_logarithm_is_an_error() {
    let config = UNet2DConfig { time_embedding_type: TimeEmbeddingType::Fourier, ..tiny() };
    let zero = Tensor::new(&[0f32], &Device::Cpu).unwrap();
    let error = build(&config).0.forward(&images(1, 8), &zero).unwrap_err().to_string();
    assert!(error.contains("a timestep is 0") && error.contains("above 0"), "{error}");
}

#[test]
fn sides_must_be_multiples_of_the_size_multiple() {
    let (unet, _) = build(&tiny());
    assert_eq!(tiny().size_multiple(), 4);
    assert_eq!(unet.forward(&images(1, 12), &timesteps(1)).unwrap().dims(), [1, 1, 12, 12]);
    let error = unet.forward(&images(1, 14), &timesteps(1)).unwrap_err().to_string();
    assert!(error.contains("14×14") && error.contains("multiples of 4"), "{error}");
}

#[test]
fn errors_give_the_field_and_its_value() {
    let cases: [(&str, UNet2DConfig); 17] = [
        ("in_channels is 0", UNet2DConfig { in_channels: 0, ..tiny() }),
        ("out_channels is 5000", UNet2DConfig { out_channels: 5000, ..tiny() }),
        ("block_out_channels has 0 levels", UNet2DConfig { block_out_channels: vec![], ..tiny() }),
        ("block_out_channels[1] is 18446744073709551615", wide(usize::MAX)),
        ("layers_per_block is 0", UNet2DConfig { layers_per_block: 0, ..tiny() }),
        ("layers_per_block is 999", UNet2DConfig { layers_per_block: 999, ..tiny() }),
        (
            "down_block_types has 1 levels",
            UNet2DConfig { down_block_types: vec![DownBlock2D], ..tiny() },
        ),
        (
            "up_block_types has 4 levels",
            UNet2DConfig { up_block_types: vec![UpBlock2D; 4], ..tiny() },
        ),
        ("norm_num_groups is 3", UNet2DConfig { norm_num_groups: 3, ..tiny() }),
        ("norm_num_groups is 0", UNet2DConfig { norm_num_groups: 0, ..tiny() }),
        ("attn_norm_num_groups is 5", UNet2DConfig { attn_norm_num_groups: Some(5), ..tiny() }),
        ("attention_head_dim is 17", UNet2DConfig { attention_head_dim: Some(17), ..tiny() }),
        ("norm_eps is NaN", UNet2DConfig { norm_eps: f64::NAN, ..tiny() }),
        ("downsample_padding is 2", UNet2DConfig { downsample_padding: 2, ..tiny() }),
        ("freq_shift is 4", UNet2DConfig { freq_shift: 4, ..tiny() }),
        ("dropout is 1", UNet2DConfig { dropout: 1.0, ..tiny() }),
        ("num_class_embeds is 0", UNet2DConfig { num_class_embeds: Some(0), ..tiny() }),
    ];
    for (expected, config) in cases {
        let error = count_parameters(|vb| UNet2D::new(&config, vb)).unwrap_err().to_string();
        assert!(error.contains(expected), "{expected}: {error}");
    }
}

fn wide(width: usize) -> UNet2DConfig {
    UNet2DConfig { block_out_channels: vec![8, width, 16], ..tiny() }
}

#[test]
fn a_network_that_would_fill_the_memory_is_an_error_before_it_is_built() {
    let config = UNet2DConfig {
        block_out_channels: vec![4096; 3],
        layers_per_block: 32,
        norm_num_groups: 32,
        ..tiny()
    };
    let error = Parameters::initialise(0, &Device::Cpu, |vb| UNet2D::new(&config, vb))
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("block_out_channels [4096, 4096, 4096]") && error.contains("parameters"),
        "{error}"
    );
}

#[test]
fn labels_of_augmentation_reach_the_output_and_are_absent_in_sampling() {
    let config = UNet2DConfig { augmentation: true, ..tiny() };
    let (unet, parameters) = build(&config);
    let (plain, _) = build(&tiny());
    let (x, t) = (images(3, 8), timesteps(3));
    let noise = DropoutNoise { source: NoiseSource::new(3), draw: 0, first_index: 0 };
    let with =
        |labels: &Tensor| unet.forward_training(&x, &t, &[None; 3], Some(labels), noise).unwrap();
    let zeros = Tensor::zeros((3, AUGMENTATION_LABELS), DType::F32, &Device::Cpu).unwrap();
    let forward = bits(&unet.forward(&x, &t).unwrap());
    assert!(forward == bits(&with(&zeros)) && forward == bits(&plain.forward(&x, &t).unwrap()));
    let labels = NoiseSource::new(9)
        .normal(Domain::Initial, 0, 0..3, &[AUGMENTATION_LABELS], &Device::Cpu)
        .unwrap();
    let output = with(&labels);
    assert!(forward != bits(&output));
    let gradients = output.sqr().unwrap().mean_all().unwrap().backward().unwrap();
    let (_, layer) =
        parameters.iter().find(|(name, _)| *name == "augment_embedding.weight").unwrap();
    let gradient = gradients.get(layer).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
    assert!(gradient.iter().all(|g| g.is_finite()) && gradient.iter().any(|g| *g != 0.0));
    let (_, parameters) = NetworkConfig::Unet2d(config).initialise(1, &Device::Cpu).unwrap();
    assert!(!parameters.is_hidden_matrix("augment_embedding.weight"));
    let refused = plain.forward_training(&x, &t, &[None; 3], Some(&labels), noise);
    assert!(refused.unwrap_err().to_string().contains("no layer for labels of augmentation"));
}
