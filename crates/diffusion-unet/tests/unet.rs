//! The simple U-Net: parameters, gradients, shapes and initialisation.

use std::collections::BTreeMap;

use candle_core::{Device, Tensor};
use diffusion_nn::{ParameterError, Parameters, load_frozen};
use diffusion_process::{Domain, Network, NoiseSource};
use diffusion_unet::{SimpleUNet, SimpleUNetConfig};

const MNIST: SimpleUNetConfig = SimpleUNetConfig {
    in_channels: 1,
    base_channels: 32,
    time_dim: 128,
    out_channels: None,
    num_class_embeds: None,
    null_class: false,
    augmentation: false,
};
const SMALL: SimpleUNetConfig = SimpleUNetConfig { base_channels: 16, time_dim: 8, ..MNIST };

fn build(config: &SimpleUNetConfig, seed: u64) -> (SimpleUNet, Parameters) {
    Parameters::initialise(seed, &Device::Cpu, |vb| SimpleUNet::new(config, vb)).unwrap()
}

fn images(n: u64, channels: usize, height: usize, width: usize) -> Tensor {
    let source = NoiseSource::new(5);
    source.normal(Domain::Initial, 0, 0..n, &[channels, height, width], &Device::Cpu).unwrap()
}

fn timesteps(n: usize) -> Tensor {
    Tensor::from_iter((0..n).map(|i| (i * 37 % 200) as f32), &Device::Cpu).unwrap()
}

#[test]
fn the_mnist_network_has_520193_parameters() {
    assert_eq!(build(&MNIST, 0).1.count(), 520_193);
}

#[test]
fn every_parameter_receives_a_finite_nonzero_gradient() {
    for config in [MNIST, SMALL, SimpleUNetConfig { in_channels: 3, ..SMALL }] {
        let (unet, parameters) = build(&config, 1);
        let output = unet.forward(&images(2, config.in_channels, 8, 12), &timesteps(2)).unwrap();
        let gradients = output.sqr().unwrap().mean_all().unwrap().backward().unwrap();
        for (name, var) in parameters.iter() {
            let gradient = gradients.get(var).unwrap_or_else(|| panic!("{name} got no gradient"));
            assert_eq!(gradient.dims(), var.dims(), "{name}");
            let norm: f32 =
                gradient.sqr().unwrap().sum_all().unwrap().sqrt().unwrap().to_scalar().unwrap();
            assert!(norm.is_finite() && norm > 1e-12, "{name}: {norm}");
        }
    }
}

#[test]
fn the_output_has_the_shape_of_the_input_or_the_size_is_an_error() {
    let (unet, _) = build(&SMALL, 0);
    for (height, width) in [(4, 4), (28, 28), (8, 20), (32, 4)] {
        let x = images(1, 1, height, width);
        assert_eq!(unet.forward(&x, &timesteps(1)).unwrap().dims(), x.dims());
    }
    for (height, width) in [(30, 28), (28, 30), (27, 27), (1, 1), (7, 4)] {
        let error =
            unet.forward(&images(1, 1, height, width), &timesteps(1)).unwrap_err().to_string();
        assert!(
            error.contains(&format!("{height}×{width}")) && error.contains("multiples of 4"),
            "{error}"
        );
    }
}

#[test]
fn an_image_gives_the_same_bits_alone_and_in_a_batch() {
    let (unet, _) = build(&MNIST, 2);
    let (x, t) = (images(5, 1, 28, 28), timesteps(5));
    let together = unet.forward(&x, &t).unwrap();
    for i in 0..5 {
        let alone = unet.forward(&x.narrow(0, i, 1).unwrap(), &t.narrow(0, i, 1).unwrap()).unwrap();
        let bits = |x: Tensor| -> Vec<u32> {
            x.flatten_all()
                .unwrap()
                .to_vec1::<f32>()
                .unwrap()
                .into_iter()
                .map(f32::to_bits)
                .collect()
        };
        assert!(bits(together.narrow(0, i, 1).unwrap()) == bits(alone), "image {i}");
    }
}

#[test]
fn initial_weights_follow_pytorchs_bounds_and_the_seed() {
    let (_, parameters) = build(&MNIST, 0);
    let fan_in = BTreeMap::from([
        ("stem.weight", 9),
        ("stem.bias", 9),
        ("enc2.conv1.2.weight", 32 * 9),
        ("up2.weight", 64 * 16),
        ("up2.bias", 64 * 16),
        ("time_embed.mlp.2.weight", 512),
        ("dec2.skip.weight", 128),
    ]);
    let tensors = parameters.tensors();
    for (name, fan_in) in fan_in {
        let bound = 1.0 / (fan_in as f32).sqrt();
        let values = tensors[name].flatten_all().unwrap().to_vec1::<f32>().unwrap();
        let largest = values.iter().fold(0f32, |m, v| m.max(v.abs()));
        assert!(largest <= bound && largest > 0.8 * bound, "{name}: {largest} of {bound}");
        if values.len() > 1000 {
            let variance = values.iter().map(|v| v * v).sum::<f32>() / values.len() as f32;
            assert!(
                (variance / (bound * bound / 3.0) - 1.0).abs() < 0.1,
                "{name}: variance {variance}"
            );
        }
    }
    let same = |a: &Parameters, b: &Parameters| {
        let flat = |p: &Parameters| {
            p.tensors()["mid.conv1.2.weight"].flatten_all().unwrap().to_vec1::<f32>().unwrap()
        };
        flat(a) == flat(b)
    };
    assert!(same(&parameters, &build(&MNIST, 0).1));
    assert!(!same(&parameters, &build(&MNIST, 1).1));
}

#[test]
fn frozen_and_reloaded_networks_compute_the_same_as_the_original() {
    let (unet, parameters) = build(&SMALL, 3);
    let (x, t) = (images(2, 1, 8, 8), timesteps(2));
    let expected = unet.forward(&x, &t).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();

    let frozen =
        load_frozen(parameters.tensors(), &Device::Cpu, |vb| SimpleUNet::new(&SMALL, vb)).unwrap();
    let output = frozen.forward(&x, &t).unwrap();
    assert!(!output.track_op(), "a frozen network must not record gradients");
    assert_eq!(output.flatten_all().unwrap().to_vec1::<f32>().unwrap(), expected);

    let (other, other_parameters) = build(&SMALL, 4);
    other_parameters.load(&parameters.tensors()).unwrap();
    assert_eq!(
        other.forward(&x, &t).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap(),
        expected
    );
}

#[test]
fn loading_names_the_tensor_that_does_not_fit() {
    let (_, parameters) = build(&SMALL, 0);
    let broken = |edit: fn(&mut BTreeMap<String, Tensor>)| {
        let mut tensors = parameters.tensors();
        edit(&mut tensors);
        let frozen = load_frozen(tensors.clone(), &Device::Cpu, |vb| SimpleUNet::new(&SMALL, vb));
        (parameters.load(&tensors).unwrap_err(), frozen.unwrap_err().to_string())
    };
    let (error, frozen) = broken(|t| drop(t.remove("mid.conv1.0.bias")));
    assert!(
        matches!(&error, ParameterError::Missing(name) if name == "mid.conv1.0.bias"),
        "{error}"
    );
    assert!(frozen.contains("`mid.conv1.0.bias` is missing"), "{frozen}");

    let (error, frozen) = broken(|t| drop(t.insert("extra".into(), t["stem.bias"].clone())));
    assert!(matches!(&error, ParameterError::Unexpected(name) if name == "extra"), "{error}");
    assert!(frozen.contains("`extra` is not a parameter"), "{frozen}");

    let (error, frozen) = broken(|t| drop(t.insert("out.bias".into(), t["stem.bias"].clone())));
    assert!(matches!(&error, ParameterError::Shape { name, .. } if name == "out.bias"), "{error}");
    assert!(frozen.contains("`out.bias` has shape [16], the network needs [1]"), "{frozen}");
}

#[test]
fn impossible_networks_are_errors() {
    let error = |config: SimpleUNetConfig| {
        Parameters::initialise(0, &Device::Cpu, |vb| SimpleUNet::new(&config, vb))
            .unwrap_err()
            .to_string()
    };
    assert!(
        error(SimpleUNetConfig { base_channels: 20, ..SMALL })
            .contains("20 channels do not divide into 8 groups")
    );
    assert!(error(SimpleUNetConfig { time_dim: 3, ..SMALL }).contains("width 3 is too narrow"));
    assert!(error(SimpleUNetConfig { in_channels: 0, ..SMALL }).contains("from 1 to 4096"));
    assert!(
        error(SimpleUNetConfig { base_channels: 800_000, ..SMALL })
            .contains("base_channels is 800000")
    );
}
