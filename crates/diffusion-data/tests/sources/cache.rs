//! The cache of prepared pictures.

use std::fs;
use std::path::Path;
use std::sync::Barrier;

use diffusion_data::{Fit, PictureConfig, PreparedDataset};

use crate::common::{Folder, png, prepared_as};

fn prepared_with_cache(folder: &Folder, config: &PictureConfig) -> PreparedDataset {
    prepared_as(&folder.path("set"), Some(8), config, Some(&folder.path("cache"))).unwrap()
}

fn set(pictures: u8) -> Folder {
    let folder = Folder::new();
    for seed in 0..pictures {
        folder.write(&format!("set/{seed}.png"), png(seed));
    }
    folder
}

fn files(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.retain(|name| name.strip_suffix(".lock").is_none());
    names.sort();
    names
}

#[test]
fn pictures_come_from_the_cache_until_the_source_changes() {
    let folder = set(20);
    folder.write("set/bad.png", "bad");
    let config = PictureConfig::default();
    let memory = prepared_as(&folder.path("set"), Some(8), &config, None).unwrap();
    let first = prepared_with_cache(&folder, &config);
    let second = prepared_with_cache(&folder, &config);
    assert_eq!((first.from_cache, second.from_cache), (false, true));
    for prepared in [&first, &second] {
        assert_eq!(prepared.dataset.fingerprint(), memory.dataset.fingerprint());
        assert_eq!(prepared.report, memory.report);
        assert_eq!(prepared.dataset.name(7), memory.dataset.name(7));
        assert_eq!(prepared.cache_problem, None);
    }
    let before = files(&folder.path("cache"));
    assert_eq!(before.len(), 1, "{before:?}");

    folder.write("set/20.png", png(20));
    let changed = prepared_with_cache(&folder, &config);
    assert_eq!((changed.from_cache, changed.dataset.len()), (false, 21));
    assert!(prepared_with_cache(&folder, &config).from_cache);
    let after = files(&folder.path("cache"));
    assert!(
        after.len() == 1 && after != before,
        "the file of the earlier state is removed: {after:?}"
    );
    // The removed file is still mapped here.
    assert_eq!(first.dataset.fingerprint(), memory.dataset.fingerprint());

    let other = PictureConfig { fit: Fit::Stretch, ..PictureConfig::default() };
    assert!(!prepared_with_cache(&folder, &other).from_cache);
    assert!(
        prepared_with_cache(&folder, &config).from_cache,
        "each configuration has its own file"
    );
}

#[test]
fn a_damaged_file_is_written_again() {
    let folder = set(5);
    let config = PictureConfig::default();
    let whole = prepared_with_cache(&folder, &config).dataset.fingerprint();
    let path = folder.path("cache").join(&files(&folder.path("cache"))[0]);
    let bytes = fs::read(&path).unwrap();
    let mut cases = vec![
        Vec::new(),
        bytes[..40].to_vec(),
        bytes[..bytes.len() - 1].to_vec(),
        [&bytes[..], b"x"].concat(),
    ];
    // Each byte of the head, and some of the description.
    for at in (0..40).chain(bytes.len() - 60..bytes.len()) {
        let mut damaged = bytes.clone();
        damaged[at] ^= 0x41;
        cases.push(damaged);
    }
    for (case, damaged) in cases.into_iter().enumerate() {
        // Writes a new file, because the old one may be mapped.
        fs::remove_file(&path).unwrap();
        fs::write(&path, damaged).unwrap();
        let prepared = prepared_with_cache(&folder, &config);
        assert_eq!(
            (prepared.from_cache, prepared.dataset.fingerprint()),
            (false, whole),
            "case {case}"
        );
    }
}

#[test]
fn several_threads_at_once_write_one_file() {
    let folder = set(60);
    let config = PictureConfig::default();
    let start = Barrier::new(4);
    let fingerprints: Vec<u32> = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..4)
            .map(|_| {
                scope.spawn(|| {
                    start.wait();
                    prepared_with_cache(&folder, &config).dataset.fingerprint()
                })
            })
            .collect();
        workers.into_iter().map(|worker| worker.join().unwrap()).collect()
    });
    assert!(fingerprints.iter().all(|fingerprint| *fingerprint == fingerprints[0]));
    assert_eq!(files(&folder.path("cache")).len(), 1);
    assert!(prepared_with_cache(&folder, &config).from_cache);
}

#[test]
fn files_of_a_killed_process_are_removed() {
    let folder = set(5);
    let config = PictureConfig::default();
    prepared_with_cache(&folder, &config);
    let name = files(&folder.path("cache")).remove(0);
    fs::remove_file(folder.path("cache").join(&name)).unwrap();
    let stem = name.rsplit_once('-').unwrap().0;
    folder.write(&format!("cache/.partial-{stem}-abc"), "half of it");
    folder.write(&format!("cache/.{stem}.lock"), "");
    assert!(!prepared_with_cache(&folder, &config).from_cache);
    assert_eq!(files(&folder.path("cache")), [name]);
}

#[test]
fn an_unusable_cache_is_reported_and_not_used() {
    let folder = set(5);
    folder.write("cache", "a file where the folder should be");
    let prepared = prepared_with_cache(&folder, &PictureConfig::default());
    assert_eq!(prepared.dataset.len(), 5);
    assert!(prepared.cache_problem.unwrap().contains("cache"));
}

#[test]
fn new_class_names_are_detected() {
    let folder = set(2);
    let classes = |names: &str| {
        folder
            .write("set/labels.csv", format!("file_name,label\n0.png,{names}0\n1.png,{names}1\n"));
        prepared_with_cache(&folder, &PictureConfig::default()).dataset.classes().to_vec()
    };
    assert_eq!(classes("old"), ["old0", "old1"]);
    assert_eq!(classes("new"), ["new0", "new1"]);
}
