//! The same files give the same set in every container, and what is not used is named.

use std::collections::BTreeMap;
use std::fs;

use diffusion_data::{DataError, PictureConfig, Source, Split};
use proptest::prelude::*;

use crate::common::{Folder, encoded, labelled, open, pair, png, prepared, prepared_as};
use crate::containers::{floats, gzipped, npy, tar, zip};

/// What a user sees of a set: each picture's class by its pixels, the damaged pictures, the classes
/// and the notes.
type View = (BTreeMap<Vec<u8>, Option<String>>, usize, Vec<String>, Vec<String>);

fn view(path: &std::path::Path, split: Split) -> Result<View, String> {
    let source = Source::open(path, split).map_err(|error| error.to_string())?;
    let set =
        diffusion_data::prepare(&source, Some(8), &PictureConfig::default(), None, &mut |_| {
            std::ops::ControlFlow::Continue(())
        })
        .map_err(|error| error.to_string())?;
    let dataset = &set.dataset;
    let class = |i| dataset.label(i).map(|label| dataset.classes()[label as usize].clone());
    let classes = (0..dataset.len()).map(|i| (dataset.image(i).to_vec(), class(i))).collect();
    let notes = source.notes().to_vec();
    Ok((classes, set.report.damaged.len(), dataset.classes().to_vec(), notes))
}

/// The files of a random set of pictures.
fn layout() -> impl Strategy<Value = Vec<(String, Vec<u8>)>> {
    let top = prop::sample::select(vec!["", "set/", "deep/set/"]);
    let part = prop::sample::select(vec!["", "train/", "test/", "val/"]);
    let class = prop::sample::select(vec!["", "images/", "cat/", "dog/", "2/", "10/", "2.0/"]);
    let pictures = prop::collection::vec((part, class), 1..8);
    let ending = prop::sample::select(vec![".png", "", ".txt", ".avif"]);
    let label = prop::sample::select(vec!["x", "y", "2", "10", "true", ""]);
    let table_name = prop::sample::select(vec!["metadata.csv", "labels.csv", "metadata.jsonl"]);
    let table = (table_name, 0..4usize, prop::collection::vec((0..8usize, label), 0..8));
    let tables = prop::collection::vec(table, 0..3);
    let stray = prop::option::of(ending);
    (top, pictures, tables, stray).prop_map(|(top, pictures, tables, stray)| {
        let mut files: BTreeMap<String, Vec<u8>> = BTreeMap::new();
        let mut names = Vec::new();
        for (i, (part, class)) in pictures.iter().enumerate() {
            let name = format!("{top}{part}{class}{i}.png");
            files.insert(name.clone(), png(i as u8));
            names.push(name);
        }
        for (table, folder, rows) in tables {
            // In a folder above the pictures, or in one with some of them.
            let (part, class) = pictures[folder % pictures.len()];
            let folder = [
                String::new(),
                top.to_owned(),
                format!("{top}{part}"),
                format!("{top}{part}{class}"),
            ][folder]
                .clone();
            let json = table.strip_suffix(".jsonl").is_some();
            let line = |(i, label): (usize, &str)| {
                let name = names.get(i).map_or("gone.png", String::as_str);
                let name = name.strip_prefix(&folder).unwrap_or(name);
                if json {
                    format!("{{\"file_name\": \"{name}\", \"label\": \"{label}\"}}\n")
                } else {
                    format!("{name},{label}\n")
                }
            };
            let head = if json { "" } else { "file_name,label\n" };
            let text = head.to_owned() + &rows.into_iter().map(line).collect::<String>();
            files.insert(format!("{folder}{table}"), text.into_bytes());
        }
        if let Some(ending) = stray {
            files.insert(format!("{top}stray{ending}"), b"some text".to_vec());
        }
        files.into_iter().collect()
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn all_containers_give_the_same_set(files in layout()) {
        let folder = Folder::new();
        for (name, bytes) in &files {
            folder.write(&format!("folder/{name}"), bytes);
        }
        let entries: Vec<(&str, Vec<u8>)> =
            files.iter().map(|(name, bytes)| (name.as_str(), bytes.clone())).collect();
        let archive = tar(&entries);
        folder.write("set.tar.gz", gzipped(&archive));
        folder.write("set.tar", archive);
        folder.write("set.zip", zip(&entries));
        for split in [Split::Train, Split::Test] {
            let expected = view(&folder.path("folder"), split);
            for name in ["set.tar", "set.tar.gz", "set.zip"] {
                let got = view(&folder.path(name), split);
                match (&expected, &got) {
                    (Ok(expected), Ok(got)) => prop_assert_eq!(expected, got, "{}", name),
                    (expected, got) => {
                        prop_assert!(expected.is_err() && got.is_err(), "{:?} {:?}", expected, got);
                    }
                }
            }
        }
    }
}

/// An IDX file of `count` pictures of 2×2 pixels, or of labels.
fn idx(count: u8, labels: bool) -> Vec<u8> {
    let (rank, sides): (u8, &[u8]) = if labels { (1, &[]) } else { (3, &[0, 0, 0, 2, 0, 0, 0, 2]) };
    let values = if labels { count } else { 4 * count };
    [&[0, 0, 8, rank, 0, 0, 0, count], sides, &(0..values).collect::<Vec<u8>>()].concat()
}

#[test]
fn idx_files_are_found_by_content_in_all_spellings() {
    for [images, labels] in [
        ["train-images.idx3-ubyte", "train-labels.idx1-ubyte"],
        ["train-images-idx3-ubyte.idx", "train-labels-idx1-ubyte.idx"],
        ["images.idx", "labels.idx"],
        ["Train_Images.IDX3", "Train_Labels.IDX1"],
        [
            "train-images-idx3-ubyte/train-images-idx3-ubyte",
            "train-labels-idx1-ubyte/train-labels-idx1-ubyte",
        ],
        ["emnist-letters-train-images-idx3-ubyte", "emnist-letters-train-labels-idx1-ubyte"],
        ["pictures.idx", "classes.idx-labels"],
    ] {
        let folder = Folder::new();
        folder.write(&format!("set/{images}"), idx(5, false));
        folder.write(&format!("set/{labels}"), idx(5, true));
        folder.write("set/t10k-images.idx3-ubyte", idx(3, false));
        folder.write("set/t10k-labels.idx1-ubyte", gzipped(&idx(3, true)));
        for (split, count) in [(Split::Train, 5), (Split::Test, 3)] {
            let source = Source::open(&folder.path("set"), split).unwrap();
            assert_eq!((source.count(), source.classes().len()), (count, count), "{images}");
            let is_guess = images == "pictures.idx" && split == Split::Train;
            assert_eq!(source.notes().len(), usize::from(is_guess), "{images}");
        }
        if images != "pictures.idx" {
            let alone = open(&folder.path(&format!("set/{images}")));
            assert_eq!(alone.unwrap().classes().len(), 5, "{images}");
        }
    }
    let folder = Folder::new();
    folder.write("set/train-images.idx3-ubyte", idx(5, false));
    assert!(
        open(&folder.path("set")).unwrap().notes()[0].starts_with("no labels were found beside")
    );
    folder.write("set/more-train-images.idx3-ubyte", idx(5, false));
    assert!(open(&folder.path("set")).unwrap().notes()[1].contains("not used: "));
    fs::remove_file(folder.path("set/train-images.idx3-ubyte")).unwrap();
    folder.write("set/other-train-images.idx3-ubyte", idx(5, false));
    let error = open(&folder.path("set")).unwrap_err().to_string();
    assert!(error.contains("several sets of IDX pictures"), "{error}");
}

#[test]
fn two_idx_sets_of_one_name_are_never_mixed_up() {
    let folder = Folder::new();
    folder.write("set/digits/train-images-idx3-ubyte", idx(5, false));
    folder.write("set/clothes/train-images-idx3-ubyte", idx(4, false));
    let error = open(&folder.path("set")).unwrap_err().to_string();
    assert!(error.contains("several sets of IDX pictures"), "{error}");
    // One that is less deep is meant, and the others are named.
    folder.write("set/train-images-idx3-ubyte.gz", gzipped(&idx(3, false)));
    folder.write("set/train-images-idx3-ubyte/train-images-idx3-ubyte", idx(3, false));
    let source = open(&folder.path("set")).unwrap();
    assert_eq!(source.count(), 3);
    let note = source.notes().join("; ");
    assert!(note.contains("digits") && note.contains("clothes"), "{note}");
}

#[test]
fn an_archive_of_data_files_is_to_be_unpacked() {
    let folder = Folder::new();
    folder.write("set.zip", zip(&[("train-images-idx3-ubyte", idx(5, false))]));
    let error = open(&folder.path("set.zip")).unwrap_err().to_string();
    assert!(error.contains("unpacked") && error.contains("train-images-idx3-ubyte"), "{error}");
}

#[test]
fn pictures_come_before_stray_files_of_other_formats() {
    let folder = Folder::new();
    folder.write("set/a/1.png", png(1));
    folder.write("set/b/2.png", png(2));
    folder.write("set/metadata.parquet", "PAR1");
    folder.write("set/embeddings.parquet", "PAR1");
    folder.write("set/train-images-idx3-ubyte", idx(5, false));
    folder.write("set/data_batch_1.bin", vec![0; 3073]);
    let source = open(&folder.path("set")).unwrap();
    assert_eq!((source.count(), source.classes()), (2, &["a".to_owned(), "b".to_owned()][..]));
    let note = source.notes().join("\n");
    for name in
        ["metadata.parquet: ", "embeddings.parquet", "train-images-idx3-ubyte", "data_batch_1.bin"]
    {
        assert!(note.contains(name), "{note}");
    }
}

#[cfg(unix)]
#[test]
fn folders_that_are_not_utf8_stay_apart() {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;

    let folder = Folder::new();
    for (byte, seed) in [(0xe8, 1), (0xe9, 2)] {
        let class = folder.path("set").join(OsStr::from_bytes(&[b'c', byte]));
        fs::create_dir_all(&class).unwrap();
        fs::write(class.join("1.png"), png(seed)).unwrap();
    }
    let expected = [pair("c\\xE8/1.png", "c\\xE8"), pair("c\\xE9/1.png", "c\\xE9")];
    assert_eq!(labelled(&prepared(&folder.path("set")).unwrap().dataset), expected);
    let mut archive = tar::Builder::new(Vec::new());
    archive.append_dir_all("set", folder.path("set")).unwrap();
    let path = folder.write("set.tar", archive.into_inner().unwrap());
    let mut classes = labelled(&prepared(&path).unwrap().dataset);
    classes.sort();
    assert_eq!(classes, expected);
}

#[test]
fn what_a_file_is_decides_its_content() {
    let folder = Folder::new();
    folder.write("set/no ending", png(1));
    folder.write("set/2.download", png(2));
    let mut tiff = std::io::Cursor::new(Vec::new());
    let picture = image::RgbImage::from_raw(12, 10, crate::common::colours(3)).unwrap();
    picture.write_to(&mut tiff, image::ImageFormat::Tiff).unwrap();
    folder.write("set/3.tif", tiff.into_inner());
    folder.write("set/4.avif", b"\0\0\0\x1cftypavif\0\0\0\0");
    folder.write("set/5.avif", b"\0\0\0\x1cftypavif\0\0\0\0");
    folder.write("set/6.jpg", b"\0\0\0\x1cftypavif\0\0\0\0");
    folder.write("set/7.png", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n");
    let source = open(&folder.path("set")).unwrap();
    assert_eq!(source.notes(), ["not used: 2 files ending in .avif"]);
    let set = prepared(&folder.path("set")).unwrap();
    let third = (0..3).find(|i| set.dataset.name(*i) == "3.tif").unwrap();
    folder.write("one/3.png", png(3));
    let same = prepared(&folder.path("one")).unwrap().dataset;
    assert_eq!(set.dataset.image(third), same.image(0), "a TIFF file");
    let reasons: Vec<String> = set.report.damaged.iter().map(ToString::to_string).collect();
    assert_eq!(reasons.len(), 2);
    assert!(reasons[0].starts_with("6.jpg: an AVIF picture"), "{reasons:?}");
    assert!(reasons[1].starts_with("7.png: a Git LFS pointer"), "{reasons:?}");
}

#[test]
fn all_headers_decide_the_size_and_the_odd_picture_is_named() {
    let folder = Folder::new();
    for i in 0..80 {
        folder.write(&format!("set/{i:03}.png"), encoded(28, 28, &[i; 28 * 28 * 3]));
    }
    folder.write("set/grid.png", encoded(90, 60, &[9; 90 * 60 * 3]));
    let sizes = open(&folder.path("set")).unwrap().sizes().unwrap();
    assert_eq!(sizes.most_frequent(), Some((28, 28)));
    assert_eq!(sizes.others(), [(90, 60, 1, "grid.png")]);
    let set = prepared_as(&folder.path("set"), None, &PictureConfig::default(), None).unwrap();
    assert_eq!(set.dataset.image_shape()[1..], [28, 28]);
    assert_eq!(set.report.other_sizes, [(90, 60, 1, "grid.png".to_owned())]);
    for i in 0..20 {
        folder.write(&format!("set/large {i}.png"), encoded(40, 40, &[i; 40 * 40 * 3]));
    }
    let set = prepared_as(&folder.path("set"), None, &PictureConfig::default(), None).unwrap();
    assert_eq!(set.dataset.image_shape()[1..], [32, 32], "no size is shared by 95 %");
}

#[test]
fn a_sheet_of_several_images_is_no_picture_in_any_container() {
    let folder = Folder::new();
    let sheet =
        diffusion_picture::Picture { width: 9, height: 9, channels: 1, pixels: vec![7; 81] };
    sheet.write_sheet(&folder.path("grid.png")).unwrap();
    diffusion_picture::write_gif(&[sheet.clone(), sheet], 5, &folder.path("film.gif")).unwrap();
    let entries = [
        ("0.png", png(0)),
        ("film.gif", fs::read(folder.path("film.gif")).unwrap()),
        ("grid.png", fs::read(folder.path("grid.png")).unwrap()),
    ];
    for (name, bytes) in &entries {
        folder.write(&format!("set/{name}"), bytes);
    }
    folder.write("set.tar", tar(&entries));
    folder.write("set.zip", zip(&entries));
    for name in ["set", "set.tar", "set.zip"] {
        let source = open(&folder.path(name)).unwrap();
        assert_eq!(source.count(), 1, "{name}");
        let note = "film.gif and 1 others show several images, so it is not used as one picture";
        assert_eq!(source.notes(), [note], "{name}");
    }
}

#[test]
fn the_range_of_an_array_is_stated() {
    let folder = Folder::new();
    let array = |values: [f32; 4]| npy("<f4", "1, 1, 2, 2", &floats(values));
    for (values, description, has_note) in [
        ([0.0, 0.5, 1.0, 0.2], "a numpy array of numbers in [0, 1]", false),
        ([-0.05, 0.5, 1.0, 0.2], "a numpy array of numbers in [0, 1]", true),
        ([-1.0, 0.5, 1.0, 0.2], "a numpy array of numbers in [-1, 1]", false),
        ([0.0, 0.5, 1.3, 0.2], "a numpy array of numbers in [-1, 1]", true),
        ([0.0, 200.0, 255.0, 3.0], "a numpy array of numbers in [0, 255]", false),
        ([0.0, 2.0, 2.0, 0.2], "a numpy array of numbers in [0, 255]", true),
    ] {
        let source = open(&folder.write("set/samples.npy", array(values))).unwrap();
        assert_eq!(source.description(), description, "{values:?}");
        assert_eq!(source.notes().len(), usize::from(has_note), "{:?}", source.notes());
        // A folder with one array is that array.
        let in_folder = open(&folder.path("set")).unwrap();
        assert_eq!((in_folder.count(), in_folder.description().as_str()), (1, description));
    }
    folder.write("set/more.npy", array([0.0; 4]));
    let error = open(&folder.path("set")).unwrap_err();
    assert!(matches!(error, DataError::NothingFound { .. }), "{error}");
}

#[test]
fn a_zip_archive_that_cannot_be_unpacked_is_one_error() {
    let folder = Folder::new();
    let mut bytes = zip(&[("a.png", png(1)), ("b.png", png(2))]);
    // The method of compression is in the local header and in the central directory.
    for (signature, at) in [(b"PK\x03\x04", 8), (b"PK\x01\x02", 10)] {
        let places: Vec<usize> =
            (0..bytes.len() - 4).filter(|&i| bytes[i..].starts_with(signature)).collect();
        for place in places {
            bytes[place + at] = 12;
        }
    }
    let error = open(&folder.write("set.zip", bytes)).unwrap_err().to_string();
    assert!(error.contains("2 of its 2 pictures are compressed by Bzip2"), "{error}");
}

#[cfg(feature = "parquet")]
mod parquet_files {
    use std::sync::Arc;

    use parquet::data_type::{BoolType, ByteArray, ByteArrayType, DoubleType};
    use parquet::file::properties::WriterProperties;
    use parquet::file::writer::SerializedFileWriter;
    use parquet::schema::parser::parse_message_type;

    use super::*;

    enum Column {
        Bytes(Vec<Vec<u8>>),
        Bool(Vec<bool>),
        Double(Vec<f64>),
    }

    fn texts(values: &[&str]) -> Column {
        Column::Bytes(values.iter().map(|value| value.as_bytes().to_vec()).collect())
    }

    fn parquet(fields: &str, columns: &[Column]) -> Vec<u8> {
        let schema = parse_message_type(&format!("message schema {{ {fields} }}")).unwrap();
        let properties = Arc::new(WriterProperties::builder().build());
        let mut bytes = Vec::new();
        let mut writer =
            SerializedFileWriter::new(&mut bytes, Arc::new(schema), properties).unwrap();
        let mut group = writer.next_row_group().unwrap();
        for column in columns {
            let mut writer = group.next_column().unwrap().unwrap();
            match column {
                Column::Bytes(values) => {
                    let values: Vec<_> = values.iter().cloned().map(ByteArray::from).collect();
                    writer.typed::<ByteArrayType>().write_batch(&values, None, None)
                }
                Column::Bool(values) => writer.typed::<BoolType>().write_batch(values, None, None),
                Column::Double(values) => {
                    writer.typed::<DoubleType>().write_batch(values, None, None)
                }
            }
            .unwrap();
            writer.close().unwrap();
        }
        group.close().unwrap();
        writer.close().unwrap();
        bytes
    }

    #[test]
    fn a_parquet_table_gives_labels_in_every_container() {
        let names = "required binary file_name (UTF8);";
        let files = || texts(&["0.png", "1.png"]);
        for (name, bytes, classes, note) in [
            (
                "text",
                parquet(
                    &format!("{names} required binary Label (UTF8);"),
                    &[files(), texts(&["x", "y"])],
                ),
                vec!["x", "y"],
                "",
            ),
            (
                "booleans",
                parquet(
                    &format!("{names} required boolean target;"),
                    &[files(), Column::Bool(vec![true, false])],
                ),
                vec!["false", "true"],
                "",
            ),
            (
                "whole floats",
                parquet(
                    &format!("{names} required double class;"),
                    &[files(), Column::Double(vec![10.0, 2.0])],
                ),
                vec!["2", "10"],
                "",
            ),
            (
                "no labels",
                parquet(
                    &format!("{names} required binary text (UTF8);"),
                    &[files(), texts(&["a cat", "a dog"])],
                ),
                vec![],
                "it has no column of labels, such as label; its columns are file_name, text",
            ),
            (
                "no files",
                parquet("required double vector;", &[Column::Double(vec![0.5])]),
                vec![],
                "it has no column of file names, such as file_name; its columns are vector",
            ),
        ] {
            let folder = Folder::new();
            let entries = [("0.png", png(0)), ("1.png", png(1)), ("metadata.parquet", bytes)];
            for (file, bytes) in &entries {
                folder.write(&format!("set/{file}"), bytes);
            }
            folder.write("set.tar", tar(&entries));
            folder.write("set.zip", zip(&entries));
            for container in ["set", "set.tar", "set.zip"] {
                let source = open(&folder.path(container)).unwrap();
                assert_eq!(source.classes(), classes, "{name} in {container}");
                let notes = source.notes().join("; ");
                assert!(notes.ends_with(note) && notes.is_empty() == note.is_empty(), "{notes}");
            }
        }
    }

    #[test]
    fn a_column_that_gives_no_classes_or_pictures_is_named() {
        let folder = Folder::new();
        let images = || Column::Bytes(vec![png(0), png(1)]);
        let set = |fields: &str, columns: &[Column]| {
            open(&folder.write("set.parquet", parquet(fields, columns)))
        };
        let pictures = "required binary image;";
        let source = set(
            &format!("{pictures} required boolean label;"),
            &[images(), Column::Bool(vec![true, false])],
        );
        assert_eq!(source.unwrap().classes(), ["false", "true"]);
        for (fields, column, note) in [
            (
                "required double label;",
                Column::Double(vec![0.25, 0.5]),
                "its numbers are not whole",
            ),
            ("required binary label (UTF8);", texts(&["", ""]), "it is empty"),
            (
                "required binary caption (UTF8);",
                texts(&["a", "b"]),
                "the columns caption are not used",
            ),
        ] {
            let source = set(&format!("{pictures} {fields}"), &[images(), column]).unwrap();
            assert!(source.notes()[0].contains(note), "{:?}", source.notes());
            assert_eq!(source.classes(), [""; 0]);
        }
        let error =
            set("required binary image (UTF8);", &[texts(&["a.png"])]).unwrap_err().to_string();
        assert!(error.contains("its column image contains text, but pictures must be"), "{error}");
        let error =
            set("required double x;", &[Column::Double(vec![0.5])]).unwrap_err().to_string();
        assert!(
            error.contains("no column with the bytes of picture files; its columns are x"),
            "{error}"
        );
    }
}

#[test]
fn a_packed_archive_keeps_classes_that_folders_cannot_express() {
    for classes in [
        vec!["car", "train", "test"],
        vec!["a/b", "a-b"],
        vec!["__MACOSX", ".net"],
        vec!["only"],
        vec!["10", "9", "-1"],
    ] {
        let folder = Folder::new();
        let mut rows = vec!["file_name,label".to_owned()];
        for (i, class) in classes.iter().enumerate() {
            folder.write(&format!("set/{i}.png"), png(i as u8));
            rows.push(format!("{i}.png,{class}"));
        }
        folder.write("set/metadata.csv", rows.join("\n"));
        let expected = prepared(&folder.path("set")).unwrap().dataset;
        let out = folder.path("set.tar");
        diffusion_data::pack(&open(&folder.path("set")).unwrap(), &out, 0, &mut |_| {
            std::ops::ControlFlow::Continue(())
        })
        .unwrap();
        let packed = prepared(&out).unwrap().dataset;
        assert_eq!(packed.classes(), expected.classes());
        assert_eq!(packed.fingerprint(), expected.fingerprint(), "{classes:?}");
    }
}

#[test]
fn links_in_an_archive_are_followed() {
    let mut archive = tar::Builder::new(Vec::new());
    let mut add = |name: &str, kind: tar::EntryType, target: &str, bytes: &[u8]| {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_size(bytes.len() as u64);
        if kind.is_file() {
            archive.append_data(&mut header, name, bytes).unwrap();
        } else {
            archive.append_link(&mut header, name, target).unwrap();
        }
    };
    let (file, hard, soft) =
        (tar::EntryType::Regular, tar::EntryType::Link, tar::EntryType::Symlink);
    add("t/cat/first.png", soft, "../dog/b.png", &[]);
    add("t/dog/a.png", file, "", &png(1));
    add("t/dog/b.png", file, "", &png(2));
    add("t/dog/hard.png", hard, "t/dog/a.png", &[]);
    add("t/dog/soft.png", soft, "b.png", &[]);
    add("t/dog/lost.png", soft, "../../nowhere.png", &[]);
    let folder = Folder::new();
    let path = folder.write("t.tar", archive.into_inner().unwrap());
    let source = open(&path).unwrap();
    assert_eq!(source.notes(), ["1 links lead to no file of the archive"]);
    let dataset = prepared(&path).unwrap().dataset;
    let expected = [
        pair("cat/first.png", "cat"),
        pair("dog/a.png", "dog"),
        pair("dog/b.png", "dog"),
        pair("dog/hard.png", "dog"),
        pair("dog/soft.png", "dog"),
    ];
    assert_eq!(labelled(&dataset), expected);
    assert_eq!(dataset.image(0), dataset.image(2));
    assert_eq!(dataset.image(3), dataset.image(1));
    assert_eq!(dataset.image(4), dataset.image(2));
}

#[test]
fn doubtful_pictures_and_folders_are_named() {
    let folder = Folder::new();
    folder.write("set/cat/1.png", png(1));
    folder.write("set/dog/2.png", png(2));
    fs::create_dir_all(folder.path("set/eel")).unwrap();
    assert_eq!(open(&folder.path("set")).unwrap().notes(), ["no pictures in the folders eel"]);
    // The smallest and the largest byte show pictures of 0 and 1.
    let path = folder.write("binary.npy", npy("|u1", "1, 4, 4", &[0, 1].repeat(8)));
    assert_eq!(prepared(&path).unwrap().report.byte_range, Some((0, 1)));
    folder.write("binary_labels.npy", npy("|u1", "1,", &[1]));
    assert!(open(&path).unwrap().notes()[0].starts_with("binary_labels.npy is not used"));
}

#[cfg(unix)]
#[test]
fn the_cache_notices_a_file_that_was_replaced_with_its_time() {
    let folder = Folder::new();
    let path = folder.write("set/1.bmp", png(1));
    let time = fs::metadata(&path).unwrap().modified().unwrap();
    let before = open(&folder.path("set")).unwrap().fingerprint();
    std::thread::sleep(std::time::Duration::from_millis(20));
    fs::write(&path, png(2)).unwrap();
    fs::File::options().write(true).open(&path).unwrap().set_modified(time).unwrap();
    assert_ne!(open(&folder.path("set")).unwrap().fingerprint(), before);
}

#[test]
fn a_missing_number_is_no_class_but_none_among_words_is_one() {
    let folder = Folder::new();
    let classes = |labels: [&str; 4]| {
        let mut rows = vec!["file_name,label".to_owned()];
        for (i, label) in labels.iter().enumerate() {
            folder.write(&format!("set/{i}.png"), png(i as u8));
            rows.push(format!("{i}.png,{label}"));
        }
        folder.write("set/metadata.csv", rows.join("\n"));
        open(&folder.path("set")).unwrap().classes().to_vec()
    };
    assert_eq!(classes(["1.0", "nan", "10.0", "2.0"]), ["1", "2", "10"]);
    assert_eq!(classes(["3", "None", "1", "N/A"]), ["1", "3"]);
    assert_eq!(classes(["glioma", "none", "glioma", "pituitary"]), ["glioma", "none", "pituitary"]);
    let rows =
        "{\"file_name\": \"0.png\", \"label\": 2}\n{\"file_name\": \"1.png\", \"label\": NaN}\n";
    fs::remove_file(folder.path("set/metadata.csv")).unwrap();
    folder.write("set/metadata.jsonl", rows);
    assert_eq!(open(&folder.path("set")).unwrap().classes(), ["2"]);
}

#[test]
fn labels_of_another_set_are_not_taken() {
    let folder = Folder::new();
    folder.write("set/fashion-train-images-idx3-ubyte", idx(5, false));
    folder.write("set/digits-train-labels-idx1-ubyte", idx(5, true));
    let source = open(&folder.path("set")).unwrap();
    assert_eq!(source.classes(), [""; 0]);
    assert!(source.notes()[0].starts_with("no labels were found"), "{:?}", source.notes());
    let alone = open(&folder.path("set/fashion-train-images-idx3-ubyte")).unwrap();
    assert_eq!(alone.classes(), [""; 0]);
}

#[test]
fn files_that_git_lfs_has_not_downloaded_are_called_that() {
    let folder = Folder::new();
    let pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 5\n";
    for name in ["train.parquet", "train-images-idx3-ubyte", "data_batch_1.bin", "set.npy"] {
        let path = format!("{}/{name}", name.len());
        folder.write(&path, pointer);
        let error = open(&folder.path(&name.len().to_string())).unwrap_err().to_string();
        assert!(error.contains(name) && error.contains("a Git LFS pointer"), "{error}");
    }
    folder.write("13/a.png", png(1));
    let notes = open(&folder.path("13")).unwrap().notes().to_vec();
    assert!(notes[0].starts_with("train.parquet is a Git LFS pointer"), "{notes:?}");
}

#[test]
fn a_foreign_table_in_a_class_folder_is_only_named() {
    let folder = Folder::new();
    folder.write("set/cat/1.png", png(1));
    folder.write("set/dog/2.png", png(2));
    folder.write("set/cat/metadata.csv", "name,weight\nTom,4\n");
    folder.write("set/labels.csv", "");
    let source = open(&folder.path("set")).unwrap();
    assert_eq!(source.classes().len(), 2);
    assert_eq!(source.notes().len(), 2, "{:?}", source.notes());
    folder.write("set/labels.csv", "file_name,label\nTom.png,x\n");
    let notes = open(&folder.path("set")).unwrap().notes().join("\n");
    assert!(notes.contains("none of its 1 rows names a file"), "{notes}");
}
