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
