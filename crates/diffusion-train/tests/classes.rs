//! Class-conditional training.

use std::ops::ControlFlow;

use candle_core::{Device, Tensor};
use diffusion_data::ImageDataset;
use diffusion_model::{ClassChoice, Generation, LoadedModel, ModelClass, Weights, find_class};
use diffusion_sample::{Guidance, SamplerKind};
use diffusion_train::{Conditional, ConfigSource, TrainConfig, Trainer, ema_model, start_from};
use diffusion_unet::NetworkConfig;

/// 48 dark pictures of class 0 and 16 light ones of class 1.
fn pictures() -> ImageDataset {
    let value = |picture: usize, pixel: usize| {
        let wave = ((picture * 7 + pixel * 3) % 20) as u8;
        if picture.is_multiple_of(4) { 215 + wave } else { 20 + wave }
    };
    let pixels =
        (0..64).flat_map(|picture| (0..64).map(move |pixel| value(picture, pixel))).collect();
    let labels = (0..64).map(|picture: usize| u8::from(picture.is_multiple_of(4))).collect();
    ImageDataset::new(pixels, Some(labels), [1, 8, 8]).unwrap()
}

fn unlabelled() -> ImageDataset {
    ImageDataset::new((0..64 * 64).map(|i| (i % 251) as u8).collect(), None, [1, 8, 8]).unwrap()
}

fn config(network: &str, text: &str) -> TrainConfig {
    let network = match network {
        "simple_unet" => "base_channels = 16\ntime_dim = 16",
        _ => {
            "in_channels = 1\nout_channels = 1\nblock_out_channels = [8, 16]\nlayers_per_block = 1\nnorm_num_groups = 4\n\
             down_block_types = [\"DownBlock2D\", \"DownBlock2D\"]\nup_block_types = [\"UpBlock2D\", \"UpBlock2D\"]\n\
             kind = \"unet2d\""
        }
    };
    let text =
        format!("steps = 150\nbatch_size = 16\n{text}\n[network]\n{network}\n[ema]\ndecay = 0.9\n");
    TrainConfig::layered("mnist", Some(&ConfigSource { path: "test".into(), text })).unwrap()
}

fn trained(config: &TrainConfig) -> Trainer {
    let mut trainer = config.trainer(&pictures(), &Device::Cpu).unwrap();
    while !trainer.is_finished() {
        trainer.step().unwrap();
    }
    trainer
}

fn brightness(images: &Tensor) -> Vec<f32> {
    images.mean((1, 2, 3)).unwrap().to_vec1().unwrap()
}

fn generate(trainer: &Trainer, num: u64, classes: ClassChoice, guidance: f64) -> Tensor {
    let guidance = Some(Guidance::new(guidance));
    let (sampler, steps) = (Some(SamplerKind::Ddim), Some(10));
    let generation = Generation { sampler, steps, classes, guidance, ..Generation::new(num) };
    ema_model(trainer).unwrap().generate(&generation, &mut |_| ControlFlow::Continue(())).unwrap()
}

#[test]
fn both_networks_sample_the_given_classes() {
    for network in ["simple_unet", "unet2d"] {
        let trainer = trained(&config(network, ""));
        let description = trainer.description();
        assert_eq!(
            description.classes.iter().map(|class| class.pictures).collect::<Vec<_>>(),
            [48, 16]
        );
        assert_eq!(description.network.classes(), 2);
        for guidance in [1.0, 1.5] {
            let images = generate(&trainer, 6, ClassChoice::Listed(vec![0, 1]), guidance);
            for (i, light) in brightness(&images).into_iter().enumerate() {
                assert_eq!(light > 0.0, i % 2 == 1, "{network}, {guidance}: image {i} has {light}");
            }
        }
        let light = brightness(&generate(&trainer, 64, ClassChoice::AsTrained, 1.0));
        let share = light.iter().filter(|light| **light > 0.0).count();
        assert!(
            (6..30).contains(&share),
            "{network}: {share} of 64 are light, 16 of 64 in training"
        );

        let folder = tempfile::tempdir().unwrap();
        trainer.checkpoint().unwrap().write(&folder.path().join("saved")).unwrap();
        let model =
            LoadedModel::open(&folder.path().join("saved"), Weights::Ema, &Device::Cpu).unwrap();
        assert_eq!(model.description, *trainer.description());
        let packed = LoadedModel::pack(&folder.path().join("saved")).unwrap();
        let packed = LoadedModel::unpack(&packed, "packed".as_ref(), &Device::Cpu).unwrap();
        assert_eq!(packed.description.classes, model.description.classes);
    }
}

#[test]
fn a_conditional_training_can_start_from_an_unconditional_model() {
    let plain = trained(&TrainConfig {
        steps: Some(5),
        ..config("simple_unet", "conditional = \"never\"")
    });
    assert!(plain.description().classes.is_empty());
    let folder = tempfile::tempdir().unwrap();
    plain.checkpoint().unwrap().write(&folder.path().join("plain")).unwrap();
    let mut conditional = config("simple_unet", "conditional = \"always\"")
        .trainer(&pictures(), &Device::Cpu)
        .unwrap();
    start_from(&mut conditional, &folder.path().join("plain")).unwrap();
    // At first it ignores the classes.
    let choice = |class| generate(&conditional, 2, ClassChoice::Listed(vec![class]), 1.0);
    let before = generate(&plain, 2, ClassChoice::AsTrained, 1.0);
    for images in [choice(0), choice(1)] {
        assert_eq!(
            (images - &before)
                .unwrap()
                .abs()
                .unwrap()
                .max_all()
                .unwrap()
                .to_scalar::<f32>()
                .unwrap(),
            0.0
        );
    }
    conditional.step().unwrap();
}

#[test]
fn a_training_with_augmentation_can_start_from_a_model_without_it_and_back() {
    let (with, without) = ("pictures = { augment = 0.5 }", "");
    let folder = tempfile::tempdir().unwrap();
    for (name, before, after) in [("added", without, with), ("removed", with, without)] {
        let first = trained(&TrainConfig { steps: Some(3), ..config("simple_unet", before) });
        let path = folder.path().join(name);
        first.checkpoint().unwrap().write(&path).unwrap();
        let mut second = config("simple_unet", after).trainer(&pictures(), &Device::Cpu).unwrap();
        assert_eq!(second.description().network.augmentation(), !after.is_empty());
        start_from(&mut second, &path).unwrap();
        let images = |trainer: &Trainer| {
            let images = generate(trainer, 2, ClassChoice::Listed(vec![0, 1]), 1.0);
            images.flatten_all().unwrap().to_vec1::<f32>().unwrap()
        };
        assert_eq!(images(&first), images(&second), "{name}");
        second.step().unwrap();
    }
}

#[test]
fn a_conditional_training_resumes_bit_for_bit() {
    let config = TrainConfig {
        steps: Some(8),
        ..config("simple_unet", "class_dropout = 0.4\npictures = { augment = 0.5 }")
    };
    let whole = trained(&config);
    let mut first = config.trainer(&pictures(), &Device::Cpu).unwrap();
    for _ in 0..3 {
        first.step().unwrap();
    }
    let mut second = config.trainer(&pictures(), &Device::Cpu).unwrap();
    second.restore(first.checkpoint().unwrap()).unwrap();
    while !second.is_finished() {
        second.step().unwrap();
    }
    for (name, tensor) in whole.parameters().tensors() {
        let other = &second.parameters().tensors()[&name];
        let difference = (tensor - other).unwrap().abs().unwrap().max_all().unwrap();
        assert_eq!(difference.to_scalar::<f32>().unwrap(), 0.0, "{name}");
    }
}

#[test]
fn pictures_without_classes_train_unconditionally_or_fail() {
    let auto = config("simple_unet", "").trainer(&unlabelled(), &Device::Cpu).unwrap();
    assert!(auto.description().classes.is_empty());
    let always = TrainConfig { conditional: Conditional::Always, ..config("simple_unet", "") };
    let error = always.trainer(&unlabelled(), &Device::Cpu).err().unwrap().to_string();
    assert!(error.contains("conditional is always; the pictures must have classes"), "{error}");
    assert!(matches!(auto.description().network, NetworkConfig::SimpleUnet(_)));
    let no_share = TrainConfig { class_dropout: 1.0, ..config("simple_unet", "") };
    assert!(no_share.validate().unwrap_err().to_string().contains("class_dropout is 1"));
}

#[test]
fn a_class_is_found_by_name_or_number_and_errors_list_similar_names() {
    let names = ["cat", "dog", "7", "horse", "ship", "truck"];
    let classes: Vec<ModelClass> =
        names.iter().map(|name| ModelClass { name: (*name).to_owned(), pictures: 1 }).collect();
    assert_eq!(find_class(&classes, "dog"), Ok(1));
    assert_eq!(find_class(&classes, "3"), Ok(3));
    assert_eq!(find_class(&classes, "7"), Ok(2), "a name comes before a number");
    let error = find_class(&classes, "hors").unwrap_err().to_string();
    assert!(error.contains("unknown class `hors` among 6 classes; known: `cat`, `dog`"), "{error}");
    let many: Vec<ModelClass> = (0..40)
        .map(|number| ModelClass { name: format!("class {number}"), pictures: 1 })
        .chain(classes.clone())
        .collect();
    let error = find_class(&many, "Hors").unwrap_err().to_string();
    assert!(
        error.contains("unknown class `Hors` among 46 classes; nearest names: `horse`"),
        "{error}"
    );
    assert!(find_class(&classes, "6").is_err());
    assert!(find_class(&[], "cat").unwrap_err().to_string().contains("without classes"));
}

#[test]
fn the_guidance_scale_of_a_recipe_is_the_default_of_its_model() {
    let scale =
        |text, pictures| config("simple_unet", text).describe(&pictures).unwrap().guidance().scale;
    assert_eq!(scale("guidance_scale = 3.0", pictures()), 3.0);
    assert_eq!(scale("", pictures()), 1.1);
    assert_eq!(scale("guidance_scale = 3.0", unlabelled()), 1.0, "a model without classes");

    let model = config("simple_unet", "guidance_scale = 3.0").describe(&pictures()).unwrap();
    let next = TrainConfig::layered_on("mnist", Some(&model), None).unwrap();
    assert_eq!(next.guidance_scale, Some(3.0), "a training that starts from the model");
    let error = config("simple_unet", "guidance_scale = 1e9").validate().unwrap_err().to_string();
    assert!(error.contains("guidance_scale is 1000000000; it must be"), "{error}");
}
