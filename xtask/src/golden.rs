//! `cargo xtask golden`: compares this project with an installed `diffusers`, on new random
//! configurations.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use candle_core::{Device, Tensor};
use clap::Args;
use diffusion_process::{Domain, NoiseSource};

use crate::cargo::{built_program, cargo, workspace_root};
use crate::python::{DIFFUSERS, TORCH, call, environment};

/// Compare schedules, samplers, networks and model folders with Python's diffusers, on new random
/// configurations.
///
/// The first call installs diffusers from PyPI into a virtual environment in target/ (5 GB on
/// Linux). diffusers writes numbers in the format of tests/golden, and the golden tests compare
/// them. Models are exchanged in both directions and must give the same images from the same noise.
#[derive(Debug, Args)]
#[command(after_help = "\
Environment:
  PYTHON  the interpreter that creates the virtual environment; default: python3

Examples:
  cargo xtask golden
  cargo xtask golden --seed 7")]
pub(crate) struct GoldenArgs {
    /// Seed of the random configurations [default: the current time]
    #[arg(long, value_parser = clap::value_parser!(u64).range(..1 << 32))]
    seed: Option<u64>,
    /// Only check a training's event files with TensorBoard; installs only TensorBoard
    #[arg(long)]
    event_files: bool,
    /// Only compare Inception's features with those of pytorch-fid, for random weights
    #[arg(long, conflicts_with = "event_files")]
    inception: bool,
}

/// The packages of the comparison with diffusers.
const PACKAGES: [&str; 5] = [DIFFUSERS, TORCH, "numpy", "safetensors", "scipy"];

/// The packages that read event files, in a separate environment.
const TENSORBOARD: [&str; 2] = ["tensorboard==2.21.0", "setuptools<81"];

/// The packages that measure FID, in a separate environment.
const FID: [&str; 3] = ["pytorch-fid==0.3.0", TORCH, "torchvision"];

/// The golden tests that work with any cases in a folder.
const TESTS: [&str; 4] = [
    "golden_schedule_tables_agree",
    "golden_timesteps_of_all_numbers_of_steps_agree",
    "golden_sampler_trajectories_agree",
    "golden_unet2d_models_agree",
];

/// How to sample in Rust. The number of steps equals `STEPS` in `sampling.py`.
const SAMPLE: &str = "--num 2 --sampler ddim --steps 5 --format npy";

/// A short training whose network can be exported.
const CONFIG: &str = r#"
size = 16
batch_size = 8
steps = 20
conditional = "never"
[network]
kind = "unet2d"
block_out_channels = [16, 24]
layers_per_block = 1
down_block_types = ["DownBlock2D", "AttnDownBlock2D"]
up_block_types = ["AttnUpBlock2D", "UpBlock2D"]
attention_head_dim = 8
norm_num_groups = 4
[schedule]
num_train_timesteps = 100
beta_schedule = "linear"
beta_end = 0.2
[sample_grid]
num = 0
"#;

/// Runs all comparisons.
pub(crate) fn run(args: &GoldenArgs) -> Result<()> {
    let now = || {
        SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs() % (1 << 32))
    };
    let seed = args.seed.unwrap_or_else(now);
    println!("seed {seed}; repeat with --seed {seed}");
    let folder = tempfile::tempdir()?;
    if args.inception {
        return inception(seed, folder.path());
    }
    cargo(&["build", "--workspace", "--bin", "diffusion"], &[])?;
    let sandbox = |python| -> Result<Sandbox> {
        let (program, folder) = (built_program("diffusion")?, folder.path().to_owned());
        Ok(Sandbox { python, program, folder, seed })
    };
    sandbox(environment("target/golden/tensorboard", &TENSORBOARD)?)?.event_files()?;
    if args.event_files {
        return Ok(());
    }
    let sandbox = sandbox(environment("target/golden/venv", &PACKAGES)?)?;
    sandbox.numbers()?;
    sandbox.exported_models()?;
    sandbox.imported_pipelines()?;
    sandbox.imported_schedulers()?;
    sandbox.imported_state_dicts()?;
    println!("all agree (seed {seed})");
    Ok(())
}

/// Compares features of Inception-v3, with random weights of the seed, in diffusion-eval's test.
fn inception(seed: u64, folder: &Path) -> Result<()> {
    println!("features of Inception-v3, compared with pytorch-fid:");
    let script = workspace_root().join("xtask/src/golden/inception.py");
    let numbers = folder.join("inception.json");
    let mut command = Command::new(environment("target/golden/fid", &FID)?);
    call(command.arg("-B").arg(script).arg(seed.to_string()).arg(&numbers))?;
    let numbers = numbers.to_str().context("the temporary folder's path is not UTF-8")?;
    let test = ["test", "-p", "diffusion-eval", "--test", "inception", "--", "--nocapture"];
    cargo(&test, &[("DIFFUSION_GOLDEN_INCEPTION", numbers.to_owned())])
}

struct Sandbox {
    python: PathBuf,
    program: PathBuf,
    folder: PathBuf,
    seed: u64,
}

impl Sandbox {
    fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    fn python(&self, script: &str, arguments: &[&Path]) -> Result<()> {
        let script = workspace_root().join("xtask/src/golden").join(script);
        // Write no byte code next to the sources, and print no advice.
        let mut command = Command::new(&self.python);
        command.env("DIFFUSERS_VERBOSITY", "critical").env("TQDM_DISABLE", "1");
        call(command.arg("-B").arg(script).args(arguments).current_dir(&self.folder))
    }

    fn diffusion(&self, line: &str) -> Result<()> {
        let mut command = Command::new(&self.program);
        let output = command.args(line.split_whitespace()).current_dir(&self.folder).output()?;
        let text = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        ensure!(output.status.success(), "`diffusion {line}` failed: {text}");
        Ok(())
    }

    /// Checks the event files of a resumed training with TensorBoard.
    fn event_files(&self) -> Result<()> {
        println!("event files, read by TensorBoard:");
        fs::write(self.path("events.toml"), CONFIG)?;
        self.diffusion(
            "train --config events.toml --tensorboard --validation 0.1 --run-dir events",
        )?;
        self.diffusion("train --run-dir events --resume --tensorboard --steps 30")?;
        self.python("events.py", &[&self.path("events")])
    }

    /// Compares schedules, trajectories, outputs and gradients of diffusers in the golden tests.
    fn numbers(&self) -> Result<()> {
        println!("numbers of diffusers:");
        let golden = self.path("golden");
        self.python("reference.py", &[Path::new(&self.seed.to_string()), &golden])?;
        self.python("timesteps.py", &[&golden.join("schedules/all_timesteps.json")])?;
        let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        command
            .args(["test", "--quiet", "--workspace", "--test", "golden", "--", "--nocapture"])
            .args(TESTS);
        command.current_dir(workspace_root()).env("DIFFUSION_GOLDEN_DIR", golden);
        let output = command.stderr(Stdio::inherit()).output().context("cannot start cargo")?;
        let text = String::from_utf8_lossy(&output.stdout);
        println!("{}", text.trim());
        ensure!(output.status.success(), "the golden tests failed");
        // Samplers and models each print a count of their cases; the script makes only supported
        // ones.
        let counts = unsupported_counts(&text);
        ensure!(counts.len() == 2, "expected 2 counts of cases, got {}", counts.len());
        ensure!(counts == [0, 0], "{} cases are not supported", counts.iter().sum::<u64>());
        Ok(())
    }

    /// Trains here, exports the run and samples it with diffusers.
    fn exported_models(&self) -> Result<()> {
        println!("models from here, exported and sampled with diffusers:");
        for prediction in ["epsilon", "v_prediction", "sample"] {
            fs::write(
                self.path("small.toml"),
                format!("prediction_type = \"{prediction}\"\n{CONFIG}"),
            )?;
            self.diffusion(&format!(
                "train --config small.toml --seed {} --run-dir {prediction}",
                self.seed
            ))?;
            self.diffusion(&format!("export --run {prediction} --out {prediction}-out"))?;
            self.compare("pipelines.py", prediction, &format!("{prediction}-out"), [1, 16, 16])?;
        }
        Ok(())
    }

    /// Imports pipelines of diffusers and samples them here.
    fn imported_pipelines(&self) -> Result<()> {
        println!("pipelines of diffusers, imported and sampled here:");
        self.python(
            "pipelines.py",
            &[Path::new("save"), Path::new(&self.seed.to_string()), &self.path("pipelines")],
        )?;
        for model in ["safe", "pickle"] {
            self.diffusion(&format!("import pipelines/{model} --run-dir {model}"))?;
            self.compare("pipelines.py", model, &format!("pipelines/{model}"), [3, 16, 16])?;
        }
        Ok(())
    }

    /// Imports pipelines with every scheduler class, with default and with random settings, and
    /// compares the images from the same noise.
    fn imported_schedulers(&self) -> Result<()> {
        println!("schedulers of diffusers, imported with a model that is sampled here:");
        let folder = self.path("schedulers");
        self.python(
            "schedulers.py",
            &[Path::new("save"), Path::new(&self.seed.to_string()), &folder],
        )?;
        for entry in fs::read_dir(&folder)? {
            let path = entry?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let steps: u64 = fs::read_to_string(path.join("steps"))?.parse()?;
            self.diffusion(&format!("import schedulers/{name} --run-dir {name}"))?;
            self.diffusion(&format!(
                "sample --run {name} --steps {steps} --init-noise schedulers/{name}/noise.npy \
                 --format npy --out schedulers/{name}/samples"
            ))?;
            // The noise that the sampler adds: one draw for each step, counted from the last.
            let source = NoiseSource::new(0);
            let draw =
                |draw| source.normal(Domain::Sampler, draw, 0..2, &[3, 16, 16], &Device::Cpu);
            let draws = (0..=steps).map(draw).collect::<candle_core::Result<Vec<_>>>()?;
            let file = path.join("step-noise.safetensors");
            Tensor::stack(&draws, 0)?.save_safetensors("noise", &file)?;
        }
        self.python("schedulers.py", &[Path::new("compare"), &folder])
    }

    /// Imports state dicts of improved-diffusion's network and samples them here.
    fn imported_state_dicts(&self) -> Result<()> {
        println!("networks of improved-diffusion, imported and sampled here:");
        self.python(
            "openai.py",
            &[Path::new("save"), Path::new(&self.seed.to_string()), &self.path("openai")],
        )?;
        for model in ["old", "new"] {
            let flags = fs::read_to_string(self.path(&format!("openai/{model}/flags")))?;
            self.diffusion(&format!("import openai/{model}/model.pt --run-dir {model} {flags}"))?;
            self.compare("openai.py", model, &format!("openai/{model}"), [3, 16, 16])?;
        }
        Ok(())
    }

    /// Samples `run` here and `model` in Python with `script`, from the same noise, and compares
    /// the images.
    fn compare(&self, script: &str, run: &str, model: &str, image_shape: [usize; 3]) -> Result<()> {
        self.diffusion(&format!(
            "sample --run {run} {SAMPLE} --seed {} --out {run}-samples",
            self.seed
        ))?;
        let source = NoiseSource::new(self.seed);
        let noise = source.normal(Domain::Initial, 0, 0..2, &image_shape, &Device::Cpu)?;
        let file = self.path(&format!("{run}-noise.safetensors"));
        noise.save_safetensors("noise", &file)?;
        let samples = self.path(&format!("{run}-samples/samples.npy"));
        ensure!(samples.is_file(), "no samples of {run}: {} does not exist", samples.display());
        self.python(script, &[Path::new("compare"), Path::new(model), &file, &samples])
    }
}

/// The numbers of unsupported cases in the output of the golden tests: one for each line
/// "WHAT: N compared, M unsupported".
fn unsupported_counts(output: &str) -> Vec<u64> {
    let count = |line: &str| {
        let (compared, unsupported) =
            line.strip_suffix(" unsupported")?.split_once(" compared, ")?;
        // A line with 0 compared cases proves nothing, so it is ignored. The test's dots may
        // precede the line.
        compared.rsplit(' ').next()?.parse::<u64>().ok().filter(|compared| *compared > 0)?;
        unsupported.parse().ok()
    };
    output.lines().filter_map(count).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unsupported_cases_are_counted_from_the_output_of_the_tests() {
        let output = "running 3 tests\n.models: 12 compared, 0 unsupported\n\
                      sampler trajectories: 30 compared, 2 unsupported\n\
                      unsupported: fresh/case3: class Other\nunsupported: fresh/case9: class Other\n..\n";
        assert_eq!(unsupported_counts(output), [0, 2]);
        assert!(
            unsupported_counts("models: 0 compared, 0 unsupported\ntest result: ok. 3 passed")
                .is_empty()
        );
    }
}
