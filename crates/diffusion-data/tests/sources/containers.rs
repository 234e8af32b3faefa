//! Archives, numpy arrays, CIFAR batches, IDX files and packed sets.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::ops::ControlFlow;
use std::path::Path;

use diffusion_data::{DataError, PictureConfig, pack};
use flate2::Compression;
use flate2::write::GzEncoder;

use crate::common::{Folder, colours, labelled, open, pair, png, prepared, prepared_as};

pub(crate) fn tar(entries: &[(&str, Vec<u8>)]) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    for (name, bytes) in entries {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        tar.append_data(&mut header, name, bytes.as_slice()).unwrap();
    }
    tar.into_inner().unwrap()
}

pub(crate) fn zip(entries: &[(&str, Vec<u8>)]) -> Vec<u8> {
    let mut zip = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
    for (name, bytes) in entries {
        zip.start_file(*name, zip::write::SimpleFileOptions::default()).unwrap();
        zip.write_all(bytes).unwrap();
    }
    zip.finish().unwrap().into_inner()
}

pub(crate) fn gzipped(bytes: &[u8]) -> Vec<u8> {
    let mut gzip = GzEncoder::new(Vec::new(), Compression::fast());
    gzip.write_all(bytes).unwrap();
    gzip.finish().unwrap()
}

/// An npy file.
pub(crate) fn npy(descr: &str, shape: &str, data: &[u8]) -> Vec<u8> {
    let mut header =
        format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': ({shape}), }}");
    while !(header.len() + 11).is_multiple_of(64) {
        header.push(' ');
    }
    header.push('\n');
    let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
    bytes.extend((header.len() as u16).to_le_bytes());
    bytes.extend(header.as_bytes());
    bytes.extend(data);
    bytes
}

pub(crate) fn floats(values: impl IntoIterator<Item = f32>) -> Vec<u8> {
    values.into_iter().flat_map(f32::to_le_bytes).collect()
}

#[test]
fn archives_are_read_like_the_folder_they_contain() {
    let entries = [
        ("set/dog/a.png", png(1)),
        ("set/cat/b.png", png(2)),
        ("set/readme.txt", b"hello".to_vec()),
        ("__MACOSX/set/dog/._a.png", b"junk".to_vec()),
        ("set/cat/bad.png", b"bad".to_vec()),
    ];
    let folder = Folder::new();
    for (name, bytes) in &entries {
        folder.write(name, bytes);
    }
    let mut all = vec![prepared(&folder.path("set")).unwrap()];
    for (name, bytes) in [
        ("set.tar", tar(&entries)),
        ("set.tar.gz", gzipped(&tar(&entries))),
        ("set.zip", zip(&entries)),
    ] {
        let prepared = prepared(&folder.write(name, bytes)).unwrap();
        assert_eq!(
            labelled(&prepared.dataset),
            [pair("dog/a.png", "dog"), pair("cat/b.png", "cat")],
            "{name}"
        );
        assert_eq!(prepared.report.damaged.len(), 1);
        all.push(prepared);
    }
    // The folder is sorted; the archives keep their own order.
    let image = |prepared: &diffusion_data::PreparedDataset, i| prepared.dataset.image(i).to_vec();
    for archive in &all[1..] {
        assert_eq!(image(archive, 0), image(&all[0], 1));
        assert_eq!(image(archive, 1), image(&all[0], 0));
    }
}

#[test]
fn archives_with_dotted_paths_and_two_splits_are_read() {
    let folder = Folder::new();
    // Names as `tar -C folder .` writes them. The tar crate's own functions would normalise them.
    let mut dotted = tar::Builder::new(Vec::new());
    for (name, seed) in
        [("./train/cat/a.png", 1), ("./train/dog/b.png", 2), ("./test/cat/c.png", 3)]
    {
        let bytes = png(seed);
        let mut header = tar::Header::new_ustar();
        header.as_mut_bytes()[..name.len()].copy_from_slice(name.as_bytes());
        header.set_size(bytes.len() as u64);
        header.set_cksum();
        dotted.append(&header, bytes.as_slice()).unwrap();
    }
    let dotted = dotted.into_inner().unwrap();
    let dataset = prepared(&folder.write("dotted.tar", dotted)).unwrap().dataset;
    assert_eq!(
        labelled(&dataset),
        [pair("train/cat/a.png", "cat"), pair("train/dog/b.png", "dog")]
    );
}

#[test]
fn a_table_inside_an_archive_gives_the_classes() {
    let folder = Folder::new();
    let table =
        b"{\"file_name\": \"a.png\", \"label\": \"x\"}\n{\"file_name\": \"b.png\", \"label\": \"y\"}\n"
            .to_vec();
    let entries = [("top/a.png", png(1)), ("top/b.png", png(2)), ("top/metadata.jsonl", table)];
    for (name, bytes) in [("a.tar", tar(&entries)), ("a.zip", zip(&entries))] {
        let dataset = prepared(&folder.write(name, bytes)).unwrap().dataset;
        assert_eq!(labelled(&dataset), [pair("a.png", "x"), pair("b.png", "y")], "{name}");
    }
}

#[test]
fn a_damaged_archive_is_an_error_that_names_it() {
    let folder = Folder::new();
    let whole = tar(&[("a.png", png(1)), ("b.png", png(2))]);
    let packed = gzipped(&whole);
    for (name, bytes) in [
        ("cut.tar", whole[..700].to_vec()),
        ("cut.tar.gz", packed[..packed.len() / 2].to_vec()),
        ("cut.zip", zip(&[("a.png", png(1))])[..200].to_vec()),
    ] {
        let error = prepared(&folder.write(name, bytes)).unwrap_err();
        assert!(error.to_string().contains(name), "{error}");
    }
    let empty = folder.write("empty.tar", tar(&[("a.txt", b"x".to_vec())]));
    assert!(
        open(&empty).unwrap_err().to_string().contains("no pictures found"),
        "an archive of other files"
    );
}

#[test]
fn arrays_are_interpreted_by_shape_and_range() {
    let folder = Folder::new();
    let images = |name: &str, bytes: Vec<u8>| {
        let prepared =
            prepared_as(&folder.write(name, bytes), None, &PictureConfig::default(), None).unwrap();
        (prepared.dataset.image_shape(), prepared.dataset)
    };
    let bytes: Vec<u8> = (0..96).map(|i| (i * 2) as u8).collect();
    let (shape, set) = images("grey.npy", npy("|u1", "2, 6, 8", &bytes));
    assert_eq!((shape, set.len(), set.image(1)), ([1, 6, 8], 2, &bytes[48..]));

    // Two pictures in colour, channels last and channels first.
    let (shape, last) = images("last.npy", npy("|u1", "2, 4, 4, 3", &bytes));
    assert_eq!((shape, last.image(0)[0], last.image(0)[16]), ([3, 4, 4], bytes[0], bytes[1]));
    let (shape, first) = images("first.npy", npy("|u1", "2, 3, 2, 8", &bytes));
    assert_eq!((shape, first.image(0)), ([3, 2, 8], &bytes[..48]));

    for (range, values) in [
        ("around 0", [-1.0, 0.0, 1.0]),
        ("from 0 to 1", [0.0, 0.5, 1.0]),
        ("from 0 to 255", [0.0, 128.0, 255.0]),
    ] {
        let data = floats(values.into_iter().chain([values[0]; 13]));
        let (_, set) = images("float.npy", npy("<f4", "1, 1, 4, 4", &data));
        assert_eq!(set.image(0)[..3], [0, 128, 255], "{range}");
    }
    for (bytes, problem) in [
        (npy("<f4", "1, 1, 2, 2", &floats([0.0, f32::NAN, 0.0, 0.0])), "not finite"),
        (npy("<f4", "1, 1, 2, 2", &floats([0.0, 999.0, 0.0, 0.0])), "its numbers go from 0 to 999"),
        (npy("<f4", "1, 1, 2, 2", &floats([0.0; 3])), "does not match its 12 bytes"),
        (npy(">f4", "1, 1, 2, 2", &floats([0.0; 4])), "its numbers are \">f4\""),
        (npy("|u1", "9, 9", &[0; 81]), "(N, H, W), (N, H, W, C) or (N, C, H, W)"),
        (npy("|u1", "99999999999, 99999999999, 9", &[0; 81]), "too large"),
    ] {
        let error = open(&folder.write("bad.npy", bytes)).unwrap_err().to_string();
        assert!(error.contains("bad.npy") && error.contains(problem), "{error}");
    }
}

#[test]
fn an_npz_file_may_have_labels() {
    let folder = Folder::new();
    let pictures = npy("|u1", "3, 4, 4", &(0..48).collect::<Vec<u8>>());
    let labels = npy(
        "<i8",
        "3,",
        &[2i64, 0, 2].iter().flat_map(|label| label.to_le_bytes()).collect::<Vec<_>>(),
    );
    let path = folder
        .write("set.npz", zip(&[("arr_0.npy", pictures.clone()), ("arr_1.npy", labels.clone())]));
    let dataset = prepared_as(&path, None, &PictureConfig::default(), None).unwrap().dataset;
    assert_eq!(dataset.classes(), ["0", "1", "2"]);
    assert_eq!([0, 1, 2].map(|i| dataset.label(i)), [Some(2), Some(0), Some(2)]);
    assert_eq!(dataset.image(2)[0], 32);

    let wrong = npy("<i8", "2,", &[0; 16]);
    let path = folder.write("wrong.npz", zip(&[("x.npy", pictures), ("y.npy", wrong)]));
    assert!(open(&path).unwrap_err().to_string().contains("2 labels for 3 pictures"));
    let path = folder.write("names.npz", zip(&[("a.npy", labels.clone()), ("b.npy", labels)]));
    assert!(
        open(&path).unwrap_err().to_string().contains("one of its arrays must be called images")
    );
}

/// A CIFAR record: its label bytes, and a picture with a red top row and a blue left column.
fn cifar_record(label_bytes: &[u8]) -> Vec<u8> {
    let mut record = label_bytes.to_vec();
    let plane = |lit: fn(usize, usize) -> bool| {
        (0..1024).map(move |i| if lit(i / 32, i % 32) { 255 } else { 0 })
    };
    record.extend(plane(|row, _| row == 0));
    record.extend(plane(|_, _| false));
    record.extend(plane(|_, column| column == 0));
    record
}

#[test]
fn cifar_pictures_are_not_transposed() {
    let folder = Folder::new();
    folder.write("ten/data_batch_1.bin", [cifar_record(&[3]), cifar_record(&[9])].concat());
    folder.write("ten/data_batch_2.bin", cifar_record(&[0]));
    folder.write("ten/test_batch.bin", cifar_record(&[1]));
    let names = "airplane\nautomobile\nbird\ncat\ndeer\ndog\nfrog\nhorse\nship\ntruck\n";
    folder.write("ten/batches.meta.txt", names);
    folder.write("hundred/train.bin", cifar_record(&[7, 99]));
    let alone = folder.write("alone.bin", cifar_record(&[5]));

    let ten =
        prepared_as(&folder.path("ten"), None, &PictureConfig::default(), None).unwrap().dataset;
    assert_eq!(
        labelled(&ten),
        [pair("000000", "cat"), pair("000001", "truck"), pair("000002", "airplane")]
    );
    assert_eq!(ten.image_shape(), [3, 32, 32]);
    let red: Vec<usize> = (0..1024).filter(|i| ten.image(0)[*i] == 255).collect();
    let blue: Vec<usize> = (0..1024).filter(|i| ten.image(0)[2048 + i] == 255).collect();
    assert_eq!(red, (0..32).collect::<Vec<_>>(), "the top row");
    assert_eq!(blue, (0..32).map(|row| 32 * row).collect::<Vec<_>>(), "the left column");

    let hundred = prepared(&folder.path("hundred")).unwrap().dataset;
    assert_eq!((hundred.label(0), hundred.classes().len()), (Some(99), 100));
    assert_eq!(prepared(&alone).unwrap().dataset.label(0), Some(5));
    folder.write("ten/data_batch_2.bin", cifar_record(&[200]));
    let damaged = prepared(&folder.path("ten")).unwrap().report.damaged;
    assert_eq!(damaged[0].to_string(), "000002: its class is 200, but there are only 10 classes");
    folder.write("ten/data_batch_2.bin", [0; 3000]);
    assert!(matches!(open(&folder.path("ten")).unwrap_err(), DataError::Format { offset: 0, .. }));
}

#[test]
fn idx_files_are_read_with_labels_and_class_names() {
    let folder = Folder::new();
    let images =
        [&[0, 0, 8, 3, 0, 0, 0, 2, 0, 0, 0, 2, 0, 0, 0, 2][..], &[1, 2, 3, 4, 5, 6, 7, 8]].concat();
    let path = folder.write("set/train-images-idx3-ubyte.gz", gzipped(&images));
    folder.write("set/train-labels-idx1-ubyte.gz", gzipped(&[0, 0, 8, 1, 0, 0, 0, 2, 1, 0]));
    folder.write("set/classes.txt", "shirt\nshoe\n");
    for path in [folder.path("set"), path] {
        let set = prepared_as(&path, None, &PictureConfig::default(), None).unwrap().dataset;
        assert_eq!(labelled(&set), [pair("000000", "shoe"), pair("000001", "shirt")]);
        assert_eq!(set.image(1), [5, 6, 7, 8]);
    }
}

fn packed(source: &Path, out: &Path) -> Result<diffusion_data::PackReport, DataError> {
    pack(&open(source)?, out, 10, &mut |_| ControlFlow::Continue(()))
}

#[test]
fn a_packed_set_equals_the_original() {
    let folder = Folder::new();
    for (seed, name) in ["cat/a.png", "cat/b c.png", "dog/a.png"].into_iter().enumerate() {
        folder.write(&format!("set/{name}"), png(seed as u8));
    }
    folder.write("set/dog/bad.png", "bad");
    let original = prepared(&folder.path("set")).unwrap().dataset;
    let outs: &[&str] =
        if cfg!(feature = "parquet") { &["set.tar", "set.parquet"] } else { &["set.tar"] };
    for out in outs {
        let path = folder.path(out);
        let report = packed(&folder.path("set"), &path).unwrap();
        assert_eq!((report.count, report.damaged.len()), (3, 1));
        let set = prepared(&path).unwrap().dataset;
        assert_eq!(
            (labelled(&set), set.fingerprint()),
            (labelled(&original), original.fingerprint()),
            "{out}"
        );
        let error = packed(&folder.path("set"), &path).unwrap_err().to_string();
        assert!(error.contains("it exists already"), "{error}");
    }
    // The files are packed byte for byte.
    let mut archive = tar::Archive::new(File::open(folder.path("set.tar")).unwrap());
    let mut bytes = Vec::new();
    archive.entries().unwrap().next().unwrap().unwrap().read_to_end(&mut bytes).unwrap();
    assert_eq!(bytes, fs::read(folder.path("set/cat/a.png")).unwrap());

    let error = packed(&folder.path("set"), &folder.path("set.rar")).unwrap_err().to_string();
    assert!(error.contains("ends in .tar"), "{error}");
    let names: Vec<_> =
        fs::read_dir(folder.path("")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names.len(), 1 + outs.len(), "no unfinished file is left: {names:?}");
}

#[test]
fn a_packed_archive_keeps_hidden_classes_and_invents_none() {
    let folder = Folder::new();
    folder.write("set/a.png", png(1));
    folder.write("set/sub/b.png", png(2));
    folder.write("set/sub/c.png", png(3));
    folder.write("set/labels.csv", "file_name,label\na.png,.net\nsub/b.png,x\n");
    packed(&folder.path("set"), &folder.path("set.tar")).unwrap();
    let dataset = prepared(&folder.path("set.tar")).unwrap().dataset;
    let expected =
        [pair("_.net/a.png", ".net"), pair("x/sub/b.png", "x"), ("sub-c.png".to_owned(), None)];
    assert_eq!(labelled(&dataset), expected);
}

#[test]
fn raw_pixels_are_packed_as_png() {
    let folder = Folder::new();
    let source =
        folder.write("set.npy", npy("|u1", "2, 10, 12, 3", &[colours(1), colours(2)].concat()));
    packed(&source, &folder.path("set.tar")).unwrap();
    let as_they_are =
        |path: &Path| prepared_as(path, None, &PictureConfig::default(), None).unwrap().dataset;
    let (before, after) = (as_they_are(&source), as_they_are(&folder.path("set.tar")));
    assert_eq!(after.name(0), "000000.png");
    assert_eq!((after.image(0), after.image(1)), (before.image(0), before.image(1)));
}

/// A small file of each format, for the tests with damaged files.
pub(crate) fn small_files() -> Vec<(String, Vec<u8>)> {
    let table = b"file_name,label\na.png,x\nb.png,y\n".to_vec();
    let entries = [("a.png", png(1)), ("b.png", png(2)), ("metadata.csv", table)];
    let pictures = npy("<f4", "2, 1, 8, 8", &floats((0..128).map(|i| i as f32 / 128.0)));
    let labels = npy("<i8", "2,", &[0; 16]);
    let idx = [&[0, 0, 8, 3, 0, 0, 0, 2, 0, 0, 0, 8, 0, 0, 0, 8][..], &[7; 128]].concat();
    let named = |name: &str, bytes: Vec<u8>| (name.to_owned(), bytes);
    vec![
        named("b.tar", tar(&entries)),
        named("b.tar.gz", gzipped(&tar(&entries))),
        named("b.zip", zip(&entries)),
        named("b.npz", zip(&[("x.npy", pictures.clone()), ("y.npy", labels)])),
        named("b.npy", pictures),
        named("b.bin", cifar_record(&[3])),
        named("b-idx3-ubyte", idx.clone()),
        named("b-idx3-ubyte.gz", gzipped(&idx)),
    ]
}
