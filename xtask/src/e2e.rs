//! `cargo xtask e2e`: trains on real digits with the real program, kills and resumes the training,
//! samples, and checks the results.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};

use crate::cargo::{built_program, cargo};

/// Steps of the complete training.
const STEPS: u64 = 24;
/// Images to sample.
const NUM: usize = 7;
/// MNIST's height and width.
const SIZE: u32 = 28;

/// Runs all steps and prints a line for each.
pub(crate) fn run() -> anyhow::Result<()> {
    cargo(&["build", "--package", "diffusion-cli"], &[])?;
    let folder = tempfile::tempdir()?;
    let sandbox =
        Sandbox { program: built_program("diffusion")?, folder: folder.path().to_owned() };
    let steps: [(&str, Step); 8] = [
        ("train on real digits, saving every step", train_whole),
        ("kill a training and resume it", kill_and_resume),
        ("resumed equals uninterrupted", resumed_equals_uninterrupted),
        ("metrics and pictures of the run", run_folder),
        ("sample PNG", sample_png),
        ("sample npy", sample_npy),
        ("images depend on seed and number only", determinism),
        ("bad input is an error", bad_input),
    ];
    let mut failed = 0;
    for (name, step) in steps {
        let start = Instant::now();
        let (mark, note) = match step(&sandbox) {
            Ok(note) => ("ok  ", note),
            Err(error) => {
                failed += 1;
                ("FAIL", format!("{error:#}"))
            }
        };
        println!("{mark}  {name:<42} {:>6.1} s  {note}", start.elapsed().as_secs_f64());
    }
    ensure!(failed == 0, "{failed} of {} steps failed", steps.len());
    println!("all {} steps passed", steps.len());
    Ok(())
}

/// One step of the test; returns a note for the output.
type Step = fn(&Sandbox) -> anyhow::Result<String>;

struct Sandbox {
    program: PathBuf,
    folder: PathBuf,
}

impl Sandbox {
    fn command(&self, line: &str) -> Command {
        let mut command = Command::new(&self.program);
        command.args(line.split_whitespace()).current_dir(&self.folder).env("CI", "true");
        command
    }

    fn ok(&self, line: &str) -> anyhow::Result<String> {
        let output = self.command(line).output().context("cannot start the program")?;
        let text = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        ensure!(output.status.success(), "`diffusion {line}` failed: {text}");
        Ok(text)
    }

    fn read(&self, path: impl AsRef<Path>) -> anyhow::Result<Vec<u8>> {
        let path = self.folder.join(path);
        fs::read(&path).with_context(|| path.display().to_string())
    }

    fn latest_step(&self, run: &str) -> anyhow::Result<u64> {
        let text = String::from_utf8(self.read(format!("{run}/latest"))?)?;
        Ok(text.trim().trim_start_matches("step-").parse()?)
    }
}

/// Writes a configuration whose learning rate does not depend on the training's length, so that
/// runs of different lengths agree.
fn config(sandbox: &Sandbox) -> anyhow::Result<()> {
    let text = "batch_size = 16\n[lr_schedule]\ndecay = { kind = \"constant\" }\n[checkpoint]\nevery = 1\nkeep = 2\n\
                [sample_grid]\nnum = 4\nsteps = 5\nevery = 12\n";
    fs::write(sandbox.folder.join("e2e.toml"), text).context("e2e.toml")
}

fn train_whole(sandbox: &Sandbox) -> anyhow::Result<String> {
    config(sandbox)?;
    let text = sandbox.ok(&format!("train --config e2e.toml --run-dir whole --steps {STEPS}"))?;
    ensure!(
        text.contains(&format!("trained {STEPS} steps")),
        "expected \"trained {STEPS} steps\" in its output: {text}"
    );
    Ok(format!("{STEPS} steps"))
}

fn kill_and_resume(sandbox: &Sandbox) -> anyhow::Result<String> {
    let line = format!("train --config e2e.toml --run-dir killed --steps {STEPS}");
    let mut child = sandbox.command(&line).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
    let deadline = Instant::now() + Duration::from_mins(2);
    while sandbox.latest_step("killed").unwrap_or(0) < STEPS / 3 {
        ensure!(child.try_wait()?.is_none(), "the training ended before it could be killed");
        ensure!(
            Instant::now() < deadline,
            "the training took over two minutes for a third of its steps"
        );
        std::thread::yield_now();
    }
    child.kill()?;
    child.wait()?;
    let killed_at = sandbox.latest_step("killed")?;
    ensure!(killed_at < STEPS, "the training ended before it was killed");
    sandbox.ok("train --run-dir killed --resume")?;
    let end = sandbox.latest_step("killed")?;
    ensure!(end == STEPS, "the resumed training ended at step {end}");
    Ok(format!("killed after step {killed_at}"))
}

fn resumed_equals_uninterrupted(sandbox: &Sandbox) -> anyhow::Result<String> {
    let mut bytes = 0;
    for name in ["model.safetensors", "ema.safetensors", "optimizer.safetensors"] {
        let [whole, killed] =
            ["whole", "killed"].map(|run| format!("{run}/checkpoints/step-{STEPS:07}/{name}"));
        let (whole, killed) = (sandbox.read(whole)?, sandbox.read(killed)?);
        safetensors::SafeTensors::deserialize(&whole)?;
        ensure!(whole == killed, "{name} differs");
        bytes += whole.len();
    }
    Ok(format!("{bytes} equal bytes"))
}

fn run_folder(sandbox: &Sandbox) -> anyhow::Result<String> {
    let metrics = String::from_utf8(sandbox.read("killed/metrics.jsonl")?)?;
    let steps = metrics
        .lines()
        .map(|line| Ok(serde_json::from_str::<serde_json::Value>(line)?["step"].as_u64()))
        .collect::<anyhow::Result<Vec<_>>>()?;
    ensure!(
        steps == (1..=STEPS).map(Some).collect::<Vec<_>>(),
        "metrics.jsonl must have each step exactly once"
    );
    for step in [STEPS / 2, STEPS] {
        decode_png(&sandbox.read(format!("whole/samples/step-{step:07}.png"))?)?;
    }
    Ok(format!("{} lines of metrics", steps.len()))
}

fn decode_png(bytes: &[u8]) -> anyhow::Result<(u32, u32, Vec<u8>)> {
    let mut reader = png::Decoder::new(std::io::Cursor::new(bytes)).read_info()?;
    let mut pixels = vec![0; reader.output_buffer_size().context("the PNG is too large")?];
    let info = reader.next_frame(&mut pixels)?;
    ensure!(info.color_type == png::ColorType::Grayscale, "the PNG is not grey");
    Ok((info.width, info.height, pixels))
}

fn sample_png(sandbox: &Sandbox) -> anyhow::Result<String> {
    sandbox.ok(&format!("sample --run whole --num {NUM} --steps 10 --out png --grid grid.png"))?;
    for i in 0..NUM {
        let (width, height, pixels) = decode_png(&sandbox.read(format!("png/{i:06}.png"))?)?;
        ensure!((width, height) == (SIZE, SIZE), "image {i} is {width}×{height}");
        ensure!(pixels.iter().any(|&p| p != pixels[0]), "image {i} has a single colour");
    }
    let count = fs::read_dir(sandbox.folder.join("png"))?.count();
    ensure!(count == NUM, "expected {NUM} files in png, got {count}");
    decode_png(&sandbox.read("grid.png")?)?;
    Ok(format!("{NUM} images of {SIZE}×{SIZE}"))
}

/// The values of an npy file with `num` grey images.
fn npy(sandbox: &Sandbox, path: &str, num: usize) -> anyhow::Result<Vec<f32>> {
    let bytes = sandbox.read(path)?;
    ensure!(bytes.starts_with(b"\x93NUMPY"), "{path} is not npy");
    let len = num * (SIZE * SIZE) as usize * 4;
    ensure!(
        bytes.len() > len && bytes.len() < len + 256,
        "{path} has {} bytes for {num} images",
        bytes.len()
    );
    let data = &bytes[bytes.len() - len..];
    Ok(data.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect())
}

fn sample_npy(sandbox: &Sandbox) -> anyhow::Result<String> {
    sandbox.ok(&format!("sample --run whole --num {NUM} --steps 10 --format npy --out npy"))?;
    let values = npy(sandbox, "npy/samples.npy", NUM)?;
    ensure!(values.iter().all(|v| (-1.0..=1.0).contains(v)), "values outside [-1, 1]");
    // The PNGs hold the same images.
    for i in 0..NUM {
        let (_, _, pixels) = decode_png(&sandbox.read(format!("png/{i:06}.png"))?)?;
        let per_image = pixels.len();
        let same = values[i * per_image..]
            .iter()
            .zip(&pixels)
            .all(|(v, p)| ((v + 1.0) * 127.5).round() as u8 == *p);
        ensure!(same, "image {i} differs between PNG and npy");
    }
    Ok(format!("float32 ({NUM}, 1, {SIZE}, {SIZE}), equal to the PNGs"))
}

fn determinism(sandbox: &Sandbox) -> anyhow::Result<String> {
    let reference = npy(sandbox, "npy/samples.npy", NUM)?;
    let per_image = reference.len() / NUM;
    for (name, num, options) in [
        ("alone", 1, ""),
        ("batches", NUM, "--batch-size 3"),
        ("one", NUM, "--threads 1"),
        ("two", NUM, "--threads 2"),
    ] {
        sandbox.ok(&format!(
            "sample --run whole --num {num} --steps 10 --format npy --out {name} {options}"
        ))?;
        let values = npy(sandbox, &format!("{name}/samples.npy"), num)?;
        ensure!(
            values == reference[..num * per_image],
            "the images differ with --num {num} {options}"
        );
    }
    Ok("--num, --batch-size and --threads do not change the images".to_owned())
}

fn bad_input(sandbox: &Sandbox) -> anyhow::Result<String> {
    let cases = [
        ("train --steps 0", 2),
        ("train --run-dir whole", 1),
        ("train --data nowhere", 2),
        ("sample --run nowhere", 2),
        ("sample --run whole --steps 201", 2),
    ];
    for (line, code) in cases {
        let output = sandbox.command(line).output()?;
        if output.status.code() != Some(code) {
            bail!("`diffusion {line}` exits with {:?}, expected {code}", output.status.code());
        }
        ensure!(
            !String::from_utf8_lossy(&output.stderr).contains("panicked"),
            "`diffusion {line}` panics"
        );
    }
    Ok(format!("{} cases", cases.len()))
}
