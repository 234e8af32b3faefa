//! `diffusion man` and `diffusion completions`.

use crate::common::{TestDir, names};

#[test]
fn each_shell_has_a_completion_script_with_every_command() {
    let place = TestDir::new();
    for shell in ["bash", "zsh", "fish", "powershell", "elvish"] {
        let script = place.ok(&format!("completions {shell}")).out;
        for part in ["train-classifier", "inpaint", "resamples"] {
            assert!(script.contains(part), "{shell}: {part}");
        }
    }
    place.refuses("completions tcsh", 2, &["tcsh", "bash"]);
}

#[test]
fn manual_pages_are_printed_and_written() {
    let place = TestDir::new();
    let page = place.ok("man").out;
    assert!(page.contains(".TH diffusion 1") && page.contains("train\\-classifier"), "{page}");
    let page = place.ok("man edit inpaint").out;
    assert!(page.contains(".TH diffusion-edit-inpaint 1"), "{page}");
    assert!(page.contains("\\-\\-resamples"), "{page}");
    place.ok("man --out pages");
    let pages = names(&place.path("pages"));
    for name in ["diffusion.1", "diffusion-train.1", "diffusion-edit-inpaint.1"] {
        assert!(pages.iter().any(|page| page == name), "{pages:?}");
    }
    place.refuses("man edit paint", 2, &["diffusion edit has no command `paint`", "inpaint"]);
    place.refuses("man --markdown --out pages", 2, &["--markdown", "--out"]);
    place.refuses("man train --markdown", 2, &["--markdown"]);
}
