//! Classes, guidance and reference pictures.

use std::fs;

use crate::common::TestDir;

/// Writes dark pictures to one folder of `data`, light ones to another, and a picture without a
/// class.
fn two_classes(place: &TestDir) {
    let write = |name: std::path::PathBuf, light: u8| {
        let pixels: Vec<u8> = (0..64u8).map(|pixel| light + pixel % 5).collect();
        let picture = diffusion_picture::Picture { width: 8, height: 8, channels: 1, pixels };
        picture.write_png(&name).unwrap();
    };
    for (class, base) in [("night", 10u8), ("noon", 200)] {
        fs::create_dir_all(place.path("data").join(class)).unwrap();
        for i in 0..12u8 {
            write(place.path("data").join(class).join(format!("{i}.png")), base + i);
        }
    }
    write(place.path("data/noon-without-a-class.png"), 205);
}

const SMALL: &str = "steps = 120\nbatch_size = 12\n[network]\nbase_channels = 16\ntime_dim = 16\n[ema]\ndecay = 0.9\n";

/// The mean of all pixels.
fn brightness(place: &TestDir, file: &str) -> f64 {
    let picture = diffusion_picture::Picture::read_png(&place.path(file)).unwrap();
    picture.pixels.iter().map(|pixel| f64::from(*pixel)).sum::<f64>() / picture.pixels.len() as f64
}

#[test]
fn two_commands_train_and_sample_classes() {
    let place = TestDir::new();
    two_classes(&place);
    place.write("small.toml", SMALL);
    place.ok("train --data data --size 8 --conditional --config small.toml --run-dir run");
    let answer = place
        .ok("sample --run run --class all --per-class 3 --guidance 1.5 --grid all.png --out drawn");
    assert!(answer.out.contains("6 images"), "{}", answer.out);
    for i in 0..3 {
        assert!(brightness(&place, &format!("drawn/night/00000{i}.png")) < 100.0);
        assert!(brightness(&place, &format!("drawn/noon/00000{i}.png")) > 150.0);
    }
    assert!(place.path("all.png").is_file());

    // A class by name or by number gives the same images.
    place.ok("sample --run run --class noon --num 2 --guidance 1.5 --out named");
    place.ok("sample --run run --class 1 --per-class 2 --guidance 1.5 --out numbered");
    let file = |name: &str| fs::read(place.path(name)).unwrap();
    assert!(file("named/000001.png") == file("numbered/000001.png"));
    assert!(file("named/000001.png") == file("drawn/noon/000001.png"));
    place.ok("sample --run run --class none --num 2 --out free");
    place.ok(
        "sample --run run --num 4 --guidance 2 --guidance-interval 0.2:4 --guidance-rescale 0.5 --out any",
    );

    // Autoguidance by a weaker model, and a reference picture.
    place
        .ok("train --data data --size 8 --conditional --config small.toml --steps 3 --run-dir bad");
    place.ok("sample --run run --autoguide bad --class night --num 1 --out away");
    place.ok(
        "sample --run run --class night --reference data/noon/1.png --reference-factor 8 --num 1 --out like",
    );
    assert!(brightness(&place, "like/000000.png") > 150.0, "the reference is light");

    let about = place.ok("info --run run").out;
    assert!(about.contains("classes          2: night (12), noon (12)"), "{about}");
}

/// Where all classes are named by numbers, a number is a name: in folders, and in a table as pandas
/// writes it.
#[test]
fn a_number_is_the_name_of_a_class_if_all_names_are_numbers() {
    let place = TestDir::new();
    two_classes(&place);
    // Dark pictures are class 10, light ones class 2.
    for (from, to) in [("night", "10"), ("noon", "2")] {
        fs::rename(place.path("data").join(from), place.path("data").join(to)).unwrap();
    }
    fs::remove_file(place.path("data/noon-without-a-class.png")).unwrap();
    let row = |class: &str, i: u8, label: &str| format!("{class}/{i}.png,{label}\n");
    let rows: String = (0..12u8)
        .map(|i| row("10", i, "10.0") + &row("2", i, if i < 11 { "2.0" } else { "" }))
        .collect();
    let table = "file_name,Label\n".to_owned() + &rows;
    place.write("small.toml", SMALL);
    for table in [None, Some(&table)] {
        if let Some(table) = table {
            place.write("data/metadata.csv", table);
        }
        let run = if table.is_some() { "table" } else { "folders" };
        place.ok(&format!(
            "train --data data --size 8 --conditional --config small.toml --run-dir {run}"
        ));
        let about = place.ok(&format!("info --run {run}")).out;
        assert!(about.contains("2 (1"), "{about}");
        assert!(about.find("2 (1").unwrap() < about.find("10 (12)").unwrap(), "{about}");
        for (class, is_dark) in [("10", true), ("2", false), ("2.0", false)] {
            let out = format!("{run}-{class}");
            place.ok(&format!("sample --run {run} --class {class} --num 1 --out {out}"));
            let light = brightness(&place, &format!("{out}/000000.png"));
            assert_eq!(light < 110.0, is_dark, "{run} {class}: {light}");
        }
        for class in ["0", "1"] {
            let parts = [&format!("unknown class `{class}`"), "`2`, `10`"];
            place.refuses(&format!("sample --run {run} --class {class} --num 1"), 2, &parts);
        }
        for class in ["-1", "-1,2"] {
            place.refuses(&format!("sample --run {run} --class {class} --num 1"), 2, &["`-1`"]);
        }
    }
    place.ok("data inspect data --classes 2.0");
    place.refuses("data inspect data --classes -1", 1, &["-1"]);
}

#[test]
fn every_image_has_a_file_of_its_own() {
    let place = TestDir::new();
    two_classes(&place);
    for (from, to) in [("night", "a+b"), ("noon", "A-B")] {
        fs::rename(place.path("data").join(from), place.path("data").join(to)).unwrap();
    }
    place.write("small.toml", SMALL.replace("120", "1"));
    place.ok("train --data data --size 8 --conditional --config small.toml --run-dir run");
    place.ok("sample --run run --class all,0,a+b --per-class 2 --steps 2 --out drawn");
    let images = |folder: &str| fs::read_dir(place.path("drawn").join(folder)).unwrap().count();
    assert_eq!(images(""), 2);
    assert_eq!([images("A-B-0"), images("a-b-1")], [2, 2]);
    // Remaining images of an earlier call cause a warning, replaced ones do not.
    let warning = "other images from before";
    let again = place.ok("sample --run run --class all --per-class 2 --steps 2 --out drawn");
    assert!(!again.err.contains(warning), "{}", again.err);
    for line in ["--class 0 --num 1", "--class all --per-class 1"] {
        let fewer = place.ok(&format!("sample --run run {line} --steps 2 --out drawn"));
        assert!(fewer.err.contains(warning), "{line}: {}", fewer.err);
    }
}

#[test]
fn fine_tuning_matches_class_embeddings_by_name() {
    let place = TestDir::new();
    two_classes(&place);
    place.write("small.toml", SMALL);
    place.ok("train --data data --size 8 --conditional --config small.toml --run-dir run");
    fs::create_dir_all(place.path("more/dusk")).unwrap();
    for class in ["night", "noon"] {
        fs::rename(place.path("data").join(class), place.path("more").join(class)).unwrap();
    }
    fs::copy(place.path("more/night/1.png"), place.path("more/dusk/1.png")).unwrap();
    // A new class is sorted before both; one step of training changes nothing visible.
    place.write("one.toml", "steps = 1\nbatch_size = 12\n[optimizer]\nlr = 1e-9\n");
    place.ok(
        "train --data more --size 8 --conditional --config one.toml --init-from run --run-dir next",
    );
    place.ok("sample --run next --class all --per-class 2 --guidance 1.5 --out drawn");
    assert!(brightness(&place, "drawn/night/000000.png") < 100.0);
    assert!(brightness(&place, "drawn/noon/000000.png") > 150.0);
    place.refuses(
        "train --data more --size 8 --conditional=never --config one.toml --init-from run --run-dir none",
        1,
        &["is class-conditional", "--conditional=never"],
    );

    // Without class dropout, unconditional sampling is impossible.
    place.write("told.toml", format!("class_dropout = 0.0\n{}", SMALL.replace("120", "1")));
    place.ok(
        "train --data more --classes night,noon --size 8 --conditional --config told.toml --run-dir told",
    );
    place.refuses("sample --run told --class none --num 1", 2, &["needs a class for each image"]);
    place.refuses(
        "sample --run told --class noon --guidance 2",
        2,
        &["trained without class dropout"],
    );
    place.ok("sample --run told --class noon --num 1 --out noon");
}

#[test]
fn a_classifier_guides_an_unconditional_model() {
    let place = TestDir::new();
    two_classes(&place);
    place.write("small.toml", SMALL);
    place.ok("train --data data --size 8 --conditional=never --config small.toml --run-dir plain");
    let answer = place.ok(
        "train-classifier --data data --size 8 --steps 60 --batch-size 12 --out day.safetensors",
    );
    assert!(answer.out.contains("60 steps in"), "{}", answer.out);
    assert!(
        answer.out.contains("--run RUN --classifier day.safetensors --class \"noon\""),
        "{}",
        answer.out
    );
    place.ok(
        "sample --run plain --classifier day.safetensors --class all --per-class 3 --guidance 3 --grid all.png --out drawn",
    );
    for i in 0..3 {
        assert!(brightness(&place, &format!("drawn/night/00000{i}.png")) < 100.0);
        assert!(brightness(&place, &format!("drawn/noon/00000{i}.png")) > 150.0);
    }
    place.ok("sample --run plain --classifier day.safetensors --num 3 --out any");
    place.ok(
        "edit vary data/noon/1.png --run plain --classifier day.safetensors --class night --num 2",
    );

    let steered = |more: &str| format!("sample --run plain --classifier day.safetensors {more}");
    place.refuses(&steered("--class dusk"), 2, &["--class dusk", "`night`, `noon`"]);
    place.refuses(&steered("--autoguide plain"), 2, &["--autoguide"]);
    let guided = "evaluate samples --run plain --num 64 --seeds 1 --guidance 2";
    place.refuses(guided, 2, &["--guidance: the model was trained without classes"]);
    place.refuses("sample --run plain --classifier nosuch", 1, &["--classifier", "nosuch"]);
    place.refuses(
        "edit vary data/noon/1.png --run plain --classifier day.safetensors",
        2,
        &["--classifier", "--class"],
    );
    place.refuses(
        "sample --classifier day.safetensors --class noon",
        2,
        &["[1, 8, 8]", "[1, 28, 28]"],
    );
    place.refuses(
        "sample --run plain --classifier plain/config.toml",
        1,
        &["config.toml", "not a whole safetensors file"],
    );
    place.write("flat/1.txt", "no picture");
    fs::copy(place.path("data/noon/1.png"), place.path("flat/1.png")).unwrap();
    fs::copy(place.path("data/noon/2.png"), place.path("flat/2.png")).unwrap();
    place.refuses(
        "train-classifier --data flat --size 8 --steps 2",
        1,
        &["none of the pictures has a class"],
    );
    place.refuses(
        "train-classifier --data data --size 8 --classes noon --steps 2",
        2,
        &["two or more"],
    );
    place.refuses(&steered("--class none --guidance 2"), 2, &["--guidance", "name a class"]);
    place.refuses(
        "train-classifier --data data --size 8 --out no/where.safetensors",
        2,
        &["--out", "no folder"],
    );
}

#[test]
fn impossible_control_is_a_usage_error() {
    let place = TestDir::new();
    two_classes(&place);
    place.write("small.toml", SMALL.replace("120", "1"));
    place.ok("train --data data --size 8 --conditional --config small.toml --run-dir run");
    place.ok("train --data data --size 8 --conditional=never --config small.toml --run-dir plain");
    place.refuses("sample --run run --class nigth", 2, &["--class nigth", "`night`, `noon`"]);
    place.refuses("sample --run run --class 2", 2, &["unknown class `2` among 2 classes"]);
    place.refuses("sample --run run --class all --num 7", 2, &["--per-class"]);
    place.refuses("sample --run run --per-class 7", 2, &["--class"]);
    place.refuses("sample --run run --guidance-interval 5:1", 2, &["the smaller first"]);
    place.refuses("sample --run run --guidance much", 2, &["expected a number from -1000 to 1000"]);
    place.refuses("sample --run run --reference nosuch.png", 1, &["--reference", "nosuch.png"]);
    place.refuses(
        "sample --run plain --class noon",
        2,
        &["--class noon", "trained without classes"],
    );
    place.refuses(
        "sample --run plain --guidance 2",
        2,
        &["--guidance", "without classes", "--conditional"],
    );
    place.refuses("sample --run run --autoguide nosuch", 1, &["nosuch"]);
    fs::create_dir_all(place.path("flat")).unwrap();
    fs::copy(place.path("data/noon/1.png"), place.path("flat/1.png")).unwrap();
    place.refuses(
        "train --data flat --size 8 --conditional --config small.toml --run-dir none",
        2,
        &["conditional is always", "classes"],
    );
}
