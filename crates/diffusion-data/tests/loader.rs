//! Batches, order and positions of the loader, and checks of data sets.

use std::collections::BTreeSet;
use std::ops::ControlFlow;

use candle_core::{Device, Tensor};
use diffusion_data::{
    AUGMENTATION_LABELS, ImageDataset, Loader, LoaderConfig, LoaderPosition, PictureConfig, Source,
    mnist, prepare,
};

/// Picture i is a single pixel of value i.
fn counted(n: u8) -> ImageDataset {
    ImageDataset::new((0..n).collect(), Some((0..n).map(|i| i % 10).collect()), [1, 1, 1]).unwrap()
}

fn next(loader: &mut Loader) -> Vec<u8> {
    let batch = loader.next_batch(&Device::Cpu).unwrap();
    let values = batch.images.flatten_all().unwrap().to_vec1::<f32>().unwrap();
    let pixels: Vec<u8> = values.iter().map(|v| ((v + 1.0) * 127.5).round() as u8).collect();
    assert_eq!(batch.labels, pixels.iter().map(|p| Some(u32::from(p % 10))).collect::<Vec<_>>());
    pixels
}

#[test]
fn a_pass_gives_every_picture_once_and_drops_the_partial_batch() {
    let set = counted(50);
    let mut loader = Loader::new(&set, LoaderConfig::new(8, 1)).unwrap();
    assert_eq!(loader.batches_per_epoch(), 6);
    let mut seen: Vec<u8> = (0..6).flat_map(|_| next(&mut loader)).collect();
    assert_eq!(loader.position(), LoaderPosition { epoch: 1, batch: 0 });
    assert!(!seen.is_sorted());
    seen.sort_unstable();
    seen.dedup();
    assert_eq!(seen.len(), 48);
}

#[test]
fn order_follows_from_seed_and_epoch() {
    let set = counted(100);
    let order = |seed, batches| {
        let mut loader = Loader::new(&set, LoaderConfig::new(10, seed)).unwrap();
        (0..batches).map(|_| next(&mut loader)).collect::<Vec<_>>()
    };
    assert_eq!(order(1, 20), order(1, 20));
    assert_ne!(order(1, 10), order(2, 10));
    let two_epochs = order(1, 20);
    assert_ne!(two_epochs[..10], two_epochs[10..]);
}

#[test]
fn a_loader_continues_exactly_from_any_position() {
    let set = counted(33);
    let mut loader = Loader::new(&set, LoaderConfig::new(4, 9)).unwrap();
    for _ in 0..30 {
        let mut resumed = Loader::new(&set, LoaderConfig::new(4, 9)).unwrap();
        resumed.seek(loader.position()).unwrap();
        assert_eq!(next(&mut resumed), next(&mut loader));
        assert_eq!(resumed.position(), loader.position());
    }
    assert!(loader.seek(LoaderPosition { epoch: 0, batch: 8 }).is_err());
}

#[test]
fn invalid_sets_and_batches_are_rejected() {
    assert!(Loader::new(&counted(3), LoaderConfig::new(0, 0)).is_err());
    assert!(
        Loader::new(&counted(3), LoaderConfig { repeat: 0, ..LoaderConfig::new(2, 0) }).is_err()
    );
    let error = Loader::new(&counted(3), LoaderConfig::new(1 << 33, 0)).unwrap_err().to_string();
    assert!(error.contains("a pass of 8589934593 pictures is too long"), "{error}");
    assert!(ImageDataset::new(vec![], None, [1, 2, 2]).is_err());
    assert!(ImageDataset::new(vec![0; 7], None, [1, 2, 2]).is_err());
    assert!(ImageDataset::new(vec![0; 8], Some(vec![1]), [1, 2, 2]).is_err());
}

#[test]
fn fingerprints_distinguish_data_sets() {
    let same = |a: &ImageDataset, b: &ImageDataset| a.fingerprint() == b.fingerprint();
    assert!(same(&counted(9), &counted(9)) && !same(&counted(9), &counted(10)));
    let flat = ImageDataset::new((0..16).collect(), None, [1, 4, 4]).unwrap();
    assert!(!same(&flat, &ImageDataset::new((0..16).collect(), None, [1, 2, 8]).unwrap()));
}

#[test]
fn black_is_minus_one_and_white_is_one_there_and_back() {
    let set = ImageDataset::new((0..=255).collect(), None, [1, 16, 16]).unwrap();
    let images = set.images(&[0], &Device::Cpu).unwrap();
    assert_eq!(images.min_all().unwrap().to_scalar::<f32>().unwrap(), -1.0);
    assert_eq!(images.max_all().unwrap().to_scalar::<f32>().unwrap(), 1.0);
    assert_eq!(
        diffusion_picture::from_tensor(&images).unwrap()[0].pixels,
        (0..=255).collect::<Vec<u8>>()
    );
    let beyond = Tensor::new(&[[[[-7f32, 7.0, f32::NAN]]]], &Device::Cpu).unwrap();
    assert_eq!(diffusion_picture::from_tensor(&beyond).unwrap()[0].pixels, [0, 255, 0]);
}

#[test]
fn a_class_balanced_subset_takes_the_first_of_each_class_in_order() {
    let (images, labels) = mnist::class_balanced_subset(&counted(100), 2).unwrap();
    assert_eq!(images.data, (0..20).collect::<Vec<u8>>());
    assert_eq!(labels.data, (0..20).map(|i| i % 10).collect::<Vec<u8>>());
    assert_eq!(images.dims, [20, 1, 1]);
    assert!(
        mnist::class_balanced_subset(&counted(15), 2)
            .unwrap_err()
            .to_string()
            .contains("class 5 has only 1")
    );
}

/// `n` pictures of 8×8 pixels with random windows of 7×7. Pixel (y, x) of picture i has the value
/// 64·i + 8·y + x.
fn stored_larger(n: u8) -> ImageDataset {
    let picture = |i: u8| (0..64).map(move |pixel| 64 * i + pixel);
    let set = ImageDataset::new((0..n).flat_map(picture).collect(), None, [1, 8, 8]).unwrap();
    let source = Source::from_dataset(set, "made up");
    let config = PictureConfig { random_crop: true, ..PictureConfig::default() };
    // For windows of 7 pixels, 8 are stored.
    prepare(&source, Some(7), &config, None, &mut |_| ControlFlow::Continue(())).unwrap().dataset
}

#[test]
fn windows_and_mirrors_follow_from_seed_and_pass() {
    let set = stored_larger(4);
    assert_eq!(set.image_shape(), [1, 7, 7]);
    let config = LoaderConfig { flip: true, repeat: 5, ..LoaderConfig::new(10, 3) };
    let mut loader = Loader::new(&set, config).unwrap();
    assert_eq!(loader.batches_per_epoch(), 2);
    let pictures = |loader: &mut Loader| -> Vec<Vec<u8>> {
        let images = loader.next_batch(&Device::Cpu).unwrap().images;
        diffusion_picture::from_tensor(&images)
            .unwrap()
            .into_iter()
            .map(|picture| picture.pixels)
            .collect()
    };
    let mut seen = BTreeSet::new();
    let mut per_picture = [0; 4];
    for batch in 0..20 {
        let mut resumed = Loader::new(&set, config).unwrap();
        resumed.seek(loader.position()).unwrap();
        let batch_pictures = pictures(&mut loader);
        assert_eq!(batch_pictures, pictures(&mut resumed), "batch {batch}");
        for pixels in batch_pictures {
            let picture = pixels[0] / 64;
            let (first, second) = (pixels[0] % 64, pixels[1] % 64);
            let flipped = second < first;
            let corner = if flipped { first - 6 } else { first };
            let (top, left) = (corner / 8, corner % 8);
            assert!(top < 2 && left < 2);
            let expected = (0..49u8).map(|i| {
                let (y, x) = (i / 7, if flipped { 6 - i % 7 } else { i % 7 });
                64 * picture + 8 * (top + y) + left + x
            });
            assert_eq!(pixels, expected.collect::<Vec<_>>());
            seen.insert((top, left, flipped));
            per_picture[usize::from(picture)] += 1;
        }
    }
    assert_eq!(seen.len(), 8, "every window, mirrored and not");
    assert_eq!(per_picture, [50; 4], "each picture five times in a pass");
    assert!(set.images(&[0], &Device::Cpu).unwrap().dims() == [1, 1, 7, 7]);
}

#[test]
fn a_set_smaller_than_a_batch_is_repeated_within_a_pass() {
    let set = counted(20);
    let config = LoaderConfig::new(32, 7);
    let batches = |config| {
        let mut loader = Loader::new(&set, config).unwrap();
        assert_eq!(loader.batches_per_epoch(), 1);
        (0..3).map(|_| next(&mut loader)).collect::<Vec<_>>()
    };
    let three = batches(config);
    assert_eq!(three, batches(config), "a pure function of the seed");
    assert_eq!(three, batches(LoaderConfig { repeat: 2, ..config }), "like an explicit repeat");
    assert_ne!(three[0], three[1]);
    for batch in three {
        let mut times = [0; 20];
        for picture in &batch {
            times[usize::from(*picture)] += 1;
        }
        assert!(batch.len() == 32 && times.iter().all(|times| *times <= 2), "{batch:?}");
        assert!(!batch.is_sorted());
    }
    assert_eq!((config.repeats(32), config.repeats(31), config.repeats(1)), (1, 2, 32));
    assert_eq!(LoaderConfig { repeat: 5, ..config }.repeats(20), 5);
}

#[test]
fn augmentation_follows_from_seed_and_pass_and_labels_say_what_was_done() {
    let pixels = (0..6 * 144u32).map(|i| (i * i % 251) as u8).collect();
    let set = ImageDataset::new(pixels, None, [1, 12, 12]).unwrap();
    let config = LoaderConfig { augment: 0.3, ..LoaderConfig::new(6, 3) };
    let numbers = |t: &Tensor| t.flatten_all().unwrap().to_vec1::<f32>().unwrap();
    let (mut loader, mut plain) =
        (Loader::new(&set, config).unwrap(), Loader::new(&set, LoaderConfig::new(6, 3)).unwrap());
    let (mut untouched, mut mirrored) = (0, 0);
    for _ in 0..20 {
        let mut resumed = Loader::new(&set, config).unwrap();
        resumed.seek(loader.position()).unwrap();
        let [batch, again] =
            [&mut loader, &mut resumed].map(|l| l.next_batch(&Device::Cpu).unwrap());
        let labels = batch.augmentation.unwrap();
        assert_eq!(labels.dims(), [6, AUGMENTATION_LABELS]);
        assert_eq!(numbers(&labels), numbers(&again.augmentation.unwrap()));
        assert_eq!(numbers(&batch.images), numbers(&again.images));
        let before = plain.next_batch(&Device::Cpu).unwrap();
        assert!(before.augmentation.is_none());
        let (labels, images, before) =
            (numbers(&labels), numbers(&batch.images), numbers(&before.images));
        let pictures = images.chunks_exact(144).zip(before.chunks_exact(144));
        for (labels, (image, before)) in labels.chunks_exact(AUGMENTATION_LABELS).zip(pictures) {
            assert_eq!(labels.iter().all(|label| *label == 0.0), image == before, "{labels:?}");
            assert!(image.iter().all(|x| x.abs() <= 1.0));
            untouched += usize::from(image == before);
            mirrored += usize::from(labels[0] == 1.0);
        }
    }
    assert!((5..50).contains(&untouched) && (40..80).contains(&mirrored), "{untouched} {mirrored}");
    // Mirroring without labels takes the place of that with labels.
    let both = LoaderConfig { flip: true, ..config };
    let labels = Loader::new(&set, both).unwrap().next_batch(&Device::Cpu).unwrap().augmentation;
    assert!(numbers(&labels.unwrap()).chunks_exact(AUGMENTATION_LABELS).all(|l| l[0] == 0.0));
}
