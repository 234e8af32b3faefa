use std::fs;
use std::io::Write;

use crate::common::TestDir;

fn idx(dims: &[u32], len: usize) -> Vec<u8> {
    let mut bytes = vec![0, 0, 8, dims.len() as u8];
    bytes.extend(dims.iter().flat_map(|d| d.to_be_bytes()));
    bytes.extend(vec![0; len]);
    bytes
}

#[test]
fn a_truncated_idx_file_is_named_with_its_offset() {
    let place = TestDir::new();
    place.write("d/train-images-idx3-ubyte", idx(&[100, 28, 28], 5000));
    place.refuses(
        "train --data d",
        1,
        &["train-images-idx3-ubyte: at offset 5016: expected 78400 bytes", "100×28×28"],
    );
    let mut gz = flate2::write::GzEncoder::new(vec![], flate2::Compression::fast());
    gz.write_all(&idx(&[100, 28, 28], 78_400)).unwrap();
    let whole = gz.finish().unwrap();
    fs::remove_file(place.path("d/train-images-idx3-ubyte")).unwrap();
    place.write("d/train-images-idx3-ubyte.gz", &whole[..whole.len() / 2]);
    place.refuses(
        "train --data d",
        1,
        &["train-images-idx3-ubyte.gz: at offset", "the end of the file after"],
    );
    assert!(!place.path("runs").exists(), "a run folder was made for data that cannot be read");
}

#[test]
fn a_png_named_like_an_idx_file_is_recognised() {
    let place = TestDir::new();
    place.write("d/train-images-idx3-ubyte", b"\x89PNG\r\n\x1a\n0123456789");
    place.refuses(
        "train --data d",
        1,
        &["at offset 0", "IDX magic number 00 00 08 03", "89 50 4e 47"],
    );
}

#[test]
fn the_error_for_an_empty_or_missing_folder_says_what_was_expected() {
    let place = TestDir::new();
    fs::create_dir(place.path("empty")).unwrap();
    place.refuses("train --data empty", 1, &["expected files ending in .png", "found no files"]);
    place.refuses(
        "train --data nowhere",
        2,
        &["--data nowhere", "leave --data out", "data download NAME"],
    );
}

#[test]
fn labels_and_pictures_that_do_not_belong_together_are_refused() {
    let place = TestDir::new();
    place.write("d/train-images-idx3-ubyte", idx(&[9, 8, 8], 9 * 64));
    place.write("d/train-labels-idx1-ubyte", idx(&[7], 7));
    place.refuses("train --data d", 1, &["7 labels for 9 pictures"]);
}

#[test]
fn wrong_flags_are_usage_errors() {
    let place = TestDir::new();
    place.refuses("train --steps 0", 2, &["--steps", "0"]);
    place.refuses("train --steps many", 2, &["--steps", "many"]);
    place.refuses("train --max-minutes -1", 2, &["--max-minutes"]);
    place.refuses("train --device tpu", 2, &["--device", "auto, cpu, cuda:N or metal"]);
    place.refuses("train --stepz 3", 2, &["--stepz", "--steps"]);
    place.refuses(
        "train --preset minst",
        2,
        &["there is no preset `minst`; the presets are mnist, digits-attn, colour-32, cifar10, tutorial"],
    );
    place.refuses("sample --sampler dpm", 2, &["--sampler", "ddpm"]);
    place.refuses("train --resume", 2, &["--run-dir"]);
    place.refuses("train --threads 0", 2, &["--threads"]);
    if !cfg!(feature = "cuda") {
        place.refuses("info --device cuda:0", 2, &["--features cuda"]);
    }
}

#[test]
fn wrong_configurations_are_usage_errors_with_their_line() {
    let place = TestDir::new();
    place.write("c.toml", "seed = 3\n\n[optimizer]\nlearning_rat = 2\nlr = 1.0\n");
    place.refuses("train --config c.toml", 2, &["c.toml:4", "learning_rat"]);
    place.write("c.toml", "bach_size = 3\n");
    place.refuses("train --config c.toml", 2, &["c.toml:1", "did you mean `batch_size`?"]);
    place.write("c.toml", "steps = 0\n");
    place.refuses("train --config c.toml", 2, &["steps is 0; it must be at least 1"]);
    place.write("c.toml", "[schedule]\nbeta_schedule = \"linear\"\nbeta_end = 1.5\n");
    place.refuses("train --config c.toml", 2, &["beta_end is 1.5; it must be above 0 and below 1"]);
    place.write("c.toml", "[network]\nbase_channels = 20\n");
    place.refuses("train --config c.toml", 2, &["20 channels do not divide into 8 groups"]);
    place.write("c.toml", "[network]\nbase_channels = 800000\n");
    place.refuses(
        "train --config c.toml",
        2,
        &["base_channels is 800000; it must be from 1 to 4096"],
    );
    place.write("c.toml", "[schedule]\nnum_train_timesteps = 1000000000000\n");
    place.refuses(
        "train --config c.toml",
        2,
        &["num_train_timesteps is 1000000000000; it must be at most"],
    );
    place.refuses("train --config none.toml", 1, &["none.toml"]);
    place.refuses("train --size 30 --steps 1", 2, &["30×30", "multiples of 4"]);
    place.refuses(
        "train --batch-size 5000000000 --steps 1",
        1,
        &["a pass of 5000000000 pictures is too long"],
    );
}

#[test]
fn a_checkpoint_of_another_shape_is_refused_by_the_name_of_a_tensor() {
    let place = TestDir::new();
    place.train_small("run", 1);
    let state = place.path("run/checkpoints/step-0000001/checkpoint.json");
    let text = fs::read_to_string(&state).unwrap();
    fs::write(&state, text.replace("\"base_channels\": 16", "\"base_channels\": 32")).unwrap();
    place.refuses("sample --run run", 1, &["ema.safetensors", "has shape", "the network needs"]);
    fs::write(&state, &text).unwrap();

    let model = place.path("run/checkpoints/step-0000001/model.safetensors");
    let whole = fs::read(&model).unwrap();
    fs::write(&model, &whole[..1000]).unwrap();
    place.refuses(
        "train --run-dir run --resume --steps 2",
        1,
        &["model.safetensors", "not a whole safetensors file"],
    );
    fs::remove_file(&model).unwrap();
    place.refuses("sample --run run --weights raw", 1, &["model.safetensors"]);
}

#[test]
fn unsuitable_runs_are_refused() {
    let place = TestDir::new();
    place.refuses("export --out model", 2, &["there is no run in runs/ yet"]);
    place.refuses("sample --run nowhere", 2, &["--run nowhere: there is no such"]);
    std::fs::create_dir(place.path("empty")).unwrap();
    place.refuses("sample --run empty", 1, &["empty: this folder holds no run"]);
    place.refuses("sample --checkpoint .", 1, &["this is not a checkpoint"]);
    place.refuses("train --run-dir nowhere --resume", 1, &["this folder holds no run"]);
    place.train_small("run", 1);
    place.refuses("sample --checkpoint run", 1, &["run: this is not a checkpoint"]);
    place.refuses("train --run-dir run", 1, &["already holds a run", "--resume"]);
    place.refuses("train --run-dir run --resume --lr 0.1", 2, &["--lr cannot change"]);
    place.refuses("sample --run run --steps 21", 2, &["21 inference steps", "choose 1 to 20"]);
    let config = fs::read_to_string(place.path("run/config.toml")).unwrap();
    fs::write(place.path("run/config.toml"), config.replace("batch_size = 4", "batch_size = 2"))
        .unwrap();
    place.refuses("train --run-dir run --resume --steps 2", 1, &["config.toml was changed"]);
    fs::write(place.path("run/config.toml"), &config).unwrap();
    place.write("d/train-images-idx3-ubyte", idx(&[9, 8, 8], 9 * 64));
    place.refuses("train --run-dir run --resume --steps 2 --data d", 1, &["other data"]);
    place.write("run/latest", "step-0000009\n");
    place.refuses(
        "sample --run run",
        1,
        &["latest: it names the checkpoint `step-0000009`, which does not exist"],
    );
}

/// A folder that not even an administrator can create, because a file has its name.
#[test]
fn a_run_folder_that_cannot_be_written_is_one_sentence() {
    let place = TestDir::new();
    place.small_config();
    place.write("occupied", "a file");
    place.refuses("train --config small.toml --run-dir occupied/run", 1, &["occupied"]);
    place.train_small("run", 1);
    place.refuses("sample --run run --out occupied", 1, &["occupied"]);
    place.refuses("sample --run run --num 1 --grid nowhere/all.png", 2, &["nowhere"]);
}

#[cfg(unix)]
#[test]
fn a_read_only_run_folder_is_one_sentence() {
    use std::os::unix::fs::PermissionsExt;

    let place = TestDir::new();
    place.small_config();
    let dir = place.path("locked");
    fs::create_dir(&dir).unwrap();
    fs::set_permissions(&dir, fs::Permissions::from_mode(0o555)).unwrap();
    // An administrator can write anywhere; then there is no error to test.
    let may_write = fs::write(dir.join("probe"), "").is_ok();
    if !may_write {
        place.refuses("train --config small.toml --run-dir locked", 1, &["locked", "denied"]);
    }
    fs::set_permissions(&dir, fs::Permissions::from_mode(0o755)).unwrap();
}
