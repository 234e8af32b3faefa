//! State dicts of improved-diffusion's network. `cargo xtask golden` compares real ones with the
//! outputs of their network in PyTorch.

use std::collections::HashMap;
use std::path::PathBuf;

use candle_core::{DType, Device, Tensor};
use diffusion_interop::{ImportedModel, OpenAiOptions};
use diffusion_schedule::BetaSchedule;
use diffusion_unet::{DownBlockType, TimeScaleShift};
use tempfile::TempDir;

/// The tensors of a network with one layer per level, attention in the second level, learned
/// variance and classes.
struct StateDict(HashMap<String, Tensor>);

impl StateDict {
    fn new(scale_shift: bool) -> Self {
        let mut dict = Self(HashMap::new());
        dict.layer("time_embed.0", &[128, 32]);
        dict.layer("time_embed.2", &[128, 128]);
        dict.add("label_emb.weight", &[10, 128]);
        dict.layer("input_blocks.0.0", &[32, 3, 3, 3]);
        dict.residual("input_blocks.1.0", 32, 32, scale_shift);
        dict.layer("input_blocks.2.0.op", &[32, 32, 3, 3]);
        dict.residual("input_blocks.3.0", 32, 64, scale_shift);
        dict.attention("input_blocks.3.1", 64);
        dict.residual("middle_block.0", 64, 64, scale_shift);
        dict.attention("middle_block.1", 64);
        dict.residual("middle_block.2", 64, 64, scale_shift);
        dict.residual("output_blocks.0.0", 128, 64, scale_shift);
        dict.attention("output_blocks.0.1", 64);
        dict.residual("output_blocks.1.0", 96, 64, scale_shift);
        dict.attention("output_blocks.1.1", 64);
        dict.layer("output_blocks.1.2.conv", &[64, 64, 3, 3]);
        dict.residual("output_blocks.2.0", 96, 32, scale_shift);
        dict.residual("output_blocks.3.0", 64, 32, scale_shift);
        dict.layer("out.0", &[32]);
        dict.layer("out.2", &[6, 32, 3, 3]);
        dict
    }

    fn add(&mut self, name: &str, shape: &[usize]) {
        let count: usize = shape.iter().product();
        let numbers = Tensor::arange(0f32, count as f32, &Device::Cpu).unwrap();
        self.0.insert(name.to_owned(), numbers.affine(1e-4, 0.0).unwrap().reshape(shape).unwrap());
    }

    fn layer(&mut self, name: &str, weight: &[usize]) {
        self.add(&format!("{name}.weight"), weight);
        self.add(&format!("{name}.bias"), &weight[..1]);
    }

    fn residual(&mut self, name: &str, cin: usize, cout: usize, scale_shift: bool) {
        self.layer(&format!("{name}.in_layers.0"), &[cin]);
        self.layer(&format!("{name}.in_layers.2"), &[cout, cin, 3, 3]);
        self.layer(
            &format!("{name}.emb_layers.1"),
            &[if scale_shift { 2 * cout } else { cout }, 128],
        );
        self.layer(&format!("{name}.out_layers.0"), &[cout]);
        self.layer(&format!("{name}.out_layers.3"), &[cout, cout, 3, 3]);
        if cin != cout {
            self.layer(&format!("{name}.skip_connection"), &[cout, cin, 1, 1]);
        }
    }

    fn attention(&mut self, name: &str, channels: usize) {
        self.layer(&format!("{name}.norm"), &[channels]);
        self.layer(&format!("{name}.qkv"), &[3 * channels, channels, 1]);
        self.layer(&format!("{name}.proj_out"), &[channels, channels, 1]);
    }

    fn write(&self) -> (TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("model.safetensors");
        candle_core::safetensors::save(&self.0, &path).unwrap();
        (dir, path)
    }
}

fn import(dict: &StateDict, options: &OpenAiOptions) -> Result<ImportedModel, String> {
    let (_dir, path) = dict.write();
    ImportedModel::read_openai(&path, 16, true, options).map_err(|e| e.to_string())
}

const FOUR_HEADS: OpenAiOptions =
    OpenAiOptions { heads: Some(4), head_channels: None, new_attention_order: false };

#[test]
fn the_configuration_is_inferred_from_the_tensors() {
    for scale_shift in [false, true] {
        let model = import(&StateDict::new(scale_shift), &FOUR_HEADS).unwrap();
        let network = &model.network;
        assert_eq!(
            (network.in_channels, network.out_channels, network.layers_per_block),
            (3, 6, 1)
        );
        assert_eq!(network.block_out_channels, [32, 64]);
        assert_eq!(
            network.down_block_types,
            [DownBlockType::DownBlock2D, DownBlockType::AttnDownBlock2D]
        );
        assert_eq!((network.attention_head_dim, network.num_class_embeds), (Some(16), Some(10)));
        assert_eq!(network.resnet_time_scale_shift == TimeScaleShift::ScaleShift, scale_shift);
        assert_eq!(
            (model.image_shape, model.schedule.beta_schedule),
            ([3, 16, 16], BetaSchedule::Cosine)
        );
        assert_eq!(model.weights["up_blocks.0.upsamplers.0.conv.weight"].dims(), [64, 64, 3, 3]);
    }
}

#[test]
fn queries_keys_and_values_are_split_in_both_orders() {
    let rows = |options: &OpenAiOptions, layer: &str| -> Vec<usize> {
        let model = import(&StateDict::new(true), options).unwrap();
        let bias = &model.weights[&format!("mid_block.attentions.0.{layer}.bias")];
        assert_eq!(bias.dims(), [64]);
        let numbers = bias.to_dtype(DType::F64).unwrap().to_vec1::<f64>().unwrap();
        numbers.iter().map(|x| (x * 1e4).round() as usize).collect()
    };
    let new = OpenAiOptions { new_attention_order: true, ..FOUR_HEADS };
    let one = OpenAiOptions { heads: None, head_channels: Some(64), new_attention_order: false };
    for (which, layer) in ["to_q", "to_k", "to_v"].into_iter().enumerate() {
        let third: Vec<usize> = (64 * which..64 * (which + 1)).collect();
        assert_eq!(rows(&new, layer), third, "{layer}");
        assert_eq!(rows(&one, layer), third, "{layer}");
        // Head by head: 16 queries, 16 keys, 16 values, four times.
        let by_head: Vec<usize> =
            (0..4).flat_map(|head| (0..16).map(move |c| 48 * head + 16 * which + c)).collect();
        assert_eq!(rows(&FOUR_HEADS, layer), by_head, "{layer}");
    }
}

#[test]
fn missing_and_unsupported_parts_are_errors() {
    let fails_with = |change: &dyn Fn(&mut StateDict), options: &OpenAiOptions, part: &str| {
        let mut dict = StateDict::new(true);
        change(&mut dict);
        let error = import(&dict, options).unwrap_err();
        assert!(error.contains(part), "{error}");
    };
    let unchanged = |_: &mut StateDict| {};
    fails_with(
        &unchanged,
        &OpenAiOptions::default(),
        "their number or the channels of one must be given",
    );
    fails_with(&unchanged, &OpenAiOptions { heads: Some(7), ..FOUR_HEADS }, "do not divide");
    let remove = |name: &'static str| move |dict: &mut StateDict| drop(dict.0.remove(name));
    fails_with(&remove("out.2.bias"), &FOUR_HEADS, "`conv_out.bias` is missing");
    fails_with(
        &remove("input_blocks.0.0.weight"),
        &FOUR_HEADS,
        "not a model of improved-diffusion",
    );
    fails_with(&|dict| dict.add("extra", &[1]), &FOUR_HEADS, "`extra`");
    fails_with(
        &|dict| dict.residual("output_blocks.1.2", 64, 64, true),
        &FOUR_HEADS,
        "resblock_updown",
    );
    fails_with(
        &|dict| dict.residual("input_blocks.4.0", 64, 64, true),
        &FOUR_HEADS,
        "input_blocks.4 differs",
    );
    fails_with(
        &|dict| dict.add("input_blocks.0.0.weight", &[16, 3, 3, 3]),
        &FOUR_HEADS,
        "gives 16 channels",
    );
}
