//! Damaged files of every format: each is read or rejected, quickly, in little memory, and without
//! a panic.
//!
//! `FUZZ_CASES=10000 cargo test --release -p diffusion-data --features parquet --test sources
//! hostile` tries more mutations.

use std::alloc::{GlobalAlloc, Layout, System};
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

use diffusion_data::{PictureConfig, pack};
use diffusion_random::{Domain, NoiseSource};
use rand::{Rng, RngExt};

use crate::common::{Folder, open, png, prepared_as};

/// The number of mutations of each file; `FUZZ_CASES` overrides it.
const CASES: u64 = 150;
/// The maximum size in bytes of a single allocation. The files are a few thousand bytes long.
const MAX_ALLOCATION: usize = 256 << 20;

/// The system's allocator, which records the largest request.
struct RecordingAllocator;

static LARGEST: AtomicUsize = AtomicUsize::new(0);

// SAFETY: every call is passed unchanged to the system's allocator.
#[allow(unsafe_code)]
unsafe impl GlobalAlloc for RecordingAllocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        LARGEST.fetch_max(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller keeps the contract of `alloc`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        LARGEST.fetch_max(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller keeps the contract of `alloc_zeroed`.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller keeps the contract of `dealloc`.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        LARGEST.fetch_max(size, Ordering::Relaxed);
        // SAFETY: the caller keeps the contract of `realloc`.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: RecordingAllocator = RecordingAllocator;

fn mutated(whole: &[u8], rng: &mut impl Rng) -> Vec<u8> {
    let mut bytes = whole.to_vec();
    for _ in 0..rng.random_range(1..=4) {
        if bytes.is_empty() {
            break;
        }
        // Headers and directories matter most, so half of the damage is near one end.
        let near = bytes.len().min(64);
        let at = match rng.random_range(0..4) {
            0 => rng.random_range(0..near),
            1 => bytes.len() - 1 - rng.random_range(0..near),
            _ => rng.random_range(0..bytes.len()),
        };
        match rng.random_range(0..7) {
            0 => bytes[at] ^= 1 << rng.random_range(0..8),
            1 => bytes[at] = rng.random(),
            2 => bytes.truncate(at),
            3 => {
                let value = *[0u32, 1, 0x7fff_ffff, 0xffff_ffff, 0x0100_0000]
                    .get(rng.random_range(0..5))
                    .unwrap();
                for (byte, new) in bytes[at..].iter_mut().zip(value.to_le_bytes()) {
                    *byte = new;
                }
            }
            4 => {
                let end = rng.random_range(at..=bytes.len().min(at + 32));
                bytes.drain(at..end);
            }
            5 => {
                let end = rng.random_range(at..=bytes.len().min(at + 32));
                let piece = bytes[at..end].to_vec();
                let to = rng.random_range(0..=bytes.len());
                bytes.splice(to..to, piece);
            }
            _ => bytes.insert(at, rng.random()),
        }
    }
    bytes
}

fn seeds(folder: &Folder) -> Vec<(String, Vec<u8>)> {
    let pictures = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/pictures");
    let mut seeds = Vec::new();
    for entry in std::fs::read_dir(pictures).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        // expected.npz is left out because it is long; a shorter npz file is added below.
        if !["make.py", "expected.npz"].contains(&name.as_str()) {
            seeds.push((name, std::fs::read(path).unwrap()));
        }
    }
    for seed in 0..3 {
        folder.write(&format!("set/{}/{seed}.png", seed % 2), png(seed));
    }
    let source = open(&folder.path("set")).unwrap();
    let outs: &[&str] =
        if cfg!(feature = "parquet") { &["a.tar", "a.parquet"] } else { &["a.tar"] };
    for out in outs {
        pack(&source, &folder.path(out), 0, &mut |_| ControlFlow::Continue(())).unwrap();
        seeds.push(((*out).to_owned(), std::fs::read(folder.path(out)).unwrap()));
    }
    seeds.extend(crate::containers::small_files());
    seeds.sort();
    seeds
}

#[test]
fn damaged_files_are_read_or_rejected() {
    // A decoder's panic may be caught; its message would only clutter the output.
    std::panic::set_hook(Box::new(|_| {}));
    let cases =
        std::env::var("FUZZ_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(CASES);
    let folder = Folder::new();
    let config = PictureConfig::default();
    let (mut read, mut rejected) = (0u64, 0u64);
    for (name, whole) in seeds(&folder) {
        let path = folder.write(&format!("case/{name}"), &whole);
        // The undamaged file must be readable; otherwise all of its mutations would be rejected.
        assert!(prepared_as(&path, Some(8), &config, None).is_ok(), "{name}");
        for case in 0..cases {
            let mut rng = NoiseSource::new(case).rng(Domain::Augmentation, 0, 0);
            let bytes = mutated(&whole, &mut rng);
            std::fs::write(&path, &bytes).unwrap();
            LARGEST.store(0, Ordering::Relaxed);
            let outcome =
                std::panic::catch_unwind(|| prepared_as(&path, Some(8), &config, None).is_ok());
            let largest = LARGEST.load(Ordering::Relaxed);
            let Ok(outcome) = outcome else { panic!("{name}, case {case}: a panic") };
            assert!(
                largest <= MAX_ALLOCATION,
                "{name}, case {case}: an allocation of {largest} bytes"
            );
            if outcome {
                read += 1;
            } else {
                rejected += 1;
            }
        }
    }
    let _ = std::panic::take_hook();
    println!("{read} damaged files were read, {rejected} rejected");
    assert!(read > 0 && rejected > read / 4, "{read} read, {rejected} rejected");
}
