//! Every picture format, compared with what Pillow reads from the same files
//! (`tests/pictures/make.py`).

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use diffusion_data::{Background, Channels, Fit, ImageDataset, PictureConfig};

use crate::common::{Folder, encoded, prepared_as};

fn pictures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/pictures")
}

/// Height, width and RGB pixels by name.
fn expected() -> BTreeMap<String, (usize, usize, Vec<u8>)> {
    let mut zip =
        zip::ZipArchive::new(File::open(pictures().join("expected.npz")).unwrap()).unwrap();
    let entries = (0..zip.len()).map(|i| {
        let mut entry = zip.by_index(i).unwrap();
        let name = entry.name().unwrap().strip_suffix(".npy").unwrap().to_owned();
        let mut bytes = Vec::new();
        entry.read_to_end(&mut bytes).unwrap();
        let length = usize::from(u16::from_le_bytes([bytes[8], bytes[9]]));
        let header = String::from_utf8_lossy(&bytes[10..10 + length]).into_owned();
        let shape =
            header.split_once("'shape': (").unwrap().1.split(')').next().unwrap().to_owned();
        let dims: Vec<usize> = shape.split(", ").map(|dim| dim.parse().unwrap()).collect();
        (name, (dims[0], dims[1], bytes[10 + length..].to_vec()))
    });
    entries.collect()
}

/// The RGB pixels, interleaved, of the only picture of a set.
fn rgb(dataset: &ImageDataset) -> Vec<u8> {
    let [channels, height, width] = dataset.image_shape();
    assert_eq!((channels, dataset.len()), (3, 1));
    let planes = dataset.image(0);
    let area = height * width;
    (0..area).flat_map(|i| [planes[i], planes[area + i], planes[2 * area + i]]).collect()
}

fn largest_difference(a: &[u8], b: &[u8]) -> u8 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| a.abs_diff(*b)).max().unwrap()
}

/// The tolerance for files whose pixels depend on the decoder: the standards do not fix the last
/// bits of a cosine transform, and there is no single conversion from CMYK to RGB.
fn tolerance(name: &str) -> u8 {
    match name {
        "cmyk.jpg" => 6,
        "lossy.webp" => 3,
        name if name.contains(".jpg") => 2,
        // Pillow's compositing rounds alpha in another order.
        "rgba.png" | "grey-alpha.png" | "lossless.webp" => 1,
        _ => 0,
    }
}

/// The tolerance after scaling. A sharp edge overshoots black and white. Pillow and this crate both
/// clamp that after each of two passes, over rows and over columns, but in different orders.
fn scaled_tolerance(name: &str) -> u8 {
    match name {
        "bilevel.png" => 16,
        "palette-clear.png" => 4,
        _ => 1,
    }
}

#[test]
fn every_picture_format_is_read_as_pillow_reads_it() {
    let config = PictureConfig { channels: Channels::Rgb, ..PictureConfig::default() };
    let expected = expected();
    let mut seen = 0;
    for (name, (height, width, pixels)) in expected.iter().filter(|(name, _)| !name.contains('@')) {
        let path = pictures().join(name);
        let prepared = prepared_as(&path, None, &config, None).unwrap();
        assert_eq!(prepared.dataset.image_shape(), [3, *height, *width], "{name}");
        let off = largest_difference(&rgb(&prepared.dataset), pixels);
        assert!(off <= tolerance(name), "{name}: {off} of 255 off");

        let small = prepared_as(&path, Some(16), &config, None).unwrap();
        let off = largest_difference(&rgb(&small.dataset), &expected[&format!("{name}@16")].2);
        assert!(off <= scaled_tolerance(name), "{name} at 16×16: {off} of 255 off");
        seen += 1;
    }
    assert_eq!(seen, 25);
}

#[test]
fn a_set_is_grey_until_a_picture_has_colour() {
    let folder = Folder::new();
    let grey: Vec<u8> = (0..64u8).flat_map(|value| [value; 3]).collect();
    folder.write("set/a.png", encoded(8, 8, &grey));
    folder.write("set/b.png", encoded(8, 8, &grey));
    let prepared = |channels, cache: Option<&Path>| {
        let config = PictureConfig { channels, ..PictureConfig::default() };
        prepared_as(&folder.path("set"), None, &config, cache).unwrap().dataset
    };
    assert_eq!(prepared(Channels::Auto, None).image_shape(), [1, 8, 8]);
    assert_eq!(prepared(Channels::Rgb, None).image_shape(), [3, 8, 8]);
    let mut red = grey.clone();
    red[0] = 255;
    folder.write("set/c.png", encoded(8, 8, &red));
    for cache in [None, Some(folder.path("cache"))] {
        let set = prepared(Channels::Auto, cache.as_deref());
        assert_eq!(set.image_shape(), [3, 8, 8]);
        // The earlier grey pictures had been stored as one plane.
        let plane: Vec<u8> = (0..64).collect();
        assert_eq!(set.image(0), plane.repeat(3));
        assert_eq!(set.image(1), plane.repeat(3));
        assert_eq!(set.image(2)[0], 255);
        let set = prepared(Channels::Grey, cache.as_deref());
        assert_eq!(set.image(0), plane);
        // Pillow: Image.new("RGB", (1, 1), (255, 0, 0)).convert("L")
        assert_eq!(set.image(2)[0], 76);
    }
}

#[test]
fn a_picture_becomes_square_by_the_chosen_rule() {
    let folder = Folder::new();
    // Red, green and blue, each 8 wide and 8 high.
    let row: Vec<u8> =
        [[255, 0, 0], [0, 255, 0], [0, 0, 255]].iter().flat_map(|rgb| rgb.repeat(8)).collect();
    let path = folder.write("wide.png", encoded(24, 8, &row.repeat(8)));
    let pixels = |fit, background: &str| {
        let config = PictureConfig {
            fit,
            background: background.parse().unwrap(),
            ..PictureConfig::default()
        };
        rgb(&prepared_as(&path, Some(8), &config, None).unwrap().dataset)
    };
    assert_eq!(pixels(Fit::Crop, "white"), [0, 255, 0].repeat(64));
    let stretched = pixels(Fit::Stretch, "white");
    assert_eq!(
        (&stretched[..3], &stretched[9..12], &stretched[21..24]),
        (&[255, 0, 0][..], &[0, 255, 0][..], &[0, 0, 255][..])
    );
    let padded = pixels(Fit::Pad, "#102030");
    // 24×8 becomes 8×3, in rows 2 to 4.
    for row in [0, 1, 5, 6, 7] {
        assert_eq!(padded[row * 24..(row + 1) * 24], [0x10, 0x20, 0x30].repeat(8), "row {row}");
    }
    assert_eq!(padded[3 * 24..3 * 24 + 3], [255, 0, 0]);
}

#[test]
fn alpha_is_composited_before_pictures_are_scaled() {
    let folder = Folder::new();
    // The transparent pixels are bright green; no green may appear at the edge.
    let clear = image::RgbaImage::from_fn(32, 32, |x, _| {
        image::Rgba(if x < 16 { [0, 255, 0, 0] } else { [255, 0, 0, 255] })
    });
    let path = folder.path("clear.png");
    clear.save(&path).unwrap();
    let config = PictureConfig { background: Background([0, 0, 0]), ..PictureConfig::default() };
    let pixels = rgb(&prepared_as(&path, Some(8), &config, None).unwrap().dataset);
    assert!(pixels.iter().skip(1).step_by(3).all(|green| *green == 0), "{pixels:?}");
}

#[test]
fn without_a_size_small_pictures_of_one_size_stay_and_others_become_32() {
    let folder = Folder::new();
    let shape = || {
        prepared_as(&folder.path("set"), None, &PictureConfig::default(), None)
            .unwrap()
            .dataset
            .image_shape()
    };
    folder.write("set/a.png", encoded(20, 12, &vec![9; 720]));
    folder.write("set/b.png", encoded(20, 12, &vec![7; 720]));
    assert_eq!(shape(), [1, 12, 20]);
    folder.write("set/c.png", encoded(20, 13, &vec![7; 780]));
    assert_eq!(shape(), [1, 32, 32]);
}
