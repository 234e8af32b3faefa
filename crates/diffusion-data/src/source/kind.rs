//! What a file is, by its name and its first bytes.

use std::str::Utf8Chunk;

use image::ImageFormat;

use super::{mnist, table};

/// The number of bytes that decide what a file is.
pub(super) const HEAD_BYTES: usize = 1024;
const PICTURE_ENDINGS: [&str; 10] =
    ["png", "jpg", "jpeg", "jpe", "jfif", "webp", "bmp", "gif", "tif", "tiff"];
/// Endings of texts, tables and programs. Such a file is never opened to see whether it is a
/// picture.
const TEXT_ENDINGS: [&str; 17] = [
    "txt", "md", "rst", "json", "jsonl", "csv", "tsv", "xml", "yaml", "yml", "toml", "html", "htm",
    "py", "ipynb", "sh", "log",
];
/// Endings of raw photographs. They begin like a TIFF file, but contain only a small preview that a
/// TIFF reader finds.
const RAW_ENDINGS: [&str; 9] = ["dng", "cr2", "nef", "nrw", "arw", "orf", "rw2", "pef", "srw"];
/// Endings of data files of other formats.
const DATA_ENDINGS: [&str; 7] = ["parquet", "npy", "npz", "bin", "zip", "tar", "gz"];
/// Endings of copies and of unfinished downloads.
const BACKUP_ENDINGS: [&str; 8] =
    ["bak", "old", "orig", "tmp", "part", "partial", "crdownload", "download~"];
/// How a file that Git LFS has not downloaded begins.
const LFS_POINTER: &[u8] = b"version https://git-lfs";
/// The file that `diffusion data inspect` writes, possibly into the folder of pictures.
const CONTACT_SHEET: &str = "contact-sheet.png";

/// What a file of a folder or an archive is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FileKind {
    /// A picture in a format that can be read, by its name or by its content.
    Picture,
    /// A picture that shows several images, written by this project.
    Sheet,
    /// A table of labels.
    Table,
    /// A hidden file, or one of the operating system or of a project's documentation.
    Hidden,
    /// A file that Git LFS has not downloaded, in a format that is read.
    Pointer,
    /// A file that is not read.
    Other,
}

/// What the file with this name is. `name` is a path with `/` as separator; `head` reads the first
/// [`HEAD_BYTES`] of the file, and is called only where they matter.
pub(super) fn kind_of(name: &str, head: impl FnOnce() -> Vec<u8>) -> FileKind {
    let file = name.rsplit('/').next().unwrap_or(name);
    if is_hidden(name) {
        return FileKind::Hidden;
    }
    if table::NAMES.contains(&file) {
        return FileKind::Table;
    }
    if name == CONTACT_SHEET {
        return FileKind::Sheet;
    }
    let ending = ending(name).unwrap_or_default();
    if PICTURE_ENDINGS.contains(&ending.as_str()) {
        let stem = &file[..file.len() - ending.len() - 1];
        // `diffusion sample` numbers its images with six digits or more.
        let is_number = stem.len() >= 6 && stem.bytes().all(|byte| byte.is_ascii_digit());
        let may_be_sheet = ["png", "gif"].contains(&ending.as_str()) && !is_number;
        let is_sheet = may_be_sheet && diffusion_picture::is_sheet(&head());
        return if is_sheet { FileKind::Sheet } else { FileKind::Picture };
    }
    if mnist::has_idx_name(file) || DATA_ENDINGS.contains(&ending.as_str()) {
        let is_pointer = head().starts_with(LFS_POINTER);
        return if is_pointer { FileKind::Pointer } else { FileKind::Other };
    }
    let is_known = [&TEXT_ENDINGS[..], &RAW_ENDINGS, &BACKUP_ENDINGS]
        .iter()
        .any(|endings| endings.contains(&ending.as_str()))
        || file.ends_with('~');
    if !is_known && is_picture_content(&head()) { FileKind::Picture } else { FileKind::Other }
}

/// Whether `name`, a path with `/` as separator, has the ending of a picture.
pub(crate) fn has_picture_ending(name: &str) -> bool {
    ending(name).is_some_and(|ending| PICTURE_ENDINGS.contains(&ending.as_str()))
}

/// The ending of a file's name in lower case, without the dot.
pub(super) fn ending(name: &str) -> Option<String> {
    let file = name.rsplit('/').next().unwrap_or(name);
    let (stem, ending) = file.rsplit_once('.')?;
    (!stem.is_empty()).then(|| ending.to_ascii_lowercase())
}

/// Whether any part of the path is hidden, or the file is one that comes with every folder.
fn is_hidden(name: &str) -> bool {
    let file = name.rsplit('/').next().unwrap_or(name).to_ascii_lowercase();
    name.split('/').any(|part| part.starts_with('.') || part == "__MACOSX")
        || ["thumbs.db", "desktop.ini"].contains(&file.as_str())
        || ["readme", "license", "licence", "copying", "notice"].iter().any(|start| {
            file.strip_prefix(start)
                .is_some_and(|rest| rest.is_empty() || [".md", ".txt", ".rst"].contains(&rest))
        })
}

fn is_picture_content(head: &[u8]) -> bool {
    let format = image::guess_format(head).ok().filter(ImageFormat::reading_enabled);
    // A text may begin with `BM`. After the file's length come four zeros.
    format.is_some_and(|format| {
        format != ImageFormat::Bmp || head.get(6..10) == Some([0; 4].as_slice())
    })
}

/// The format of a file that is not a readable picture, in words, if its first bytes tell it.
pub(crate) fn other_format(head: &[u8]) -> Option<&'static str> {
    let text = String::from_utf8_lossy(&head[..head.len().min(256)]).to_ascii_lowercase();
    let text = text.trim_start_matches('\u{feff}').trim_start();
    let brand = head.get(4..12).filter(|brand| brand.starts_with(b"ftyp")).map(|brand| &brand[4..]);
    Some(match (head, brand) {
        (_, Some(b"avif" | b"avis")) => "an AVIF picture, a format that is not read",
        (_, Some(b"heic" | b"heix" | b"hevc" | b"mif1" | b"msf1" | b"heim" | b"heis")) => {
            "a HEIC picture, a format that is not read"
        }
        ([0xff, 0x0a, ..] | [0, 0, 0, 12, b'J', b'X', b'L', ..], _) => {
            "a JPEG XL picture, a format that is not read"
        }
        ([0, 0, 0, 12, b'j', b'P', ..] | [0xff, 0x4f, 0xff, 0x51, ..], _) => {
            "a JPEG 2000 picture, a format that is not read"
        }
        ([b'8', b'B', b'P', b'S', ..], _) => "a Photoshop file, a format that is not read",
        ([b'%', b'P', b'D', b'F', ..], _) => "a PDF file, not a picture",
        _ if text.starts_with("version https://git-lfs") => {
            "a Git LFS pointer, not the file itself; `git lfs pull` downloads the file"
        }
        _ if text.starts_with("<!doctype html") || text.starts_with("<html") => {
            "an HTML page, not a picture; its download may have failed"
        }
        _ if text.starts_with("<svg") || (text.starts_with("<?xml") && text.contains("<svg")) => {
            "an SVG drawing, a format that is not read"
        }
        _ => return None,
    })
}

/// A file name as text. Bytes that are not UTF-8 are written as `\xE9`, so that different names
/// stay different.
pub(super) fn text_of(name: &[u8]) -> String {
    let chunk = |chunk: Utf8Chunk<'_>| {
        let invalid = chunk.invalid().iter().map(|byte| format!("\\x{byte:02X}"));
        chunk.valid().to_owned() + &invalid.collect::<String>()
    };
    name.utf8_chunks().map(chunk).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kind(name: &str) -> FileKind {
        kind_of(name, Vec::new)
    }

    #[test]
    fn hidden_and_other_files_are_no_pictures() {
        for name in ["a.png", "b/C.JPG", "x y/ä.webp", "scan.TIF"] {
            assert_eq!(kind(name), FileKind::Picture, "{name}");
        }
        for name in [".a.png", "__MACOSX/a.png", "b/.x/c.png", "README.md", "b/Thumbs.db"] {
            assert_eq!(kind(name), FileKind::Hidden, "{name}");
        }
        for name in ["a.txt", "png", "a.avif", "readme.png.zip"] {
            assert_eq!(kind(name), FileKind::Other, "{name}");
        }
        assert_eq!(kind("x/metadata.csv"), FileKind::Table);
    }

    #[test]
    fn a_file_without_the_ending_of_a_picture_is_judged_by_its_content() {
        let png = b"\x89PNG\r\n\x1a\n".to_vec();
        for (name, expected) in [
            ("a", FileKind::Picture),
            ("a.download", FileKind::Picture),
            ("a.txt", FileKind::Other),
            ("a.nef", FileKind::Other),
        ] {
            assert_eq!(kind_of(name, || png.clone()), expected, "{name}");
        }
        assert_eq!(kind_of("notes", || b"BMW and others".to_vec()), FileKind::Other);
    }

    #[test]
    fn names_that_are_not_utf8_stay_different() {
        assert_eq!(text_of("é/a.png".as_bytes()), "é/a.png");
        assert_eq!(text_of(b"caf\xe9/a.png"), "caf\\xE9/a.png");
        assert_ne!(text_of(b"\xe8"), text_of(b"\xe9"));
    }
}
