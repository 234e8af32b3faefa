//! The parameters that Muon updates, by name.

use std::collections::BTreeSet;

use candle_core::Device;
use diffusion_unet::{
    DownBlockType::{AttnDownBlock2D, DownBlock2D},
    NetworkConfig, SimpleUNetConfig, UNet2DConfig,
    UpBlockType::{AttnUpBlock2D, UpBlock2D},
};

fn hidden_matrices(network: &NetworkConfig) -> BTreeSet<String> {
    let (_, parameters) = network.initialise(0, &Device::Cpu).unwrap();
    let names = parameters.iter().map(|(name, _)| name.to_owned());
    names.filter(|name| parameters.is_hidden_matrix(name)).collect()
}

/// The weights of `layers` inside `part`.
fn weights(part: &str, layers: &[&str]) -> Vec<String> {
    layers.iter().map(|layer| format!("{part}.{layer}.weight")).collect()
}

#[test]
fn in_the_small_unet_they_are_all_but_stem_classes_and_output() {
    let network = NetworkConfig::SimpleUnet(SimpleUNetConfig {
        base_channels: 16,
        time_dim: 8,
        num_class_embeds: Some(3),
        null_class: true,
        ..SimpleUNetConfig::default()
    });
    let mut expected = weights("time_embed", &["mlp.0", "mlp.2"]);
    for block in ["enc1", "enc2", "mid", "dec2", "dec1"] {
        expected.extend(weights(block, &["conv1.2", "conv2.2", "time_proj"]));
    }
    for block in ["enc2", "dec2", "dec1"] {
        expected.extend(weights(block, &["skip"]));
    }
    expected.extend(["down1", "down2", "up2", "up1"].map(|layer| format!("{layer}.weight")));
    assert_eq!(hidden_matrices(&network), expected.into_iter().collect());
}

#[test]
fn in_the_configurable_unet_they_are_all_but_first_and_last_convolution_and_classes() {
    let network = NetworkConfig::Unet2d(UNet2DConfig {
        block_out_channels: vec![8, 16],
        layers_per_block: 1,
        down_block_types: vec![DownBlock2D, AttnDownBlock2D],
        up_block_types: vec![AttnUpBlock2D, UpBlock2D],
        norm_num_groups: 4,
        num_class_embeds: Some(3),
        ..UNet2DConfig::default()
    });
    let mut expected = weights("time_embedding", &["linear_1", "linear_2"]);
    for block in [
        "down_blocks.0.resnets.0",
        "down_blocks.1.resnets.0",
        "mid_block.resnets.0",
        "mid_block.resnets.1",
        "up_blocks.0.resnets.0",
        "up_blocks.0.resnets.1",
        "up_blocks.1.resnets.0",
        "up_blocks.1.resnets.1",
    ] {
        expected.extend(weights(block, &["conv1", "conv2", "time_emb_proj"]));
    }
    // Blocks that change the number of channels have a convolution on the skip connection.
    for block in ["down_blocks.1.resnets.0", "up_blocks.0.resnets.0", "up_blocks.0.resnets.1"] {
        expected.extend(weights(block, &["conv_shortcut"]));
    }
    expected
        .extend(weights("up_blocks.1", &["resnets.0.conv_shortcut", "resnets.1.conv_shortcut"]));
    for block in [
        "down_blocks.1.attentions.0",
        "mid_block.attentions.0",
        "up_blocks.0.attentions.0",
        "up_blocks.0.attentions.1",
    ] {
        expected.extend(weights(block, &["to_q", "to_k", "to_v", "to_out.0"]));
    }
    expected.extend(
        ["down_blocks.0.downsamplers.0", "up_blocks.0.upsamplers.0"]
            .map(|r| format!("{r}.conv.weight")),
    );
    assert_eq!(hidden_matrices(&network), expected.into_iter().collect());
}
