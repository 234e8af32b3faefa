use diffusion_eval::Statistics;
use diffusion_tests::{cases, golden_json, golden_tensors, number, text};

pub(crate) fn distances() {
    let tensors = golden_tensors("frechet/frechet.safetensors");
    for case in cases(&golden_json("frechet/frechet.json")["cases"]) {
        let id = text(&case["id"]);
        let statistics =
            |set: u8| Statistics::of(&tensors[&format!("{id}/features_{set}")]).unwrap();
        let found = statistics(1).frechet_distance(&statistics(2)).unwrap();
        let reference = number(&case["reference"]);
        let tolerance = match case["rtol"].as_f64() {
            Some(relative) => relative * reference,
            None => number(&case["atol"]),
        };
        assert!((found - reference).abs() <= tolerance, "{id}: {found}, expected {reference}");
    }
}
