//! The guided tour, run with the program of this build.

use std::path::{Path, PathBuf};

use diffusion_docs::{Mode, Problem, check_links, run_tour};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn assert_none(problems: &[Problem]) {
    let problems: Vec<String> = problems.iter().map(Problem::to_string).collect();
    assert!(problems.is_empty(), "{}", problems.join("\n"));
}

#[test]
fn the_tour_can_be_followed_as_printed() {
    let program = Path::new(env!("CARGO_BIN_EXE_diffusion"));
    assert_none(&run_tour(&root().join("docs"), program, Mode::Check).unwrap());
}

#[test]
fn every_link_leads_somewhere() {
    assert_none(&check_links(&root(), false).unwrap());
}
