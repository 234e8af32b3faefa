//! `import`, `export` and `train --init-from`.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::common::{TestDir, names};

/// A model folder written by Python's diffusers.
fn golden(model: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/models").join(model)
}

const CONFIG: &str = "config.json";
const WEIGHTS: &str = "diffusion_pytorch_model.safetensors";

/// Copies the two files of a golden model to the folder `to`.
fn copy(place: &TestDir, model: &str, to: &str) -> PathBuf {
    for file in [CONFIG, WEIGHTS] {
        place.write(&format!("{to}/{file}"), fs::read(golden(model).join(file)).unwrap());
    }
    place.path(to)
}

/// Changes the JSON object in a file.
fn edit(path: &Path, change: impl FnOnce(&mut Value)) {
    let mut value = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
    change(&mut value);
    fs::write(path, value.to_string()).unwrap();
}

/// The weights of a file by name: shape and bytes.
type Weights = Vec<(String, Vec<usize>, Vec<u8>)>;

/// Changes the tensors in a safetensors file.
fn edit_weights(path: &Path, change: impl FnOnce(&mut Weights)) {
    use safetensors::tensor::{Dtype, TensorView};

    let bytes = fs::read(path).unwrap();
    let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let mut tensors: Weights = file
        .iter()
        .map(|(name, view)| (name.to_owned(), view.shape().to_vec(), view.data().to_vec()))
        .collect();
    change(&mut tensors);
    let views = tensors.iter().map(|(name, shape, data)| {
        (name.as_str(), TensorView::new(Dtype::F32, shape.clone(), data).unwrap())
    });
    fs::write(path, safetensors::serialize(views, None).unwrap()).unwrap();
}

/// Checks that importing `src` fails with one error line and leaves no files.
fn refuses_import(place: &TestDir, parts: &[&str]) {
    place.refuses("import src --run-dir run", 1, parts);
    assert_eq!(names(&place.path("")).iter().filter(|name| *name != "src").count(), 0, "{parts:?}");
}

const SAMPLE: &str = "--num 2 --steps 3 --format npy --out";

#[test]
fn models_of_the_library_are_imported_sampled_and_exported_byte_for_byte() {
    for model in
        ["unet_plain", "unet_ddpm_style", "unet_scale_shift_fourier", "unet_attention_class"]
    {
        let place = TestDir::new();
        copy(&place, model, "src");
        let answer = place.ok("import src --run-dir run");
        assert!(answer.out.contains("images of 16×16"), "{}", answer.out);
        assert!(answer.err.contains("no scheduler_config.json"), "{}", answer.err);
        let about = place.ok("info --run run").out;
        assert!(about.contains("unet2d") && about.contains("linear, 1000 steps"), "{about}");

        place.ok("export --run run --out back");
        assert_eq!(names(&place.path("back")), ["model_index.json", "scheduler", "unet"]);
        assert!(
            fs::read(golden(model).join(WEIGHTS)).unwrap()
                == fs::read(place.path("back/unet").join(WEIGHTS)).unwrap(),
            "{model}: other weights came back"
        );
        let config =
            |path: PathBuf| serde_json::from_slice::<Value>(&fs::read(path).unwrap()).unwrap();
        assert_eq!(
            config(golden(model).join(CONFIG)),
            config(place.path("back/unet").join(CONFIG)),
            "{model}"
        );

        let again = place.ok("import back --run-dir again");
        assert_eq!(again.err.contains("WARN"), model.contains("fourier"), "{}", again.err);
        assert_eq!(again.err.contains("ln(t)"), model.contains("fourier"), "{}", again.err);
        place.ok(&format!("sample --run run {SAMPLE} first"));
        place.ok(&format!("sample --run again {SAMPLE} second"));
        let npy = |out: &str| fs::read(place.path(out).join("samples.npy")).unwrap();
        assert!(npy("first") == npy("second"), "{model}: another sample after the exchange");
    }
}

#[test]
fn a_trained_run_survives_export_and_import() {
    let place = TestDir::new();
    place.write(
        "small.toml",
        "size = 8\nbatch_size = 4\nsteps = 2\nprediction_type = \"v_prediction\"\n[network]\nkind = \"unet2d\"\n\
         block_out_channels = [8, 16]\nlayers_per_block = 1\nnorm_num_groups = 4\n\
         down_block_types = [\"DownBlock2D\", \"AttnDownBlock2D\"]\nup_block_types = [\"AttnUpBlock2D\", \
         \"UpBlock2D\"]\n[schedule]\nbeta_schedule = \"squaredcos_cap_v2\"\nnum_train_timesteps = 50\n\
         rescale_betas_zero_snr = true\n[sample_grid]\nnum = 0\n",
    );
    place.ok("train --config small.toml --run-dir run");
    for (weights, file) in [("ema", "ema"), ("raw", "model")] {
        place.ok(&format!("export --run run --weights {weights} --out {weights}-out"));
        place.ok(&format!("import {weights}-out --run-dir {weights}-run"));
        let [from, to] = [
            "run/checkpoints/step-0000002".to_owned(),
            format!("{weights}-run/checkpoints/step-0000000"),
        ]
        .map(|checkpoint| {
            fs::read(place.path(&checkpoint).join(format!("{file}.safetensors"))).unwrap()
        });
        assert!(from == to, "{weights}");
    }
    for (run, out) in [("run", "a"), ("ema-run", "b")] {
        place.ok(&format!("sample --run {run} {SAMPLE} {out}"));
    }
    assert!(
        fs::read(place.path("a/samples.npy")).unwrap()
            == fs::read(place.path("b/samples.npy")).unwrap()
    );

    place.refuses(
        "train --run-dir ema-run --resume --steps 1",
        2,
        &["imported model", "--init-from ema-run"],
    );
    place.ok("train --init-from ema-run --batch-size 4 --steps 1 --lr 1e-9 --run-dir tuned");
    let about = place.ok("info --run tuned").out;
    assert!(
        about.contains("v_prediction") && about.contains("squaredcos_cap_v2, 50 steps"),
        "{about}"
    );
    let tensors = |path: &str| fs::read(place.path(path)).unwrap();
    assert!(
        tensors("tuned/checkpoints/step-0000000/ema.safetensors")
            == tensors("run/checkpoints/step-0000002/ema.safetensors")
    );
}

#[test]
fn a_training_starts_from_a_run_or_a_checkpoint_of_the_same_shape() {
    let place = TestDir::new();
    place.train_small("run", 3);
    let tensors = |path: &str| fs::read(place.path(path).join("ema.safetensors")).unwrap();
    for (origin, run) in [("run", "a"), ("run/checkpoints/step-0000003", "b")] {
        place.ok(&format!(
            "train --init-from {origin} --config small.toml --steps 1 --run-dir {run}"
        ));
        assert!(
            tensors(&format!("{run}/checkpoints/step-0000000"))
                == tensors("run/checkpoints/step-0000003"),
            "the averaged weights of {origin} are where {run} begins"
        );
    }
    place.ok("train --run-dir a --resume --steps 2");
    place.write("wide.toml", "steps = 1\n[network]\nbase_channels = 24\n");
    place.refuses(
        "train --init-from run --config wide.toml --run-dir wide",
        1,
        &["ema.safetensors", "has shape", "the network needs"],
    );
    assert!(!place.path("wide").exists());
    place.refuses("train --init-from nowhere", 1, &["nowhere: this folder holds no run"]);
    place.refuses("train --init-from run --resume --run-dir a", 2, &["--init-from", "--resume"]);
}

#[test]
fn schedulers_give_schedule_and_prediction_or_are_refused() {
    let place = TestDir::new();
    copy(&place, "unet_plain", "src/unet");
    place.write(
        "src/model_index.json",
        r#"{"_class_name": "DDPMPipeline", "unet": ["diffusers", "UNet2DModel"]}"#,
    );
    let scheduler = |json: Value| {
        place.write("src/scheduler/scheduler_config.json", json.to_string());
    };
    scheduler(json!({ "_class_name": "EDMEulerScheduler" }));
    refuses_import(&place, &["scheduler_config.json", "EDMEulerScheduler", "a run cannot hold"]);
    scheduler(json!({ "_class_name": "DDPMScheduler", "trained_betas": [0.1, 0.2] }));
    refuses_import(&place, &["scheduler_config.json", "`trained_betas`"]);
    scheduler(json!({ "_class_name": "ScoreSdeVeScheduler" }));
    refuses_import(&place, &["scheduler `ScoreSdeVeScheduler` is not supported"]);
    scheduler(json!({ "_class_name": "DDPMScheduler", "beta_schedul": "linear" }));
    refuses_import(&place, &["unknown field `beta_schedul`"]);
    scheduler(json!({ "_class_name": "DDPMScheduler", "beta_end": 2.0 }));
    refuses_import(&place, &["beta_end is 2"]);
    scheduler(
        json!({ "_class_name": "DDIMScheduler", "prediction_type": "v_prediction", "num_train_timesteps": 40,
        "clip_sample": false, "_use_default_values": ["steps_offset"] }),
    );
    let answer = place.ok("import src --run-dir run");
    assert!(
        answer.out.contains("--sampler ddim --steps 40 --spacing leading --no-clip"),
        "{}",
        answer.out
    );
    let about = place.ok("info --run run").out;
    assert!(about.contains("v_prediction") && about.contains("40 steps"), "{about}");
}

#[test]
fn damaged_and_foreign_model_folders_are_refused_in_one_sentence() {
    let place = TestDir::new();
    place.refuses("import src --run-dir run", 1, &["src: there is no such folder"]);
    fs::create_dir(place.path("src")).unwrap();
    refuses_import(&place, &["src: this folder holds no model"]);
    let src = copy(&place, "unet_plain", "src");
    let fresh = || copy(&place, "unet_plain", "src");

    edit(&src.join(CONFIG), |config| config["attention_type"] = json!("flash"));
    refuses_import(&place, &["config.json: `attention_type` is not a setting"]);
    fresh();
    edit(&src.join(CONFIG), |config| config["sample_size"] = Value::Null);
    refuses_import(&place, &["config.json: `sample_size` is not given"]);
    place.ok("import src --size 8 --run-dir run");
    fs::remove_dir_all(place.path("run")).unwrap();
    fresh();
    edit(&src.join(CONFIG), |config| config["sample_size"] = json!(15));
    refuses_import(&place, &["15×15", "multiples of 2"]);
    fs::write(src.join(CONFIG), "[1, 2]").unwrap();
    refuses_import(&place, &["config.json: not a JSON object"]);
    fs::write(src.join(CONFIG), " ".repeat(2 << 20)).unwrap();
    refuses_import(&place, &["config.json: it has 2097152 bytes; such a file has at most 1048576"]);

    fresh();
    edit_weights(&src.join(WEIGHTS), |tensors| tensors.retain(|(name, ..)| name != "conv_in.bias"));
    refuses_import(&place, &[WEIGHTS, "tensor `conv_in.bias` is missing"]);
    fresh();
    edit_weights(&src.join(WEIGHTS), |tensors| {
        tensors.push(("conv_in.gain".to_owned(), vec![1], vec![0; 4]));
    });
    refuses_import(&place, &[WEIGHTS, "tensor `conv_in.gain` is not a parameter"]);
    fresh();
    edit(&src.join(CONFIG), |config| config["in_channels"] = json!(3));
    refuses_import(
        &place,
        &["tensor `conv_in.weight` has shape [16, 1, 3, 3], the network needs [16, 3, 3, 3]"],
    );

    fresh();
    let whole = fs::read(src.join(WEIGHTS)).unwrap();
    fs::write(src.join(WEIGHTS), &whole[..whole.len() - 1]).unwrap();
    refuses_import(&place, &[WEIGHTS, "not a whole safetensors file"]);
    fs::write(src.join(WEIGHTS), [&u64::MAX.to_le_bytes()[..], b"{}"].concat()).unwrap();
    refuses_import(&place, &["its header would have 18446744073709551615 bytes"]);
    fs::remove_file(src.join(WEIGHTS)).unwrap();
    refuses_import(&place, &["src: this folder holds no weights"]);
    fs::write(src.join("diffusion_pytorch_model.bin"), "no zip archive").unwrap();
    refuses_import(&place, &["diffusion_pytorch_model.bin: not a state dict"]);
    fs::write(src.join("diffusion_pytorch_model.safetensors.index.json"), "{}").unwrap();
    fs::remove_file(src.join("diffusion_pytorch_model.bin")).unwrap();
    refuses_import(&place, &["the weights are in several parts"]);
}

#[test]
fn names_in_a_pipelines_index_do_not_lead_out_of_its_folder() {
    let place = TestDir::new();
    let src = copy(&place, "unet_plain", "src");
    for (index, part) in [
        (
            json!({ "../unet": ["diffusers", "UNet2DModel"] }),
            "`../unet` is not the plain name of a folder",
        ),
        (json!({ "/etc": ["diffusers", "UNet2DModel"] }), "`/etc` is not the plain name"),
        (json!({ "..": ["diffusers", "UNet2DModel"] }), "`..` is not the plain name"),
        (
            json!({ "vae": ["diffusers", "AutoencoderKL"] }),
            "`vae` is a part of pipelines that are not supported",
        ),
        (json!({ "unet": ["diffusers", "UNet2DConditionModel"] }), "only a UNet2DModel"),
        (json!({ "scheduler": ["diffusers", "DDPMScheduler"] }), "has no `unet`"),
    ] {
        fs::write(src.join("model_index.json"), index.to_string()).unwrap();
        refuses_import(&place, &["model_index.json", part]);
    }
}

#[test]
fn nothing_is_overwritten_and_a_failed_export_leaves_nothing() {
    let place = TestDir::new();
    copy(&place, "unet_plain", "src");
    place.write("full/mine.txt", "mine");
    place.refuses("import src --run-dir full", 1, &["full: this folder is not empty"]);
    place.ok("import src --run-dir run");
    place.refuses("import src --run-dir run", 1, &["run: this folder is not empty"]);
    place.refuses("export --run run --out full", 1, &["full: this folder is not empty"]);
    place.refuses("export --run run --out full/mine.txt/out", 1, &["mine.txt"]);
    assert_eq!(names(&place.path("full")), ["mine.txt"]);
    fs::create_dir(place.path("empty")).unwrap();
    place.ok("export --run run --out empty");

    place.train_small("simple", 1);
    place.refuses(
        "export --run simple --out out",
        1,
        &["simple_unet", "transposed convolution", "kind unet2d"],
    );
    assert_eq!(names(&place.path("")), ["empty", "full", "run", "simple", "small.toml", "src"]);
}

/// The numbers of an npy file.
fn npy(place: &TestDir, out: &str) -> Vec<f32> {
    let images = diffusion_picture::read_npy(&place.path(out).join("samples.npy")).unwrap();
    images.flatten_all().unwrap().to_vec1().unwrap()
}

fn difference(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

#[test]
fn an_imported_run_keeps_its_scheduler_and_is_sampled_by_it() {
    let place = TestDir::new();
    copy(&place, "unet_plain", "src/unet");
    let text = "{\n  \"_class_name\": \"DDIMScheduler\", \"_diffusers_version\": \"0.11.1\",\n  \
                \"num_train_timesteps\": 60, \"clip_sample\": false, \"timestep_spacing\": \"leading\",\n  \
                \"beta_end\": 0.2, \"steps_offset\": 1, \"set_alpha_to_one\": false}\n";
    place.write("src/scheduler/scheduler_config.json", text);
    let answer = place.ok("import src --run-dir run");
    assert!(answer.out.contains("sampled by its DDIMScheduler in 30 steps"), "{}", answer.out);
    assert_eq!(
        fs::read_to_string(place.path("run/checkpoints/step-0000000/scheduler_config.json"))
            .unwrap(),
        text
    );

    let about = place.ok("info --run run").out;
    assert!(about.contains("DDIMScheduler of diffusers"), "{about}");
    let sample = |flags: &str, out: &str| {
        place.ok(&format!("sample --run run --num 2 --format npy --out {out} {flags}")).err
    };
    let log = sample("--steps 6", "own");
    assert!(log.contains("by the settings of DDIMScheduler (6 steps)"), "{log}");
    // The offset of one timestep and the last level are what these flags leave out.
    let log = sample("--steps 6 --sampler ddim --spacing leading --no-clip", "flags");
    assert!(!log.contains("DDIMScheduler"), "{log}");
    let without = "{\"_class_name\": \"DDIMScheduler\", \"num_train_timesteps\": 60, \
                   \"beta_end\": 0.2, \"clip_sample\": false, \"timestep_spacing\": \"leading\"}";
    place.write("without.json", without);
    sample("--steps 6 --scheduler without.json", "without");
    let clamped: Vec<f32> = npy(&place, "flags").iter().map(|v| v.clamp(-1.0, 1.0)).collect();
    assert!(difference(&npy(&place, "without"), &clamped) < 1e-4);
    assert!(difference(&npy(&place, "own"), &clamped) > 1e-4);
    // Flags override settings.
    sample("--steps 6 --scheduler without.json --spacing trailing", "trailing");
    assert!(difference(&npy(&place, "without"), &npy(&place, "trailing")) > 1e-3);
    place.refuses("sample --run run --churn 1", 2, &["--churn has no effect on DDIMScheduler"]);
    place.refuses("sample --run run --steps 61", 2, &["--steps 61", "60"]);
    place.refuses("sample --run run --scheduler run --sampler ddim", 2, &["--scheduler"]);
    place.refuses("sample --run run --scheduler nowhere", 2, &["nowhere: there is no such"]);
    place.write(
        "v.json",
        "{\"_class_name\": \"DDIMScheduler\", \"prediction_type\": \"v_prediction\"}",
    );
    place.refuses("sample --run run --scheduler v.json", 2, &["v_prediction", "epsilon"]);
    let other = sample("--steps 6 --scheduler src/scheduler --seed 3", "folder");
    assert!(other.contains("DDIMScheduler"), "{other}");

    // A copy of the checkpoint has it too.
    fs::create_dir(place.path("copy")).unwrap();
    for name in names(&place.path("run/checkpoints/step-0000000")) {
        let from = place.path("run/checkpoints/step-0000000").join(&name);
        fs::copy(from, place.path("copy").join(&name)).unwrap();
    }
    let log = place.ok("sample --checkpoint copy --num 2 --steps 6 --format npy --out copied").err;
    assert!(log.contains("DDIMScheduler"), "{log}");
    assert_eq!(npy(&place, "copied"), npy(&place, "own"));

    // `export` writes it back unchanged, and `evaluate` uses it too.
    place.ok("export --run run --out back");
    assert_eq!(
        fs::read_to_string(place.path("back/scheduler/scheduler_config.json")).unwrap(),
        text
    );
    let index = fs::read_to_string(place.path("back/model_index.json")).unwrap();
    assert!(index.contains("DDIMPipeline") && index.contains("\"DDIMScheduler\""), "{index}");
    place.ok("import back --run-dir again");
    let samples = |run: &str| {
        place.ok(&format!("sample --run {run} --num 2 --steps 6 --format npy --out {run}-out"));
        npy(&place, &format!("{run}-out"))
    };
    assert_eq!(samples("run"), samples("again"));
}

#[test]
fn every_form_in_which_weights_are_saved_is_imported() {
    let place = TestDir::new();
    let tensors = |run: &str, file: &str| {
        fs::read(place.path(run).join("checkpoints/step-0000000").join(file)).unwrap()
    };
    copy(&place, "unet_plain", "plain");
    place.ok("import plain --run-dir a");
    let expected = tensors("a", "model.safetensors");

    // Under another name, and with the prefix of a compiled model.
    let src = copy(&place, "unet_plain", "named");
    edit_weights(&src.join(WEIGHTS), |tensors| {
        for (name, ..) in tensors {
            *name = format!("_orig_mod.{name}");
        }
    });
    fs::rename(src.join(WEIGHTS), src.join("diffusion_pytorch_model.fp32.safetensors")).unwrap();
    place.write("named/optimizer.bin", "not weights");
    place.ok("import named --run-dir b");
    assert!(tensors("b", "model.safetensors") == expected);
    place.write("named/other.safetensors", "x");
    place.refuses(
        "import named --run-dir c",
        1,
        &[
            "several files of weights",
            "diffusion_pytorch_model.fp32.safetensors, other.safetensors",
        ],
    );

    // In two parts with an index.
    let src = copy(&place, "unet_plain", "parts");
    let whole = fs::read(src.join(WEIGHTS)).unwrap();
    let mut map = serde_json::Map::new();
    for part in 0..2 {
        let name = format!("diffusion_pytorch_model-0000{}-of-00002.safetensors", part + 1);
        fs::write(src.join(&name), &whole).unwrap();
        edit_weights(&src.join(&name), |tensors| {
            tensors.retain(|(tensor, ..)| {
                let belongs = tensor.len() % 2 == part;
                if belongs {
                    map.insert(tensor.clone(), json!(name));
                }
                belongs
            });
        });
    }
    fs::remove_file(src.join(WEIGHTS)).unwrap();
    let index = json!({ "metadata": {}, "weight_map": map }).to_string();
    place.write("parts/diffusion_pytorch_model.safetensors.index.json", index);
    place.ok("import parts --run-dir d");
    assert!(tensors("d", "model.safetensors") == expected);
    fs::remove_file(src.join("diffusion_pytorch_model-00002-of-00002.safetensors")).unwrap();
    place.refuses("import parts --run-dir e", 1, &["00002-of-00002.safetensors` is missing"]);

    // Parts of a variant, beside a file that is older.
    copy(&place, "unet_plain", "variant");
    fs::remove_file(place.path("variant").join(WEIGHTS)).unwrap();
    place.write("variant/part-1.fp16.safetensors", &whole);
    place.write("variant/part-2.fp16.safetensors", "not read");
    let names: Vec<String> = map.keys().cloned().collect();
    let map: serde_json::Map<String, Value> =
        names.into_iter().map(|name| (name, json!("part-1.fp16.safetensors"))).collect();
    let index = json!({ "weight_map": map }).to_string();
    place.write("variant/diffusion_pytorch_model.safetensors.index.fp16.json", index);
    place.ok("import variant --run-dir v");
    assert!(tensors("v", "model.safetensors") == expected);

    // A training's checkpoint with a moving average, and a pointer in place of a file.
    copy(&place, "unet_plain", "training/unet");
    let ema = copy(&place, "unet_plain", "training/unet_ema");
    edit(&ema.join(CONFIG), |config| {
        config["decay"] = json!(0.9999);
        config["power"] = json!(0.75);
        config["update_after_step"] = json!(0);
    });
    edit_weights(&ema.join(WEIGHTS), |tensors| tensors[0].2.fill(0));
    let answer = place.ok("import training --run-dir f");
    assert!(answer.err.contains("moving average of the weights is in unet_ema"), "{}", answer.err);
    assert!(tensors("f", "model.safetensors") == expected);
    assert!(tensors("f", "ema.safetensors") != expected);
    place.ok("import training/unet_ema --run-dir g");
    assert!(tensors("g", "model.safetensors") == tensors("f", "ema.safetensors"));
    let pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 5\n";
    for file in [WEIGHTS, CONFIG] {
        copy(&place, "unet_plain", "pointer");
        place.write(&format!("pointer/{file}"), pointer);
        place.refuses(
            "import pointer --run-dir h",
            1,
            &[file, "a Git LFS pointer", "git lfs pull"],
        );
    }
}

#[test]
fn configurations_as_python_and_old_versions_wrote_them_are_read() {
    let place = TestDir::new();
    let src = copy(&place, "unet_plain", "src/unet");
    edit(&src.join(CONFIG), |config| {
        let down = config["down_block_types"].as_array_mut().unwrap();
        for name in down {
            *name = json!(format!("UNetRes{}", name.as_str().unwrap()));
        }
        config["tensor_format"] = json!("pt");
    });
    let scheduler = |text: &str| {
        place.write("src/scheduler/scheduler_config.json", text);
    };
    scheduler(
        "{\"_class_name\": \"DPMSolverMultistepScheduler\", \"lambda_min_clipped\": -Infinity, \
         \"num_train_timesteps\": 50, \"solver_p\": null, \"variance_type\": null}",
    );
    place.ok("import src --run-dir a");
    place.ok("sample --run a --num 1 --out a-out");
    let answer = place.ok("schedule compare --schedules src");
    assert!(answer.out.contains("src"), "{}", answer.out);
    place.ok("model analyze --import src");
    scheduler(
        "{\"_class_name\": \"DDPMScheduler\", \"tensor_format\": \"np\", \"timestep_values\": null, \
         \"num_train_timesteps\": 50, \"predict_epsilon\": false}",
    );
    place.ok("import src --run-dir b");
    assert!(place.ok("info --run b").out.contains("sample"), "predicts x0");
    for (text, part) in [
        ("{\"_class_name\": \"DDPMScheduler\", \"beta_end\": NaN}", "`beta_end` is NaN"),
        ("{\"_class_name\": \"DDPMScheduler\", \"beta_end\": \"x\"}", "`beta_end`: invalid type"),
        ("{\"_class_name\": \"DDPMScheduler\", beta}", "line 1 column 34"),
        (
            "{\"_class_name\": \"DDPMScheduler\", \"beta_ent\": 1}",
            "most similar setting is `beta_end`",
        ),
        (
            "{\"_class_name\": \"DDPMScheduler\", \"rescale_betas_zero_snr\": true}",
            "`rescale_betas_zero_snr` is true and `prediction_type` is epsilon",
        ),
        (
            "{\"_class_name\": \"DDPMScheduler\", \"variance_type\": \"learned_range\"}",
            "a learned variance needs 2",
        ),
        (
            "{\"_class_name\": \"DPMSolverMultistepScheduler\", \"algorithm_type\": \"sde-dpmsolver++\", \
             \"solver_order\": 3}",
            "`solver_order` is 3; it must be from 1 to 2",
        ),
    ] {
        scheduler(text);
        place.refuses("import src --run-dir c", 1, &["scheduler_config.json", part]);
    }
}

#[test]
fn the_command_that_import_prints_works() {
    for model in ["unet_plain", "unet_scale_shift_fourier"] {
        for class in ["DDPMScheduler", "DDIMScheduler", "EulerDiscreteScheduler"] {
            let place = TestDir::new();
            copy(&place, model, "src");
            let text = format!("{{\"_class_name\": \"{class}\", \"num_train_timesteps\": 12}}");
            place.write("src/scheduler_config.json", text);
            let out = place.ok("import src --run-dir run").out;
            let line = out.lines().find_map(|line| line.strip_prefix("next: ")).unwrap();
            let start = line.find("sample ").unwrap();
            let line = line[start..].replace("--num 16", "--num 1");
            place.ok(&line);
        }
    }
}
