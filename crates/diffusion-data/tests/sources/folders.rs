//! Folders of pictures as users have them.

use std::fs;

use diffusion_data::{DataError, PictureConfig, Source, Split};
use diffusion_files::FileError;

use crate::common::{Folder, encoded, labelled, open, pair, png, prepared, prepared_as};

/// A PNG file whose header states 20,000×20,000 pixels.
fn bomb() -> Vec<u8> {
    let mut bytes = encoded(8, 8, &[0; 192]);
    for side in [16..20, 20..24] {
        bytes[side].copy_from_slice(&20_000u32.to_be_bytes());
    }
    let mut crc = flate2::Crc::new();
    crc.update(&bytes[12..29]);
    bytes[29..33].copy_from_slice(&crc.sum().to_be_bytes());
    bytes
}

#[test]
fn usable_pictures_are_used_and_damaged_ones_reported() {
    let folder = Folder::new();
    for seed in 0..5 {
        folder.write(&format!("set/good {seed} ünïcode ☂.png"), png(seed));
    }
    folder.write("set/empty.png", "");
    let jpeg = fs::read(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/pictures/rgb.jpg")).unwrap();
    folder.write("set/cut.jpg", &jpeg[..jpeg.len() * 2 / 3]);
    folder.write("set/cut.png", &png(9)[..100]);
    folder.write("set/text.png", "I am a text.");
    folder.write("set/dot.png", encoded(1, 1, &[1, 2, 3]));
    folder.write("set/bomb.png", bomb());
    folder.write("set/notes.txt", "not a picture, and not named like one");
    folder.write("set/.hidden.png", "a hidden file");
    #[cfg(unix)]
    {
        std::os::unix::fs::symlink(folder.path("set"), folder.path("set/loop")).unwrap();
        std::os::unix::fs::symlink("nowhere.png", folder.path("set/dangling.png")).unwrap();
    }
    let prepared =
        prepared_as(&folder.path("set"), Some(16), &PictureConfig::default(), None).unwrap();
    assert_eq!(prepared.dataset.len(), 5);
    assert_eq!(prepared.dataset.name(3), "good 3 ünïcode ☂.png");
    let reasons: Vec<String> = prepared.report.damaged.iter().map(ToString::to_string).collect();
    for expected in [
        "bomb.png: 20000×20000 pixels, more than the 67108864 that a picture may have",
        "cut.jpg: a JPEG file that is cut short",
        "cut.png: a damaged picture: ",
        "dot.png: the picture has 1×1 pixels, too few for 16×16",
        "empty.png: an empty file",
        "text.png: not a picture: expected a PNG, JPEG, WebP, BMP, GIF or TIFF file",
    ] {
        assert_eq!(
            reasons.iter().filter(|reason| reason.starts_with(expected)).count(),
            1,
            "{expected}: {reasons:?}"
        );
    }
    if cfg!(unix) {
        assert!(
            reasons.iter().any(|reason| reason == "loop: a link to a folder that contains it"),
            "{reasons:?}"
        );
        assert!(reasons.iter().any(|reason| reason.starts_with("dangling.png: ")), "{reasons:?}");
    }
    assert_eq!(reasons.len(), if cfg!(unix) { 8 } else { 6 });
}

#[cfg(unix)]
#[test]
fn sockets_and_unreadable_files_are_reported_without_blocking() {
    use std::os::unix::fs::PermissionsExt;

    let folder = Folder::new();
    folder.write("set/good.png", png(1));
    let secret = folder.write("set/secret.png", png(2));
    fs::set_permissions(&secret, fs::Permissions::from_mode(0o000)).unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(folder.path("set/socket.png")).unwrap();
    let prepared = prepared(&folder.path("set")).unwrap();
    // The superuser can read the file all the same.
    let readable = fs::read(&secret).is_ok();
    assert_eq!(prepared.dataset.len(), 1 + usize::from(readable));
    let reasons: Vec<String> = prepared.report.damaged.iter().map(ToString::to_string).collect();
    assert!(reasons.contains(&"socket.png: not a regular file".to_owned()), "{reasons:?}");
    assert_eq!(reasons.len(), 2 - usize::from(readable), "{reasons:?}");
}

#[test]
fn too_many_damaged_pictures_are_an_error_that_names_the_first() {
    let folder = Folder::new();
    folder.write("set/a.png", "");
    folder.write("set/b.png", "x");
    let error = prepared(&folder.path("set")).unwrap_err().to_string();
    assert!(
        error.contains(
            "none of its 2 pictures can be used: a.png: an empty file; b.png: not a picture"
        ),
        "{error}"
    );
    folder.write("set/c.png", png(0));
    assert_eq!(prepared(&folder.path("set")).unwrap().dataset.len(), 1);
    let strict = PictureConfig { max_bad: 1, ..PictureConfig::default() };
    for cache in [None, Some(folder.path("cache"))] {
        let error =
            prepared_as(&folder.path("set"), Some(8), &strict, cache.as_deref()).unwrap_err();
        assert!(matches!(error, DataError::Damaged { .. }));
        assert!(
            error.to_string().contains("more than 1 pictures cannot be used; raise max_bad"),
            "{error}"
        );
        // These pictures are then in the cache, and the limit still applies to them.
        prepared_as(&folder.path("set"), Some(8), &PictureConfig::default(), cache.as_deref())
            .unwrap();
    }
}

#[test]
fn an_error_about_a_folder_without_pictures_lists_its_files() {
    let folder = Folder::new();
    folder.write("set/readme.md", "");
    folder.write("set/set.csv", "");
    let error = open(&folder.path("set")).unwrap_err().to_string();
    assert!(
        error.contains("no pictures found") && error.contains("found readme.md, set.csv"),
        "{error}"
    );
    assert!(matches!(
        open(&folder.path("gone")).unwrap_err(),
        DataError::File(FileError::Io { .. })
    ));
    let text = folder.write("a.bin", "nothing of the kind");
    assert!(
        open(&text).unwrap_err().to_string().contains("not recognised; expected a picture, a tar")
    );
}

#[test]
fn classes_come_from_folders_or_from_a_table() {
    let folder = Folder::new();
    folder.write("set/dog/1.png", png(1));
    folder.write("set/cat/more/2.png", png(2));
    folder.write("set/3.png", png(3));
    let dataset = prepared(&folder.path("set")).unwrap().dataset;
    assert_eq!(dataset.classes(), ["cat", "dog"]);
    assert_eq!(
        labelled(&dataset),
        [("3.png".to_owned(), None), pair("cat/more/2.png", "cat"), pair("dog/1.png", "dog")]
    );

    folder.write("set/metadata.csv", "file_name,label\n3.png,bird\ndog/1.png,fish\n4.png,bird\n");
    let prepared = prepared(&folder.path("set")).unwrap();
    assert_eq!(
        labelled(&prepared.dataset),
        [pair("3.png", "bird"), ("cat/more/2.png".to_owned(), None), pair("dog/1.png", "fish")]
    );
    assert_eq!(
        prepared.report.damaged[0].to_string(),
        "4.png: listed in the table of labels, but not there"
    );

    folder.write("set/metadata.csv", "name;kind\n3.png;bird\n");
    let error = open(&folder.path("set")).unwrap_err().to_string();
    assert!(
        error.contains("metadata.csv: its first line must name the columns file_name and label"),
        "{error}"
    );
}

#[test]
fn a_folder_with_two_splits_is_two_sets() {
    let folder = Folder::new();
    folder.write("set/train/cat/1.png", png(1));
    folder.write("set/train/dog/2.png", png(2));
    folder.write("set/val/cat/3.png", png(3));
    folder.write("set/val/dog/4.png", png(4));
    let names = |split| {
        let source = Source::open(&folder.path("set"), split).unwrap();
        (source.count(), source.classes().to_vec(), source.description())
    };
    let classes = vec!["cat".to_owned(), "dog".to_owned()];
    assert_eq!(names(Split::Train), (2, classes.clone(), "pictures; split train".to_owned()));
    assert_eq!(names(Split::Test), (2, classes, "pictures; split val".to_owned()));
}

#[test]
fn splits_stay_the_same_when_pictures_are_added() {
    let folder = Folder::new();
    for seed in 0..40 {
        folder
            .write(&format!("set/{}/{seed}.png", if seed % 3 == 0 { "a" } else { "b" }), png(seed));
    }
    let set = || prepared(&folder.path("set")).unwrap().dataset;
    let names = |set: &diffusion_data::ImageDataset| {
        (0..set.len()).map(|i| set.name(i)).collect::<Vec<_>>()
    };
    let before = set();
    let (training, validation) = before.split(0.25).unwrap();
    assert_eq!(training.len() + validation.len(), 40);
    assert!((4..=17).contains(&validation.len()), "{}", validation.len());
    let held_back = names(&validation);
    assert!(names(&training).iter().all(|name| !held_back.contains(name)));
    assert_eq!(
        validation.image(0),
        before.image(names(&before).iter().position(|n| *n == held_back[0]).unwrap())
    );
    for seed in 40..80 {
        folder.write(&format!("set/b/{seed}.png"), png(seed));
    }
    let after = names(&set().split(0.25).unwrap().1);
    assert!(held_back.iter().all(|name| after.contains(name)));

    let of_a = before.of_classes(&["a".to_owned()]).unwrap();
    assert_eq!((of_a.len(), of_a.classes().len()), (14, 2));
    assert!((0..14).all(|i| of_a.label(i) == Some(0)));
    assert_ne!(of_a.fingerprint(), before.fingerprint());
    let error = before.of_classes(&["c".to_owned()]).unwrap_err().to_string();
    assert_eq!(error, "there is no class \"c\": the classes are a, b");
    assert_eq!(before.limited(7).unwrap().len(), 7);
    assert_eq!(before.limited(99).unwrap().len(), 40);
    assert!(before.split(0.999_999).is_err());
}

#[test]
fn limit_and_validation_split_are_independent() {
    let folder = Folder::new();
    for i in 0..400 {
        folder.write(&format!("set/{i}.png"), png(i as u8));
    }
    let set = prepared(&folder.path("set")).unwrap().dataset;
    let some = set.limited(100).unwrap();
    let (training, validation) = some.split(0.3).unwrap();
    assert_eq!(training.len() + validation.len(), 100);
    assert!((15..=45).contains(&validation.len()), "{}", validation.len());
}

#[test]
fn runs_and_contact_sheets_among_the_pictures_are_ignored() {
    let folder = Folder::new();
    folder.write("set/a.png", png(1));
    folder.write("set/contact-sheet.png", png(2));
    folder.write("set/runs/set-1/samples/b.png", png(3));
    folder.write("set/runs/set-1/config.toml", "");
    fs::create_dir_all(folder.path("set/runs/set-1/checkpoints")).unwrap();
    let dataset = prepared(&folder.path("set")).unwrap().dataset;
    assert_eq!((dataset.len(), dataset.classes().len()), (1, 0));
}

#[test]
fn a_table_above_the_splits_labels_the_chosen_one() {
    let folder = Folder::new();
    folder.write("set/train/1.png", png(1));
    folder.write("set/train/2.png", png(2));
    folder.write("set/test/3.png", png(3));
    folder
        .write("set/metadata.csv", "file_name,label\ntrain/1.png,x\ntrain/2.png,y\ntest/3.png,z\n");
    let prepared = prepared(&folder.path("set")).unwrap();
    assert_eq!(labelled(&prepared.dataset), [pair("1.png", "x"), pair("2.png", "y")]);
    assert_eq!(prepared.report.damaged, []);
    // If the table has captions but no labels, the folders are the classes.
    folder.write("more/a/1.png", png(1));
    folder.write("more/b/2.png", png(2));
    folder.write("more/metadata.csv", "file_name,text\na/1.png,hello\n");
    assert_eq!(open(&folder.path("more")).unwrap().classes(), ["a", "b"]);
}

#[cfg(unix)]
#[test]
fn a_socket_in_place_of_a_file_is_rejected_at_once() {
    let folder = Folder::new();
    let path = folder.path("socket.png");
    let _socket = std::os::unix::net::UnixListener::bind(&path).unwrap();
    assert!(open(&path).unwrap_err().to_string().contains("not a regular file"));
}
