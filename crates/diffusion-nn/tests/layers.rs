//! Layers: initial values and parameter names.

use candle_core::{Device, Result, Tensor};
use diffusion_kernels::{FeatureMap, TimeConditioning};
use diffusion_nn::{
    Conv2dConfig, Initialisation, ParameterError, Parameters, Resample, ResidualBlock,
    ResidualBlockConfig, ResidualBlockNames, conv2d, count_parameters, linear_with, load_frozen,
};
use diffusion_random::{Domain, NoiseSource};

fn flat(tensor: &Tensor) -> Vec<f32> {
    tensor.flatten_all().unwrap().to_vec1().unwrap()
}

fn normal(images: u64, shape: &[usize]) -> Tensor {
    NoiseSource::new(9).normal(Domain::Initial, 0, 0..images, shape, &Device::Cpu).unwrap()
}

fn names(parameters: &Parameters) -> Vec<&str> {
    parameters.iter().map(|(name, _)| name).collect()
}

#[test]
fn a_convolution_has_a_bias_and_initial_values_as_configured() {
    let build = |config| {
        Parameters::initialise(3, &Device::Cpu, |vb| conv2d(32, 64, config, vb.pp("conv")))
            .unwrap()
            .1
    };
    let variance = |parameters: &Parameters, name: &str| {
        let values = flat(&parameters.tensors()[name]);
        values.iter().map(|v| v * v).sum::<f32>() / values.len() as f32
    };
    let fan_in = 32.0 * 9.0;

    let default = build(Conv2dConfig::default());
    assert_eq!(names(&default), ["conv.bias", "conv.weight"]);
    for name in names(&default) {
        // A uniform distribution in ±1/√n has the variance 1/(3n).
        assert!((variance(&default, name) * 3.0 * fan_in - 1.0).abs() < 0.3, "{name}");
    }

    let init = Initialisation::KaimingNormal;
    let without_bias = build(Conv2dConfig { bias: false, init, ..Conv2dConfig::default() });
    assert_eq!(names(&without_bias), ["conv.weight"]);
    assert!((variance(&without_bias, "conv.weight") * fan_in / 2.0 - 1.0).abs() < 0.05);

    let with_bias = build(Conv2dConfig { init, ..Conv2dConfig::default() });
    assert_eq!(variance(&with_bias, "conv.bias"), 0.0);
    assert_eq!(
        flat(&with_bias.tensors()["conv.weight"]),
        flat(&without_bias.tensors()["conv.weight"])
    );

    let zeros = build(Conv2dConfig { init: Initialisation::Zeros, ..Conv2dConfig::default() });
    assert!(names(&zeros).iter().all(|name| variance(&zeros, name) == 0.0));
}

#[test]
fn initial_values_depend_on_seed_and_name_only() {
    let build = |seed, layers: &[&str]| {
        let build = |vb: candle_nn::VarBuilder<'_>| {
            let layer = |name: &&str| linear_with(3, 5, Initialisation::PyTorch, vb.pp(name));
            layers.iter().map(layer).collect::<Result<Vec<_>>>()
        };
        Parameters::initialise(seed, &Device::Cpu, build).unwrap().1.tensors()
    };
    let (forward, backward) = (build(1, &["a", "b"]), build(1, &["b", "a"]));
    for (name, tensor) in &forward {
        assert_eq!(flat(tensor), flat(&backward[name]), "{name}");
    }
    assert_ne!(flat(&forward["a.weight"]), flat(&forward["b.weight"]));
    assert_ne!(flat(&forward["a.weight"]), flat(&build(2, &["a"])["a.weight"]));
}

const CONFIG: ResidualBlockConfig = ResidualBlockConfig {
    groups: 4,
    eps: 1e-5,
    time_dim: 6,
    conditioning: TimeConditioning::Add,
    resample: None,
    names: ResidualBlockNames::SEQUENTIAL,
};

fn block(inputs: usize, config: &ResidualBlockConfig) -> (ResidualBlock, Parameters) {
    Parameters::initialise(0, &Device::Cpu, |vb| ResidualBlock::new(inputs, 16, config, vb))
        .unwrap()
}

#[test]
fn a_residual_block_has_the_parameter_names_of_its_family() {
    let sequential = [
        ("conv1.0", true),
        ("conv1.2", true),
        ("conv2.0", true),
        ("conv2.2", true),
        ("skip", false),
        ("time_proj", true),
    ];
    let diffusers = [
        ("conv1", true),
        ("conv2", true),
        ("conv_shortcut", false),
        ("norm1", true),
        ("norm2", true),
        ("time_emb_proj", true),
    ];
    let families =
        [(ResidualBlockNames::SEQUENTIAL, sequential), (ResidualBlockNames::DIFFUSERS, diffusers)];
    for (family, layers) in families {
        for inputs in [8, 16] {
            let (_, parameters) = block(inputs, &ResidualBlockConfig { names: family, ..CONFIG });
            // The skip connection has parameters if the number of channels changes.
            let layers = layers.iter().filter(|(_, always)| *always || inputs != 16);
            let expected = layers
                .flat_map(|(layer, _)| ["bias", "weight"].map(|part| format!("{layer}.{part}")));
            assert_eq!(names(&parameters), expected.collect::<Vec<_>>());
        }
    }
}

#[test]
fn a_resampling_block_changes_the_size() {
    let (x, time) = (FeatureMap::from_images(&normal(2, &[16, 8, 8])).unwrap(), normal(2, &[6]));
    for (resample, side) in [(Resample::Halve, 4), (Resample::Double, 16)] {
        let (block, _) = block(16, &ResidualBlockConfig { resample: Some(resample), ..CONFIG });
        assert_eq!(block.forward(&x, &time, None).unwrap().dims(), [2, 16, side, side]);
    }
}

#[test]
fn hidden_matrices_are_the_matrices_of_layers_that_are_not_outer() {
    let (_, parameters) = block(8, &CONFIG);
    let hidden = |parameters: &Parameters| {
        let names = parameters.iter().map(|(name, _)| name.to_owned());
        names.filter(|name| parameters.is_hidden_matrix(name)).collect::<Vec<_>>()
    };
    let all = ["conv1.2.weight", "conv2.2.weight", "skip.weight", "time_proj.weight"];
    assert_eq!(hidden(&parameters), all);
    let parameters = parameters.with_outer_layers(&["skip", "conv", "time_proj"]);
    assert_eq!(hidden(&parameters), all[..2]);
    assert!(!parameters.is_hidden_matrix("unknown.weight"));
}

#[test]
fn strict_loading_names_the_tensor_and_counting_agrees() {
    let build =
        |vb: candle_nn::VarBuilder<'_>| linear_with(3, 5, Initialisation::Zeros, vb.pp("out"));
    let (_, parameters) = Parameters::initialise(0, &Device::Cpu, build).unwrap();
    assert_eq!(count_parameters(build).unwrap(), parameters.count());
    let mut tensors = parameters.tensors();
    load_frozen(tensors.clone(), &Device::Cpu, build).unwrap();
    tensors.insert("other".to_owned(), tensors["out.bias"].clone());
    let error = load_frozen(tensors.clone(), &Device::Cpu, build).unwrap_err();
    assert!(matches!(error, ParameterError::Unexpected(name) if name == "other"));
    tensors.remove("out.bias");
    let error = parameters.load(&tensors).unwrap_err();
    assert!(matches!(error, ParameterError::Missing(name) if name == "out.bias"));
}
