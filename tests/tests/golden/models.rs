use std::collections::HashMap;

use candle_core::{DType, Tensor, Var};
use diffusion_interop::ImportedModel;
use diffusion_nn::Parameters;
use diffusion_process::Network;
use diffusion_tests::{
    Coverage, assert_close, device, flat, golden_dir, golden_json, golden_tensors, number,
};
use diffusion_unet::UNet2D;
use serde_json::Value;

/// The names of all folders in `models`.
fn folders() -> Vec<String> {
    let dir = golden_dir().join("models");
    let entries = std::fs::read_dir(&dir).unwrap_or_else(|e| panic!("{}: {e}", dir.display()));
    let folders = entries.map(|entry| entry.unwrap()).filter(|entry| entry.path().is_dir());
    let mut names: Vec<String> = folders
        .map(|entry| entry.file_name().to_str().expect("a name in UTF-8").to_owned())
        .collect();
    names.sort();
    names
}

/// One folder: the network with its weights.
struct Case {
    name: String,
    json: Value,
    io: HashMap<String, Tensor>,
    unet: UNet2D,
    parameters: Parameters,
}

impl Case {
    /// Opens a folder of `models`; the error is the reason why it is not supported.
    fn open(name: String) -> Result<Self, String> {
        let model = ImportedModel::read(&golden_dir().join("models").join(&name), None);
        let ImportedModel { network, weights, .. } = model.map_err(|e| e.to_string())?;
        let (unet, parameters) =
            Parameters::initialise(0, &device(), |vb| UNet2D::new(&network, vb))
                .map_err(|e| e.to_string())?;
        parameters.load(&weights).unwrap_or_else(|e| panic!("{name}: {e}"));
        let file = |file: &str| format!("models/{name}/{file}");
        let (json, io) = (golden_json(&file("case.json")), golden_tensors(&file("io.safetensors")));
        Ok(Self { name, json, io, unet, parameters })
    }

    fn agrees(&self) {
        let name = &self.name;
        assert_eq!(self.parameters.count() as f64, number(&self.json["parameter_count"]), "{name}");
        let sample = Var::from_tensor(&self.io["sample"]).unwrap();
        let timesteps = self.io["timesteps"].to_dtype(DType::F32).unwrap();
        let labels = self.io.get("class_labels").map(|labels| labels.to_dtype(DType::U32).unwrap());
        let classes = match labels {
            Some(labels) => labels.to_vec1::<u32>().unwrap().into_iter().map(Some).collect(),
            None => vec![None; timesteps.elem_count()],
        };
        let output = self.unet.forward_classes(&sample, &timesteps, &classes).unwrap();
        for table in ["output", "output_f64"] {
            assert_eq!(output.dims(), self.io[table].dims(), "{name} {table}");
            let (found, expected) = (flat(&output), flat(&self.io[table]));
            assert_close(
                &format!("{name} {table}"),
                &found,
                &expected,
                number(&self.json["atol_output"]),
            );
        }

        let gradients = output.sqr().unwrap().mean_all().unwrap().backward().unwrap();
        let of_parameters = self.parameters.iter();
        let vars: HashMap<&str, &Var> = of_parameters.chain([("sample", &sample)]).collect();
        let expected =
            self.io.iter().filter_map(|(key, tensor)| Some((key.strip_prefix("grad/")?, tensor)));
        let mut checked = 0;
        for (parameter, expected) in expected {
            let found = gradients
                .get(vars[parameter])
                .unwrap_or_else(|| panic!("{name}: no gradient of {parameter}"));
            self.gradient_agrees(parameter, &flat(found), &flat(expected));
            checked += 1;
        }
        assert!(checked > 1, "{name} has no gradients to check");
    }

    fn gradient_agrees(&self, parameter: &str, found: &[f64], expected: &[f64]) {
        let largest = expected.iter().fold(0f64, |m, g| m.max(g.abs()));
        let floor = self.json["atol_grad_floor"].as_f64().unwrap_or(0.0);
        let allowed = number(&self.json["atol_grad_relative_to_max_abs_grad"]) * largest + floor;
        assert_close(&format!("{} gradient of {parameter}", self.name), found, expected, allowed);
    }
}

/// The folders of this package whose network is not supported.
const UNSUPPORTED: &[&str] = &[];

pub(crate) fn outputs_and_gradients() {
    let mut coverage = Coverage::default();
    for name in folders() {
        let outcome = Case::open(name.clone()).map(|case| case.agrees());
        coverage.count(name, outcome);
    }
    coverage.finish("models", UNSUPPORTED);
}
