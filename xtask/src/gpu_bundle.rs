//! `cargo xtask gpu-bundle`: a folder with which a machine with a GPU and no toolchain can check
//! and measure this project.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use clap::Args;

use crate::cargo::{cargo_output, workspace_root};
use crate::check::cuda_variables;
use crate::python::call;

/// Write a folder that checks and measures this project on a machine with an NVIDIA GPU
///
/// The folder holds the program and its benchmark with CUDA, the golden tests with their data, the
/// PyTorch worker, and `run.sh`, which runs all of them and writes results.txt. The machine with
/// the GPU needs no Rust toolchain. This command needs nvcc and CUDA's libraries, but no GPU.
#[derive(Debug, Args)]
#[command(after_help = "\
Environment:
  CUDA_HOME         the CUDA 13 toolkit, see cargo xtask check-cuda
  CUDA_LIBRARIES    a folder with libcublas.so.13 and others [default: lib64 or lib in CUDA_HOME]
  CUDA_COMPUTE_CAP  the oldest compute capability to support; default: 80")]
pub(crate) struct GpuBundleArgs {
    /// Folder to write
    #[arg(long, value_name = "DIR", default_value = "target/gpu-bundle")]
    out: PathBuf,
}

/// The largest size of the folder, in MiB, so that it can be sent to a machine with the GPU.
const MAX_MIB: u64 = 60;
const PROGRAMS: [&str; 3] = ["diffusion", "diffusion-bench", "golden"];
/// The libraries that the program is linked with, besides the driver's.
const LIBRARIES: [&str; 5] = ["cublas", "cublasLt", "curand", "nvrtc", "cudart"];
/// The features with which they are built.
const FEATURES: &str = "diffusion-cli/cuda,diffusion-bench/cuda,diffusion-tests/cuda";

/// Builds the programs and fills the folder.
pub(crate) fn run(args: &GpuBundleArgs) -> Result<()> {
    let root = workspace_root();
    let out = root.join(&args.out);
    if out.join("run.sh").is_file() {
        fs::remove_dir_all(&out).with_context(|| out.display().to_string())?;
    }
    let is_new = fs::read_dir(&out).map_or(true, |mut entries| entries.next().is_none());
    ensure!(is_new, "--out {}: the folder is not empty", out.display());
    let links = root.join("target/gpu-links");
    let (home, mut variables) = cuda_variables()?;
    link_libraries(&home, &links)?;
    let searched = std::env::var_os("LIBRARY_PATH").unwrap_or_default();
    let searched =
        std::env::join_paths(std::iter::once(links).chain(std::env::split_paths(&searched)))?;
    variables.push(("LIBRARY_PATH", searched.to_string_lossy().into_owned()));
    // Without optimisation across crates, which takes many minutes for three programs.
    variables.push(("CARGO_PROFILE_RELEASE_LTO", "off".to_owned()));
    variables.push(("CARGO_PROFILE_RELEASE_CODEGEN_UNITS", "16".to_owned()));
    let packages = ["-p", "diffusion-cli", "-p", "diffusion-bench", "-p", "diffusion-tests"];
    let build = |kind: &[&str]| {
        let flags = ["--release", "--features", FEATURES, "--message-format", "json"];
        programs(&[kind, &flags, &packages].concat(), &variables)
    };
    let mut built = build(&["build", "--bins"])?;
    built.extend(build(&["test", "--no-run", "--test", "golden"])?);

    fs::create_dir_all(&out).with_context(|| out.display().to_string())?;
    let programs = tempfile::tempdir()?;
    for name in PROGRAMS {
        let (_, path) = built
            .iter()
            .find(|(built, _)| built == name)
            .with_context(|| format!("cargo did not build {name}"))?;
        fs::copy(path, programs.path().join(name)).with_context(|| path.display().to_string())?;
    }
    // They hold the same kernels for GPUs, which the archive stores once.
    let archive = out.join("programs.tar.xz");
    let mut tar = Command::new("tar");
    call(tar.arg("-cJf").arg(archive).arg("-C").arg(programs.path()).args(PROGRAMS))?;
    copy_folder(&root.join("tests/golden"), &out.join("numbers"))?;
    for file in ["pytorch.py", "networks.json"] {
        fs::copy(root.join("bench").join(file), out.join(file))?;
    }
    fs::write(out.join("jobs.txt"), include_str!("gpu_bundle/jobs.txt"))?;
    fs::write(out.join("run.sh"), include_str!("gpu_bundle/run.sh"))?;
    let mib = size(&out)?.div_ceil(1 << 20);
    ensure!(mib < MAX_MIB, "{} has {mib} MiB; expected less than {MAX_MIB}", out.display());
    println!("{}: {mib} MiB; on the machine with the GPU: sh run.sh", out.display());
    Ok(())
}

/// The programs that a call of cargo builds: names and paths.
fn programs(arguments: &[&str], variables: &[(&str, String)]) -> Result<Vec<(String, PathBuf)>> {
    let output = cargo_output(arguments, variables)?;
    let artifacts = output.lines().filter_map(|line| {
        let line: serde_json::Value = serde_json::from_str(line).ok()?;
        let path = line["executable"].as_str()?;
        Some((line["target"]["name"].as_str()?.to_owned(), PathBuf::from(path)))
    });
    Ok(artifacts.collect())
}

/// Fills the folder `links` with the libraries under the names that the linker looks for.
fn link_libraries(home: &Path, links: &Path) -> Result<()> {
    fs::create_dir_all(links).with_context(|| links.display().to_string())?;
    let given = std::env::var_os("CUDA_LIBRARIES").map(PathBuf::from);
    let folders: Vec<PathBuf> =
        given.into_iter().chain([home.join("lib64"), home.join("lib")]).collect();
    for name in LIBRARIES {
        let library = folders
            .iter()
            .find_map(|folder| newest_library(folder, name))
            .with_context(|| format!("lib{name}.so is in none of {folders:?}"))?;
        replace_link(&library, &links.join(format!("lib{name}.so")))?;
    }
    let stub = home.join("lib64/stubs/libcuda.so");
    if stub.is_file() {
        return replace_link(&stub, &links.join("libcuda.so"));
    }
    write_driver_stub(links)
}

/// The file `lib{name}.so`, or one with a version behind it.
fn newest_library(folder: &Path, name: &str) -> Option<PathBuf> {
    let prefix = format!("lib{name}.so");
    let files = fs::read_dir(folder).ok()?.filter_map(|entry| Some(entry.ok()?.path()));
    files
        .filter(|path| {
            let file = path.file_name().unwrap_or_default().to_string_lossy();
            file.strip_prefix(&prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
        })
        .max()
}

fn replace_link(target: &Path, link: &Path) -> Result<()> {
    let _ = fs::remove_file(link);
    #[cfg(unix)]
    let done = std::os::unix::fs::symlink(target, link);
    #[cfg(not(unix))]
    let done = fs::copy(target, link).map(drop);
    done.with_context(|| target.display().to_string())
}

/// Compiles a library with the names of the driver's functions, for linking on a machine without
/// the driver. On the machine with the GPU, the driver's own library takes its place.
fn write_driver_stub(links: &Path) -> Result<()> {
    let metadata = cargo_output(&["metadata", "--format-version", "1", "--all-features"], &[])?;
    let metadata: serde_json::Value = serde_json::from_str(&metadata)?;
    let packages = metadata["packages"].as_array().context("no packages")?;
    let cudarc = packages
        .iter()
        .find(|package| package["name"] == "cudarc")
        .and_then(|package| package["manifest_path"].as_str())
        .context("the workspace does not depend on cudarc")?;
    let bindings = Path::new(cudarc).with_file_name("src/driver/sys/mod.rs");
    let text = fs::read_to_string(&bindings).with_context(|| bindings.display().to_string())?;
    let mut names: Vec<&str> = text
        .split(|c: char| !c.is_ascii_alphanumeric() && c != '_')
        .filter(|word| {
            word.strip_prefix("cu").is_some_and(|rest| rest.starts_with(|c: char| c.is_uppercase()))
        })
        .collect();
    names.sort_unstable();
    names.dedup();
    let source = links.join("stub.c");
    let functions = names.iter().map(|name| format!("void {name}(void) {{}}\n"));
    fs::write(&source, functions.collect::<String>())?;
    let library = links.join("libcuda.so");
    call(
        Command::new("cc")
            .args(["-shared", "-fPIC", "-Wl,-soname,libcuda.so.1", "-o"])
            .args([&library, &source]),
    )
}

fn copy_folder(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to).with_context(|| to.display().to_string())?;
    for entry in fs::read_dir(from).with_context(|| from.display().to_string())? {
        let entry = entry?;
        let to = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy_folder(&entry.path(), &to)?;
        } else {
            fs::copy(entry.path(), &to)?;
        }
    }
    Ok(())
}

/// The size of all files in a folder, in bytes.
fn size(folder: &Path) -> Result<u64> {
    let mut size = 0;
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let metadata = entry.metadata()?;
        size += if metadata.is_dir() { self::size(&entry.path())? } else { metadata.len() };
    }
    Ok(size)
}
