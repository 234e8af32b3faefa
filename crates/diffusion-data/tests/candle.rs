//! Compares data sets loaded by candle-datasets with the readers of this crate.

use std::fs;
use std::path::Path;

use candle_core::{Device, Tensor};
use candle_datasets::vision::{Dataset, cifar, mnist as candle_mnist};
use diffusion_data::{ImageDataset, PictureConfig, Source, Split, mnist, prepare};

/// Bytes of pictures that all differ.
fn generated_bytes(count: usize, salt: usize) -> impl Iterator<Item = u8> {
    (0..count).map(move |i| ((i * 31 + i / 784 * 7 + i * i / 65_537 + salt) % 256) as u8)
}

fn write_idx(path: &Path, dims: &[usize], bytes: impl Iterator<Item = u8>) {
    let mut file = vec![0, 0, 8, dims.len() as u8];
    file.extend(dims.iter().flat_map(|dim| (*dim as u32).to_be_bytes()));
    file.extend(bytes);
    fs::write(path, file).unwrap();
}

fn assert_same(ours: &ImageDataset, theirs: &ImageDataset) {
    assert_eq!((ours.len(), ours.image_shape()), (theirs.len(), theirs.image_shape()));
    assert_eq!(ours.classes(), theirs.classes());
    for i in 0..ours.len() {
        assert!(ours.image(i) == theirs.image(i), "picture {i}");
        assert_eq!(ours.label(i), theirs.label(i), "label {i}");
    }
}

#[test]
fn mnist_as_candle_loads_it_is_the_same_data_set() {
    let folder = tempfile::tempdir().unwrap();
    for (part, count) in [("train", 30), ("t10k", 12)] {
        let path = |what: &str| folder.path().join(format!("{part}-{what}-ubyte"));
        write_idx(&path("images-idx3"), &[count, 28, 28], generated_bytes(count * 784, count));
        write_idx(&path("labels-idx1"), &[count], (0..count).map(|i| (i % 10) as u8));
    }
    let loaded = candle_mnist::load_dir(folder.path()).unwrap();
    assert_same(
        &mnist::load_train(folder.path()).unwrap(),
        &ImageDataset::from_candle(&loaded, Split::Train).unwrap(),
    );
    assert_same(
        &mnist::load_test(folder.path()).unwrap(),
        &ImageDataset::from_candle(&loaded, Split::Test).unwrap(),
    );
}

#[test]
fn cifar_as_candle_loads_it_is_the_same_data_set() {
    // candle's loader expects batches of this many records.
    const RECORDS: usize = 10_000;
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let mut records: Vec<u8> = generated_bytes(RECORDS * 3073, 0).collect();
    for (i, record) in records.chunks_exact_mut(3073).enumerate() {
        record[0] = (i % 10) as u8;
    }
    fs::write(path("test_batch.bin"), records).unwrap();
    for batch in 1..=5 {
        fs::hard_link(path("test_batch.bin"), path(&format!("data_batch_{batch}.bin"))).unwrap();
    }
    let loaded = cifar::load_dir(folder.path()).unwrap();
    let source = Source::open(folder.path(), Split::Test).unwrap();
    let config = PictureConfig::default();
    let ours = prepare(&source, None, &config, None, &mut |_| std::ops::ControlFlow::Continue(()))
        .unwrap()
        .dataset;
    assert_same(&ours, &ImageDataset::from_candle(&loaded, Split::Test).unwrap());
    assert_eq!(ImageDataset::from_candle(&loaded, Split::Train).unwrap().len(), 5 * RECORDS);

    // Transposed as by candle's hub loader, and transposed back as documented.
    let transposed = loaded.test_images.narrow(0, 0, 8).unwrap().transpose(2, 3).unwrap();
    let labels = loaded.test_labels.narrow(0, 0, 8).unwrap();
    let first = |images: Tensor| {
        let part = Dataset {
            train_images: images.clone(),
            train_labels: labels.clone(),
            test_images: images,
            test_labels: labels.clone(),
            labels: loaded.labels,
        };
        ImageDataset::from_candle(&part, Split::Train).unwrap()
    };
    assert_eq!(first(transposed.transpose(2, 3).unwrap()).image(7), ours.image(7));
    assert_ne!(first(transposed).image(7), ours.image(7));
}

#[test]
fn invalid_data_sets_are_rejected() {
    let tensor = |shape: &[usize], value: f32| Tensor::full(value, shape, &Device::Cpu).unwrap();
    let assert_rejected = |images: &[usize], value: f32, labels: &[u8], problem: &str| {
        let labels = Tensor::new(labels, &Device::Cpu).unwrap();
        let dataset = Dataset {
            train_images: tensor(images, value),
            train_labels: labels.clone(),
            test_images: tensor(images, value),
            test_labels: labels,
            labels: 2,
        };
        let error = ImageDataset::from_candle(&dataset, Split::Train).unwrap_err().to_string();
        assert!(error.contains(problem), "{error}");
    };
    assert_rejected(&[2, 5], 0.0, &[0, 1], "expected (N, C, H, W)");
    assert_rejected(&[2, 2, 4, 4], 0.0, &[0, 1], "expected (N, C, H, W)");
    assert_rejected(&[2, 16], 1.5, &[0, 1], "a pixel is 1.5");
    assert_rejected(&[2, 16], f32::NAN, &[0, 1], "a pixel is NaN");
    assert_rejected(&[2, 16], 0.0, &[0, 2], "label 2 of a data set with 2 classes");
    assert_rejected(&[2, 16], 0.0, &[0], "1 labels for 2 pictures");
}
