//! The IDX reader: accepted files and error messages.

use std::fs;
use std::path::Path;

use diffusion_data::idx::{self, IdxArray};
use diffusion_data::mnist;
use proptest::prelude::*;

fn raw(dims: &[usize], data: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0, 0, 8, dims.len() as u8];
    for &dim in dims {
        bytes.extend((dim as u32).to_be_bytes());
    }
    bytes.extend(data);
    bytes
}

fn message(bytes: &[u8], rank: usize) -> String {
    idx::read_bytes(bytes, rank, "some-file").unwrap_err().to_string()
}

proptest! {
    #[test]
    fn any_array_survives_plain_and_gzipped(dims in prop::collection::vec(0usize..6, 1..4), fill: u8) {
        let len = dims.iter().product();
        let array = IdxArray { data: (0..len).map(|i| fill.wrapping_add(i as u8)).collect(), dims };
        let rank = array.dims.len();
        prop_assert_eq!(&idx::read_bytes(&raw(&array.dims, &array.data), rank, "plain").unwrap(), &array);
        prop_assert_eq!(&idx::read_bytes(&idx::to_gzipped_bytes(&array), rank, "gz").unwrap(), &array);
    }

    #[test]
    fn arbitrary_bytes_never_make_the_reader_panic(bytes in prop::collection::vec(any::<u8>(), 0..64), rank in 1usize..4) {
        let _ = idx::read_bytes(&bytes, rank, "noise");
        let mut after_magic = vec![0, 0, 8, rank as u8];
        after_magic.extend(&bytes);
        let _ = idx::read_bytes(&after_magic, rank, "noise");
        let mut gzip = vec![0x1f, 0x8b];
        gzip.extend(&bytes);
        let _ = idx::read_bytes(&gzip, rank, "noise");
    }
}

#[test]
fn an_error_about_another_format_says_what_was_expected() {
    let error = message(b"\x89PNG\r\n\x1a\n and so on and so on", 3);
    assert_eq!(
        error,
        "some-file: at offset 0: expected the IDX magic number 00 00 08 03 (3-dimensional bytes), found 89 50 4e 47"
    );
    assert!(message(b"", 3).contains("found an empty file"));
    // Labels where pictures should be.
    assert!(message(&raw(&[2], &[1, 2]), 3).contains("found 00 00 08 01"));
}

#[test]
fn an_error_about_a_truncated_file_gives_the_offset() {
    let error = message(&raw(&[2, 3, 3], &[0; 10]), 3);
    assert_eq!(
        error,
        "some-file: at offset 26: expected 18 bytes of data (2×3×3), found the end of the file after 10 of them"
    );
    assert!(message(&raw(&[2, 3, 3], &[])[..9], 3).contains("at offset 9: expected 3 dimensions"));
    let gzipped =
        idx::to_gzipped_bytes(&IdxArray { dims: vec![4, 8, 8], data: (0..=255).collect() });
    let error = message(&gzipped[..gzipped.len() / 2], 3);
    assert!(
        error.contains("expected 256 bytes of data (4×8×8), found the end of the file"),
        "{error}"
    );
}

#[test]
fn damaged_gzip_and_trailing_bytes_are_errors() {
    let mut gzipped =
        idx::to_gzipped_bytes(&IdxArray { dims: vec![4, 8, 8], data: (0..=255).collect() });
    let checksum = gzipped.len() - 8;
    gzipped[checksum] ^= 1;
    assert!(message(&gzipped, 3).contains("some-file"));
    assert!(
        message(&raw(&[1, 2, 2], &[0; 5]), 3)
            .contains("at offset 20: expected the end of the file")
    );
}

#[test]
fn impossible_dimensions_are_rejected_before_memory_is_allocated() {
    let error = message(&raw(&[usize::MAX, usize::MAX, usize::MAX], &[]), 3);
    assert!(error.contains("at offset 4: expected dimensions of at most"), "{error}");
}

fn write_set(dir: &Path, labels: usize) {
    fs::write(dir.join("train-images-idx3-ubyte"), raw(&[3, 4, 5], &[7; 60])).unwrap();
    let labels = IdxArray { dims: vec![labels], data: vec![1; labels] };
    fs::write(dir.join("train-labels-idx1-ubyte.gz"), idx::to_gzipped_bytes(&labels)).unwrap();
}

#[test]
fn a_folder_may_mix_plain_and_gzipped_files() {
    let dir = tempfile::tempdir().unwrap();
    write_set(dir.path(), 3);
    let set = mnist::load_train(dir.path()).unwrap();
    assert_eq!((set.len(), set.image_shape(), set.label(2)), (3, [1, 4, 5], Some(1)));
    let alone = mnist::load_train(&dir.path().join("train-images-idx3-ubyte")).unwrap();
    assert_eq!((alone.len(), alone.label(0)), (3, Some(1)));
    assert!(mnist::load_test(dir.path()).is_err());
}

#[test]
fn an_error_about_a_folder_says_why() {
    let dir = tempfile::tempdir().unwrap();
    let error = || mnist::load_train(dir.path()).unwrap_err().to_string();
    assert!(
        error().contains("expected train-images-idx3-ubyte") && error().contains("found no files")
    );
    fs::write(dir.path().join("cat.jpg"), b"").unwrap();
    assert!(error().contains("found cat.jpg"));
    write_set(dir.path(), 2);
    assert!(error().contains("2 labels for 3 pictures"), "{}", error());
    assert!(
        mnist::load_train(&dir.path().join("nowhere")).unwrap_err().to_string().contains("nowhere")
    );
}
