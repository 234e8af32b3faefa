//! Runs the program in a temporary folder.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use tempfile::TempDir;

/// A temporary folder in which the program runs.
pub(crate) struct TestDir {
    dir: TempDir,
}

/// The exit code and output of the program.
pub(crate) struct ProgramOutput {
    pub(crate) code: Option<i32>,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl TestDir {
    pub(crate) fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap() }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn write(&self, name: &str, bytes: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, bytes).unwrap();
        path
    }

    pub(crate) fn command(&self, line: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_diffusion"));
        command.args(line.split_whitespace()).current_dir(self.dir.path()).env("CI", "true");
        command.env_remove("RAYON_NUM_THREADS").env_remove("CARGO_MANIFEST_DIR");
        command.env("DIFFUSION_CACHE", self.path("cache"));
        command
    }

    /// Runs the program until it exits.
    pub(crate) fn run(&self, line: &str) -> ProgramOutput {
        let Output { status, stdout, stderr } = self.command(line).output().unwrap();
        ProgramOutput {
            code: status.code(),
            out: String::from_utf8(stdout).unwrap(),
            err: String::from_utf8(stderr).unwrap(),
        }
    }

    /// Runs the program, which must succeed.
    pub(crate) fn ok(&self, line: &str) -> ProgramOutput {
        let answer = self.run(line);
        assert_eq!(answer.code, Some(0), "`{line}` failed:\n{}{}", answer.out, answer.err);
        answer
    }

    /// Runs the program, which must fail with `code` and one error line that contains all of
    /// `parts`. Returns what it printed to standard error.
    pub(crate) fn refuses(&self, line: &str, code: i32, parts: &[&str]) -> String {
        let answer = self.run(line);
        assert_eq!(answer.code, Some(code), "`{line}`:\n{}{}", answer.out, answer.err);
        for part in parts {
            assert!(answer.err.contains(part), "`{line}` does not say `{part}`:\n{}", answer.err);
        }
        assert!(!answer.err.contains("panicked"), "`{line}` panicked:\n{}", answer.err);
        let sentences =
            answer.err.lines().filter(|l| l.contains("ERROR") || l.starts_with("error:")).count();
        assert_eq!(sentences, 1, "`{line}` does not say one sentence:\n{}", answer.err);
        answer.err
    }

    /// Writes a configuration that trains fast: a small network, small pictures, no grids.
    pub(crate) fn small_config(&self) {
        self.write(
            "small.toml",
            "size = 8\nbatch_size = 4\nsteps = 4\n[network]\nbase_channels = 16\ntime_dim = 8\n\
             [lr_schedule]\nwarmup_steps = 0\ndecay = { kind = \"constant\" }\n[schedule]\nnum_train_timesteps = 20\n\
             beta_schedule = \"linear\"\nbeta_start = 5e-3\nbeta_end = 0.6\n[sample_grid]\nnum = 0\n",
        );
    }

    /// Trains the small model for `steps` into `run`.
    pub(crate) fn train_small(&self, run: &str, steps: u32) {
        self.small_config();
        self.ok(&format!("train --config small.toml --run-dir {run} --steps {steps}"));
    }
}

/// The names in a folder, sorted.
pub(crate) fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<String> = std::fs::read_dir(dir)
        .unwrap()
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}
