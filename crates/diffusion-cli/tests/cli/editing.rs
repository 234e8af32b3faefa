//! The `edit` commands.

use std::fs;
use std::path::Path;

use diffusion_picture::Picture;

use crate::common::{TestDir, names};

fn write(
    place: &TestDir,
    name: &str,
    [width, height]: [usize; 2],
    pixel: impl Fn(usize, usize) -> u8,
) {
    let pixels = (0..width * height).map(|i| pixel(i % width, i / width)).collect();
    let path = place.path(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    Picture { width, height, channels: 1, pixels }.write_png(&path).unwrap();
}

fn read(place: &TestDir, name: impl AsRef<Path>) -> Picture {
    Picture::read_png(&place.path("").join(name)).unwrap()
}

/// The mean distance of the pixels of two pictures of one size.
fn distance(a: &Picture, b: &Picture) -> f64 {
    assert_eq!((a.width, a.height, a.channels), (b.width, b.height, b.channels));
    let sum: f64 = a.pixels.iter().zip(&b.pixels).map(|(a, b)| f64::from(a.abs_diff(*b))).sum();
    sum / a.pixels.len() as f64
}

fn brightness(picture: &Picture) -> f64 {
    picture.pixels.iter().map(|pixel| f64::from(*pixel)).sum::<f64>() / picture.pixels.len() as f64
}

/// Trains a conditional model on dark and light pictures.
fn two_classes(place: &TestDir, steps: u32) {
    for (class, base) in [("night", 10), ("noon", 200)] {
        for i in 0..12 {
            write(place, &format!("data/{class}/{i}.png"), [8, 8], |x, y| {
                (base + i + (x + y) % 5) as u8
            });
        }
    }
    place.write(
        "small.toml",
        format!("steps = {steps}\nbatch_size = 12\n[network]\nbase_channels = 16\ntime_dim = 16\n[ema]\ndecay = 0.9\n"),
    );
    place.ok("train --data data --size 8 --conditional --config small.toml --run-dir run");
}

#[test]
#[expect(clippy::too_many_lines, reason = "one training serves all cases")]
fn pictures_are_varied_inpainted_interpolated_and_reclassed() {
    let place = TestDir::new();
    two_classes(&place, 120);
    // Twice as large and not square: the model sees its centre.
    write(&place, "moon.png", [24, 16], |x, _| if x < 12 { 20 } else { 40 });
    let seen = |x: usize, _| if x < 4 { 20 } else { 40 };
    write(&place, "seen.png", [8, 8], seen);
    let given = read(&place, "seen.png");

    // A larger strength changes more.
    let answer = place.ok(
        "edit vary moon.png --run run --strength 0.1 --num 2 --seed 3 --out near --grid near.png --gif near.gif",
    );
    assert!(
        answer.out.contains("2 variations of moon.png in near (2 of 20 steps"),
        "{}",
        answer.out
    );
    assert_eq!(names(&place.path("near")), ["moon-0.png", "moon-1.png"]);
    assert!(place.path("near.png").is_file() && place.path("near.gif").is_file());
    place.ok(
        "edit vary moon.png --run run --strength 0.9 --class noon,night --num 2 --seed 3 --out far",
    );
    assert_eq!(
        names(&place.path("far")),
        ["moon-night-0.png", "moon-night-1.png", "moon-noon-0.png", "moon-noon-1.png"]
    );
    let near = read(&place, "near/moon-0.png");
    let far = read(&place, "far/moon-noon-0.png");
    assert!(distance(&near, &given) < 40.0, "{}", distance(&near, &given));
    assert!(distance(&far, &given) > 100.0, "{}", distance(&far, &given));
    // At full strength the images are those of `sample`.
    place.ok("edit vary moon.png --run run --strength 1 --class noon --num 2 --seed 3 --out fresh");
    place.ok("sample --run run --class noon --num 2 --seed 3 --out sampled");
    assert!(read(&place, "fresh/moon-1.png") == read(&place, "sampled/000001.png"));

    // The known region keeps its pixels, with a mask of the picture's size and with --hide.
    write(&place, "mask.png", [24, 16], |x, _| if x < 12 { 255 } else { 0 });
    let filled = place.ok(
        "edit inpaint moon.png --run run --mask mask.png --class night --steps 6 --resamples 2 --num 1 --out masked \
         --grid masked.png",
    );
    assert!(
        filled.out.contains("1 filling of moon.png in masked: 32 of 64 pixels repainted"),
        "{}",
        filled.out
    );
    place.ok("edit inpaint moon.png --run run --hide left --class night --steps 6 --resamples 2 --num 1 --out left");
    let (masked, left) = (read(&place, "masked/moon.png"), read(&place, "left/moon.png"));
    assert!(masked == left);
    for (i, (pixel, before)) in masked.pixels.iter().zip(&given.pixels).enumerate() {
        // The picture was scaled, and its edge with it.
        assert!(i % 8 < 4 || pixel.abs_diff(*before) <= 4, "pixel {i}: {pixel}, {before}");
    }
    place.ok(
        "edit inpaint seen.png --run run --hide top --class night --steps 6 --resamples 2 --num 2 --out top",
    );
    for name in ["top/seen-0.png", "top/seen-1.png"] {
        let top = read(&place, name);
        assert!(
            top.pixels[32..] == given.pixels[32..] && top.pixels[..32] != given.pixels[..32],
            "{name}"
        );
    }
    assert!(masked != given && brightness(&masked) < 120.0);

    // A folder: each result is named after its picture.
    place.ok(
        "edit inpaint data/noon --run run --hide center --steps 4 --resamples 1 --out many --grid many.png",
    );
    assert_eq!(names(&place.path("many")), names(&place.path("data/noon")));
    let (many, before) = (read(&place, "many/3.png"), read(&place, "data/noon/3.png"));
    let inside = |i: usize| (2..6).contains(&(i % 8)) && (2..6).contains(&(i / 8));
    assert!((0..64).all(|i| inside(i) || many.pixels[i] == before.pixels[i]));
    assert!((0..64).any(|i| many.pixels[i] != before.pixels[i]));

    // Another class: dark becomes light. The folder's name is the class of the pictures.
    let answer =
        place.ok("edit reclass data/night --run run --to noon,night --out noon --grid noon.png");
    assert!(
        answer.out.contains("12 pictures changed from night to noon, night in noon (50 steps each way, 2 inversion steps replaced"),
        "{}",
        answer.out
    );
    assert!(answer.out.contains("mean absolute error of "), "{}", answer.out);
    for i in 0..12 {
        assert!(brightness(&read(&place, format!("noon/{i}-noon.png"))) > 150.0);
        assert!(brightness(&read(&place, format!("noon/{i}-night.png"))) < 80.0);
    }
    let named = place
        .ok("edit reclass moon.png --run run --from 0 --to 1 --guidance 1 --steps 20 --grain 0 --gif one.gif --out one");
    assert!(
        named.out.contains(
            "moon.png changed from night to noon in one (20 steps each way, 0 inversion steps replaced"
        ),
        "{}",
        named.out
    );
    assert_eq!(names(&place.path("one")), ["moon-noon.png"]);
    assert!(fs::read(place.path("one.gif")).unwrap().starts_with(b"GIF89a"));

    // Interpolation between two pictures.
    let answer = place.ok(
        "edit interpolate data/night/2.png data/noon/2.png --run run --frames 5 --grid way.png --gif way.gif --out way",
    );
    assert!(
        answer.out.contains("5 images from data/night/2.png to data/noon/2.png in way"),
        "{}",
        answer.out
    );
    assert!(answer.out.contains("mean absolute error of "), "{}", answer.out);
    let frames: Vec<Picture> = (0..5).map(|i| read(&place, format!("way/00000{i}.png"))).collect();
    assert!(distance(&frames[0], &read(&place, "data/night/2.png")) < 6.0);
    assert!(distance(&frames[4], &read(&place, "data/noon/2.png")) < 6.0);
    assert!(place.path("way.png").is_file() && place.path("way.gif").is_file());
    // Interpolation between seeds; the ends are the images of DDIM.
    place.ok("edit interpolate --seeds 1,2 --run run --class noon --steps 10 --frames 3 --grid seeds.png --out seeds");
    for (seed, frame) in [(1, 0), (2, 2)] {
        place.ok(&format!(
            "sample --run run --class noon --sampler ddim --steps 10 --num 1 --seed {seed} --out seed{seed}"
        ));
        let (frame, alone) = (format!("seeds/00000{frame}.png"), format!("seed{seed}/000000.png"));
        assert!(read(&place, frame) == read(&place, alone));
    }
}

#[test]
fn flows_and_edm_models_edit_too() {
    let place = TestDir::new();
    two_classes(&place, 1);
    for (process, line) in
        [("flow", "prediction_type = \"flow_prediction\"\n"), ("edm", "[edm]\np_mean = -1.0\n")]
    {
        // A key goes before the tables, a table after them.
        let small = fs::read_to_string(place.path("small.toml")).unwrap();
        let all = if process == "flow" { line.to_owned() + &small } else { small + line };
        place.write("process.toml", all);
        place.ok(&format!(
            "train --data data --size 8 --conditional --config process.toml --steps 3 --run-dir {process}"
        ));
        for edit in [
            "vary data/noon/1.png --num 1",
            "inpaint data/noon/1.png --hide top --steps 3 --num 1 --resamples 2",
            "interpolate data/noon/1.png data/noon/2.png --steps 3 --frames 3",
            "reclass data/noon/1.png --to night --steps 3",
        ] {
            place.ok(&format!("edit {edit} --run {process} --out {process}-edited"));
        }
    }
}

#[test]
#[expect(clippy::too_many_lines, reason = "one training serves all cases")]
fn impossible_edits_fail_before_anything_is_computed() {
    let place = TestDir::new();
    two_classes(&place, 1);
    place.ok("train --data data --size 8 --conditional=never --config small.toml --run-dir plain");
    let picture = "data/noon/1.png";
    place.refuses("edit vary nosuch.png --run run", 1, &["nosuch.png"]);
    for strength in ["0", "2", "-1", "much"] {
        let line = format!("edit vary {picture} --run run --strength {strength}");
        place.refuses(&line, 2, &["--strength", "above 0"]);
    }
    place.refuses(
        &format!("edit vary {picture} --run run --class dusk"),
        2,
        &["--class dusk", "`night`"],
    );
    place.refuses(
        &format!("edit vary {picture} --run plain --class noon"),
        2,
        &["--class noon", "trained without classes"],
    );
    place.refuses(
        &format!("edit vary {picture} --run run --grid grid.gif"),
        2,
        &["--grid", ".png"],
    );
    place.refuses(
        &format!("edit vary {picture} --run run --gif nosuch/a.gif"),
        2,
        &["--gif", "nosuch"],
    );
    place.refuses(
        &format!("edit vary {picture} --run run --sampler flow-euler"),
        2,
        &["flow-euler", "diffusion"],
    );
    place.refuses(&format!("edit vary {picture} --run run --steps 100000"), 2, &["--steps 100000"]);
    place.write("empty/words.txt", "no picture");
    place.refuses("edit vary empty --run run", 2, &["empty", "no picture", ".png"]);
    place.write("broken.png", "no picture");
    place.refuses("edit vary broken.png --run run", 1, &["broken.png"]);

    // A mask must have the size of its picture.
    write(&place, "mask.png", [16, 8], |_, _| 255);
    let sizes = ["--mask mask.png", "16×8 pixels", "1.png 8×8"];
    place.refuses(&format!("edit inpaint {picture} --run run --mask mask.png"), 2, &sizes);
    write(&place, "black.png", [8, 8], |_, _| 127);
    place.refuses(
        &format!("edit inpaint {picture} --run run --mask black.png"),
        2,
        &["black.png", "white"],
    );
    place.refuses(
        &format!("edit inpaint {picture} --run run --mask nosuch.png"),
        1,
        &["--mask", "nosuch.png"],
    );
    place.refuses(&format!("edit inpaint {picture} --run run"), 2, &["--mask", "--hide"]);
    place.refuses(&format!("edit inpaint {picture} --run run --hide middle"), 2, &["center"]);
    place.refuses(
        &format!("edit inpaint {picture} --run run --hide top --resamples 0"),
        2,
        &["--resamples"],
    );
    place.refuses(
        &format!("edit inpaint {picture} --run run --hide top --num 1 --out data/noon"),
        2,
        &["--out: data/noon/1.png", "would overwrite"],
    );
    write(&place, "twice/a.png", [8, 8], |_, _| 9);
    fs::copy(place.path("twice/a.png"), place.path("twice/a.gif")).unwrap();
    place.refuses("edit vary twice --run run", 2, &["a.gif", "a.png", "both"]);

    place.refuses(&format!("edit interpolate {picture} --run run"), 2, &["2 values"]);
    place.refuses("edit interpolate --run run", 2, &["<A>"]);
    place.refuses("edit interpolate --run run --seeds 1", 2, &["two seeds"]);
    place.refuses(
        &format!("edit interpolate {picture} {picture} --seeds 1,2 --run run"),
        2,
        &["--seeds"],
    );
    place.refuses(
        "edit interpolate --seeds 1,2 --run run --class all",
        2,
        &["--class names 2 classes"],
    );
    place.refuses("edit interpolate --seeds 1,2 --run run --frames 1", 2, &["--frames"]);

    fs::copy(place.path(picture), place.path("alone.png")).unwrap();
    for (flag, line) in [
        ("--grid", "edit vary alone.png --run run --steps 3 --num 1 --grid alone.png"),
        ("--grid", "edit interpolate alone.png other.png --run run --steps 3 --grid other.png"),
        ("--out", "edit interpolate 000000.png other.png --run run --steps 3 --frames 3 --out ."),
        ("--guidance", "edit vary alone.png --run run --guidance 2"),
        ("--grid", "edit inpaint alone.png --mask other.png --run run --num 1 --grid other.png"),
        ("--grid", "edit vary alone.png --reference other.png --run run --num 1 --grid other.png"),
        ("--out", "sample --run run --reference 000000.png --out ."),
        ("--grid", "sample --run run --class noon --reference alone.png --grid alone.png"),
    ] {
        for name in ["other.png", "000000.png"] {
            fs::copy(place.path("alone.png"), place.path(name)).unwrap();
        }
        let before = fs::read(place.path("alone.png")).unwrap();
        place.refuses(line, 2, &[flag]);
        for name in ["alone.png", "other.png", "000000.png"] {
            assert!(fs::read(place.path(name)).unwrap() == before, "{line}: {name}");
        }
    }
    place.refuses("edit reclass alone.png --run run --to noon", 2, &["--from", "alone.png"]);
    place.refuses("edit reclass alone.png --run run --from night", 2, &["--to"]);
    for grain in ["1", "-0.1", "much"] {
        let line =
            format!("edit reclass alone.png --run run --from noon --to night --grain {grain}");
        place.refuses(&line, 2, &["--grain", "below 1"]);
    }
    place.refuses(
        "edit reclass alone.png --run run --from all --to noon",
        2,
        &["--from all", "exactly one class"],
    );
    place.refuses(
        "edit reclass alone.png --run run --from night --to dusk",
        2,
        &["--to dusk", "`noon`"],
    );
    place.refuses(
        "edit reclass alone.png --run plain --from a --to b",
        2,
        &["--to b", "trained without classes"],
    );
    assert!(!place.path("edited").exists(), "nothing was computed");
}

#[test]
fn a_folder_is_edited_with_its_subfolders() {
    let place = TestDir::new();
    place.train_small("run", 1);
    for name in ["in/1.png", "in/a/1.png", "in/b/1.png"] {
        write(&place, name, [8, 8], |x, y| (x * y) as u8);
    }
    place.write("in/notes.avif", "x");
    let line =
        "edit vary in --run run --strength 0.2 --steps 4 --out in/out --grid in/out/grid.png";
    let answer = place.ok(line);
    assert!(answer.err.contains("in: not used: notes.avif"), "{}", answer.err);
    let expected = ["1.png", "a-1.png", "b-1.png", "grid.png"];
    assert_eq!(names(&place.path("in/out")), expected);
    // The results are not the pictures of the next call.
    place.ok(line);
    assert_eq!(names(&place.path("in/out")), expected);
}
