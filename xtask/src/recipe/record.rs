//! The record of `cargo xtask recipe-bench`: the outcome of each training.

use std::collections::HashSet;
use std::path::Path;

use anyhow::{Context, Result};
use diffusion_eval::mean_and_deviation;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// A line of the record: the metrics of one training's images with one sampler.
#[derive(Serialize, Deserialize)]
pub(super) struct Outcome {
    pub(super) row: String,
    pub(super) seed: u64,
    pub(super) base_steps: u64,
    pub(super) steps: u64,
    pub(super) seconds_per_step: f64,
    pub(super) loss: f64,
    pub(super) sampler: String,
    pub(super) count: usize,
    pub(super) frechet_distance: f64,
    pub(super) sure: f64,
    pub(super) smallest_class: f64,
    pub(super) precision: f64,
    pub(super) recall: f64,
    pub(super) coverage: f64,
    /// The length of the training, if it was given in minutes; `base_steps` is then 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) minutes: Option<f64>,
    /// The name of the judge, unless it is that of the search on digits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) judge: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) class_accuracy: Option<f64>,
}

/// The lines of the record at `path`; none if the file does not exist.
pub(super) fn read_record<T: DeserializeOwned>(path: &Path) -> Result<Vec<T>> {
    let text = match std::fs::read_to_string(path) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => String::new(),
        text => text.with_context(|| path.display().to_string())?,
    };
    let lines = text.lines().map(serde_json::from_str);
    lines.collect::<Result<_, _>>().with_context(|| path.display().to_string())
}

/// Prints the table of docs/recipe.md: means over the seeds, in the order of the outcomes.
pub(super) fn print_means(outcomes: &[Outcome]) {
    println!(
        "\n| row | sampler | seeds | steps | s/step | loss | Fréchet distance | \
         classified confidently | smallest class | recall | coverage |"
    );
    println!("|---|---|---|---|---|---|---|---|---|---|---|");
    let key = |o: &Outcome| (o.row.clone(), o.sampler.clone());
    let mut keys = HashSet::new();
    for first in outcomes.iter().filter(|o| keys.insert(key(o))) {
        let same: Vec<&Outcome> = outcomes.iter().filter(|o| key(o) == key(first)).collect();
        let mean = |figure: fn(&Outcome) -> f64, scale: f64, digits: usize| {
            let values: Vec<f64> = same.iter().map(|o| figure(o) * scale).collect();
            let (mean, deviation) = mean_and_deviation(&values);
            let deviation = deviation.map(|deviation| format!(" ± {deviation:.digits$}"));
            format!("{mean:.digits$}{}", deviation.unwrap_or_default())
        };
        println!(
            "| {} | {} | {} | {} | {:.4} | {} | {} | {} % | {} % | {} | {} |",
            first.row,
            first.sampler,
            same.len(),
            first.steps,
            first.seconds_per_step,
            mean(|o| o.loss, 1.0, 4),
            mean(|o| o.frechet_distance, 1.0, 2),
            mean(|o| o.sure, 100.0, 1),
            mean(|o| o.smallest_class, 100.0, 1),
            mean(|o| o.recall, 1.0, 3),
            mean(|o| o.coverage, 1.0, 3),
        );
    }
}
