//! The named data sets with synthetic pictures.

use diffusion_hub::{Content, HubConfig, HubError, NamedDataset, Verification, download};

use crate::fixture::{Fixture, SPLITS, gunzip, names, parquet, png, serve, sha256};
use crate::mirror::Mirror;

/// A picture of 32×32 RGB pixels: the first row is (200, 100, 50), the rest is black.
fn striped() -> Vec<u8> {
    let mut pixels = vec![0; 32 * 32 * 3];
    for pixel in pixels[..32 * 3].chunks_exact_mut(3) {
        pixel.copy_from_slice(&[200, 100, 50]);
    }
    pixels
}

/// `count` different pictures; the first is [`striped`].
fn pictures(count: usize, salt: usize) -> Vec<Vec<u8>> {
    let synthetic = |n: usize| (0..3072).map(|i| ((i * 31 + n * 7 + salt) % 251) as u8).collect();
    std::iter::once(striped()).chain((1..count).map(synthetic)).collect()
}

/// The record of a picture in the binary version of CIFAR-10.
fn record(label: u8, pixels: &[u8]) -> Vec<u8> {
    let plane = |channel: usize| pixels.iter().skip(channel).step_by(3);
    std::iter::once(&label).chain(plane(0)).chain(plane(1)).chain(plane(2)).copied().collect()
}

/// Ten training pictures in five batches, and four test pictures.
fn small_cifar10() -> NamedDataset {
    let mut dataset = NamedDataset::cifar10();
    for (split, count) in dataset.splits.iter_mut().zip([10, 4]) {
        split.count = count;
        let each = count / split.outputs.len();
        for (n, output) in split.outputs.iter_mut().enumerate() {
            output.content = Content::Batch { first: n * each, count: each };
            output.sha256 = None;
        }
    }
    dataset
}

fn cifar_hub() -> Mirror {
    let file = |count, salt| {
        let labels: Vec<u8> = (0..count).map(|i| ((i + 9) % 10) as u8).collect();
        parquet("img", pictures(count, salt).iter().map(|pixels| png(pixels, 32, 3)), &labels)
    };
    let files = vec![
        ("plain_text/train-00000-of-00001.parquet".to_owned(), file(10, 0)),
        ("plain_text/test-00000-of-00001.parquet".to_owned(), file(4, 1)),
    ];
    serve("uoft-cs/cifar10", files, |_, _| None)
}

#[test]
fn cifar10_becomes_the_batches_of_its_binary_version() {
    let folder = tempfile::tempdir().unwrap();
    let hub = cifar_hub();
    let config = HubConfig { endpoint: hub.url(), ..HubConfig::new(folder.path().join("cache")) };
    let dest = folder.path().join("cifar10");
    let report = download(&config, &small_cifar10(), &dest, &mut |_| ()).unwrap();
    assert_eq!((report.written.len(), report.verification), (7, Some(Verification::Transfer)));
    assert_eq!(
        names(&dest),
        [
            "batches.meta.txt",
            "data_batch_1.bin",
            "data_batch_2.bin",
            "data_batch_3.bin",
            "data_batch_4.bin",
            "data_batch_5.bin",
            "test_batch.bin"
        ]
    );

    let batch = std::fs::read(dest.join("data_batch_1.bin")).unwrap();
    assert_eq!(batch.len(), 2 * 3073);
    assert_eq!(batch[0], 9);
    for (plane, value) in batch[1..3073].chunks_exact(1024).zip([200, 100, 50]) {
        assert_eq!(plane[..32], [value; 32], "the picture is stored row by row");
        assert!(plane[32..].iter().all(|pixel| *pixel == 0));
    }
    let all = pictures(10, 0);
    let of_fifth = [record(7, &all[8]), record(8, &all[9])].concat();
    assert_eq!(std::fs::read(dest.join("data_batch_5.bin")).unwrap(), of_fifth);
    let of_test: Vec<u8> = pictures(4, 1)
        .iter()
        .zip([9, 0, 1, 2])
        .flat_map(|(pixels, label)| record(label, pixels))
        .collect();
    assert_eq!(std::fs::read(dest.join("test_batch.bin")).unwrap(), of_test);
    let classes = std::fs::read_to_string(dest.join("batches.meta.txt")).unwrap();
    assert_eq!(classes, "airplane\nautomobile\nbird\ncat\ndeer\ndog\nfrog\nhorse\nship\ntruck\n");
}

#[test]
fn existing_cifar10_files_without_digests_are_kept_and_verified_by_format_only() {
    let folder = tempfile::tempdir().unwrap();
    let hub = cifar_hub();
    let mut config =
        HubConfig { endpoint: hub.url(), ..HubConfig::new(folder.path().join("cache")) };
    let dest = folder.path().join("cifar10");
    download(&config, &small_cifar10(), &dest, &mut |_| ()).unwrap();
    let request_count = hub.requests().len();
    let report = download(&config, &small_cifar10(), &dest, &mut |_| ()).unwrap();
    assert_eq!(
        (report.written.len(), report.kept.len(), report.verification),
        (0, 7, Some(Verification::Format))
    );

    config.offline = true;
    let path = dest.join("data_batch_3.bin");
    let whole = std::fs::read(&path).unwrap();
    let mut bad_label = whole.clone();
    bad_label[3073] = 10;
    for damaged in [&whole[..3073], &[&whole[..], b"x"].concat(), &bad_label] {
        std::fs::write(&path, damaged).unwrap();
        let report = download(&config, &small_cifar10(), &dest, &mut |_| ()).unwrap();
        assert_eq!((report.written.len(), report.kept.len()), (1, 6));
        assert_eq!(std::fs::read(&path).unwrap(), whole);
    }
    std::fs::write(dest.join("batches.meta.txt"), "cat\n").unwrap();
    let report = download(&config, &small_cifar10(), &dest, &mut |_| ()).unwrap();
    assert_eq!(report.written, [dest.join("batches.meta.txt")]);
    assert_eq!(hub.requests().len(), request_count);
}

#[test]
fn batches_in_another_order_are_found_by_their_digests() {
    let folder = tempfile::tempdir().unwrap();
    let hub = cifar_hub();
    let config = HubConfig { endpoint: hub.url(), ..HubConfig::new(folder.path().join("cache")) };
    let dest = folder.path().join("cifar10");
    let mut dataset = small_cifar10();
    let all = pictures(10, 0);
    let records: Vec<Vec<u8>> = (0..10).map(|i| record(((i + 9) % 10) as u8, &all[i])).collect();
    // The order on the hub: the file begins with the fourth batch.
    let order = [4, 3, 2, 5, 1];
    for (place, number) in order.into_iter().enumerate() {
        dataset.splits[0].outputs[number - 1].sha256 =
            Some(sha256(&records[2 * place..2 * place + 2].concat()));
    }
    let report = download(&config, &dataset, &dest, &mut |_| ()).unwrap();
    assert_eq!(report.written.len(), 7);
    assert_eq!(std::fs::read(dest.join("data_batch_4.bin")).unwrap(), records[..2].concat());
    assert_eq!(std::fs::read(dest.join("data_batch_1.bin")).unwrap(), records[8..].concat());

    dataset.splits[0].outputs[2].sha256 = Some(sha256(b"of another batch"));
    let elsewhere = folder.path().join("elsewhere");
    let error = download(&config, &dataset, &elsewhere, &mut |_| ()).unwrap_err();
    assert!(
        matches!(&error, HubError::Checksum { file, .. } if file == "data_batch_3.bin"),
        "{error:?}"
    );
    assert!(!elsewhere.exists());
}

#[test]
fn fashion_mnist_becomes_four_idx_files_and_a_list_of_classes() {
    let fixture = Fixture::new();
    let files = SPLITS.map(|split| format!("fashion_mnist/{split}-00000-of-00001.parquet"));
    let hub = serve(
        "zalando-datasets/fashion_mnist",
        files.into_iter().zip(fixture.parquet.clone()).collect(),
        |_, _| None,
    );
    let mut dataset = NamedDataset::fashion_mnist();
    fixture.adapt(&mut dataset);
    let mut config = fixture.config(&hub.url());
    let report = download(&config, &dataset, &fixture.dest(), &mut |_| ()).unwrap();
    assert_eq!((report.written.len(), report.verification), (5, Some(Verification::Content)));
    let classes = std::fs::read_to_string(fixture.dest().join("classes.txt")).unwrap();
    assert!(classes.starts_with("T-shirt/top\nTrouser\n"), "{classes}");
    let images = fixture.dest().join("t10k-images-idx3-ubyte.gz");
    assert_eq!(sha256(&gunzip(&images)), sha256(&fixture.digits[1].images_idx()));

    config.offline = true;
    let elsewhere = fixture.folder.path().join("elsewhere");
    assert_eq!(download(&config, &dataset, &elsewhere, &mut |_| ()).unwrap().written.len(), 5);
}

#[test]
fn every_name_has_its_dataset() {
    for name in NamedDataset::NAMES {
        assert_eq!(NamedDataset::named(name).unwrap().name, name);
    }
    let cifar10 = NamedDataset::cifar10();
    let mut batches = cifar10.splits[0].outputs.iter().map(|output| output.content);
    assert_eq!(batches.next_back(), Some(Content::Batch { first: 40_000, count: 10_000 }));
    assert_eq!(NamedDataset::named("MNIST"), None);
}
