//! The recipes that `cargo xtask recipe-bench` compares.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use diffusion_train::{ConfigSource, TrainConfig};
use serde::Deserialize;
use toml::Table;

/// The default preset of `diffusion train`, which the rows change.
pub(super) const PRESET: &str = diffusion_train::DEFAULT_PRESET;

/// A file of recipes. `base` replaces whole fields of the preset, and each row whole fields of the
/// base.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Recipes {
    #[serde(default)]
    base: Table,
    pub(super) row: Vec<Row>,
}

impl Recipes {
    pub(super) fn read(file: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(file).with_context(|| file.display().to_string())?;
        toml::from_str(&text).with_context(|| file.display().to_string())
    }

    pub(super) fn config(&self, row: &Row, seed: u64, steps: u64) -> Result<TrainConfig> {
        let mut table: Table = TrainConfig::preset(PRESET)?.to_toml()?.parse()?;
        table.extend(self.base.clone());
        table.extend(row.change.clone());
        let source = ConfigSource { path: PathBuf::from(&row.name), text: table.to_string() };
        let config = TrainConfig::from_source(&source)?;
        Ok(TrainConfig { seed, steps: Some(steps), epochs: None, max_minutes: None, ..config })
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Row {
    pub(super) name: String,
    /// For example `ddim:20`, or `ddim:20@1.5` with guidance scale 1.5.
    #[serde(default = "samplers")]
    pub(super) samplers: Vec<String>,
    /// An earlier row whose steps do the same arithmetic and take the same time.
    paced_as: Option<String>,
    #[serde(default)]
    change: Table,
}

impl Row {
    /// The name of the row whose steps are timed for this one.
    pub(super) fn timed(&self) -> &str {
        self.paced_as.as_deref().unwrap_or(&self.name)
    }
}

fn samplers() -> Vec<String> {
    vec!["dpmpp-2m-sde:15".to_owned()]
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::super::generation;
    use super::super::record::{Outcome, read_record};
    use super::*;
    use crate::cargo::workspace_root;

    fn files() -> [Recipes; 2] {
        let read = |name| Recipes::read(&workspace_root().join("xtask").join(name)).unwrap();
        [read("recipes.toml"), read("five-minutes.toml")]
    }

    #[test]
    fn every_row_can_be_trained_and_sampled() {
        for recipes in files() {
            for row in &recipes.row {
                let config = recipes.config(row, 1, 10).unwrap();
                assert_eq!((config.seed, config.steps), (1, Some(10)), "{}", row.name);
                assert!(recipes.row.iter().any(|other| other.name == row.timed()), "{}", row.name);
                for sampler in &row.samplers {
                    generation(sampler, 64).unwrap();
                }
            }
        }
    }

    #[test]
    fn the_row_conditional_is_the_default() {
        let preset = TrainConfig::preset(PRESET).unwrap();
        for recipes in files() {
            let row = recipes.row.iter().find(|row| row.name == "conditional").unwrap();
            let config = recipes.config(row, preset.seed, 10).unwrap();
            // The length of the training is not part of a recipe.
            let length = (preset.steps, preset.epochs, preset.max_minutes);
            assert_eq!(
                TrainConfig { steps: length.0, epochs: length.1, max_minutes: length.2, ..config },
                preset
            );
        }
    }

    #[test]
    fn the_preset_for_colour_is_a_measured_row() {
        let recipes = Recipes::read(&workspace_root().join("xtask/colour.toml")).unwrap();
        let row = recipes.row.iter().find(|row| row.name == "unet-64-128-128").unwrap();
        let preset = TrainConfig::preset("colour-32").unwrap();
        let config = recipes.config(row, preset.seed, 10).unwrap();
        assert_eq!(config.network, preset.network);
        assert_eq!(
            TrainConfig {
                steps: None,
                max_minutes: preset.max_minutes,
                pictures: preset.pictures.clone(),
                sample_grid: preset.sample_grid.clone(),
                ..config
            },
            preset
        );
    }

    #[test]
    fn the_record_has_only_these_rows() {
        let [short, long] = files();
        let record: Vec<Outcome> =
            read_record(&workspace_root().join("assets/figures/recipe.jsonl")).unwrap();
        let mut keys = HashSet::new();
        for outcome in &record {
            let recipes = if outcome.base_steps == 400 { &short } else { &long };
            let row = recipes.row.iter().find(|row| row.name == outcome.row);
            let row = row.unwrap_or_else(|| panic!("unknown row {}", outcome.row));
            assert!(row.samplers.contains(&outcome.sampler), "{}: {}", row.name, outcome.sampler);
            let key =
                (outcome.row.clone(), outcome.sampler.clone(), outcome.seed, outcome.base_steps);
            assert!(keys.insert(key), "{}, seed {}: recorded twice", outcome.row, outcome.seed);
        }
    }
}
