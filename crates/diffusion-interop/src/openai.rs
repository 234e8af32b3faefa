//! Converts state dicts of OpenAI's improved-diffusion and guided-diffusion, which number the
//! layers of the network, to the parameter names of `UNet2D`.
//!
//! Inferred from the tensors: widths, layers per level, attention, classes, learned variance, and
//! whether the time embedding scales and shifts. Not in the tensors, so given as [`OpenAiOptions`]:
//! the number of attention heads, and the order of queries, keys and values in their common matrix.

use candle_core::Tensor;
use diffusion_unet::{DownBlockType, TimeScaleShift, UNet2DConfig, UpBlockType};

use crate::weights::Tensors;

/// Groups of each normalisation.
const GROUPS: usize = 32;
const EPS: f64 = 1e-5;

/// The settings of the network that its tensors do not show.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OpenAiOptions {
    /// The number of attention heads (`num_heads`). Required if `head_channels` is `None`.
    pub heads: Option<usize>,
    /// The channels of an attention head (`num_head_channels`). Replaces `heads`.
    pub head_channels: Option<usize>,
    /// Whether the queries of all heads come before all keys and values
    /// (`use_new_attention_order`). If false, they are stored head by head. Default: false.
    pub new_attention_order: bool,
}

/// Whether these are tensors of improved-diffusion or guided-diffusion.
pub(crate) fn is_openai(tensors: &Tensors) -> bool {
    tensors.contains_key("input_blocks.0.0.weight")
}

/// A level on the way down.
struct Level {
    /// Number of its first block in `input_blocks`.
    first: usize,
    attention: bool,
    /// Channels.
    width: usize,
}

/// The network's configuration, and the tensors under the names of [`diffusion_unet::UNet2D`].
/// No tensor is dropped: one without a counterpart keeps its name, so that loading the network
/// fails.
///
/// # Errors
/// If a tensor or an option is missing, or `UNet2D` does not support this variant of the network.
pub(crate) fn convert(
    tensors: &Tensors,
    options: &OpenAiOptions,
) -> Result<(UNet2DConfig, Tensors), String> {
    if tensors
        .keys()
        .any(|name| name.starts_with("output_blocks.") && name.contains(".2.in_layers"))
    {
        return Err("it was trained with resblock_updown, which UNet2D supports only in levels \
                    with attention"
            .to_owned());
    }
    let shape = |name: &str, axis: usize| -> Result<usize, String> {
        let tensor = tensors.get(name).ok_or_else(|| format!("tensor `{name}` is missing"))?;
        tensor
            .dims()
            .get(axis)
            .copied()
            .ok_or_else(|| format!("tensor `{name}` has shape {:?}", tensor.dims()))
    };
    let (levels, layers) = levels(tensors)?;
    let conv_in = shape("input_blocks.0.0.weight", 0)?;
    if conv_in != levels[0].width {
        return Err(format!(
            "its first convolution gives {conv_in} channels, but its first level has {}",
            levels[0].width
        ));
    }
    let last = levels[levels.len() - 1].width;
    let attention_widths =
        levels.iter().filter(|level| level.attention).map(|level| level.width).chain([last]);
    let head_dim = head_dim(&attention_widths.collect::<Vec<_>>(), options)?;
    let first = format!("input_blocks.{}.0", levels[0].first);
    let scale_shift = shape(&format!("{first}.emb_layers.1.weight"), 0)? == 2 * levels[0].width;
    let config = UNet2DConfig {
        in_channels: shape("input_blocks.0.0.weight", 1)?,
        out_channels: shape("out.2.weight", 0)?,
        block_out_channels: levels.iter().map(|level| level.width).collect(),
        layers_per_block: layers,
        down_block_types: levels
            .iter()
            .map(|level| {
                if level.attention {
                    DownBlockType::AttnDownBlock2D
                } else {
                    DownBlockType::DownBlock2D
                }
            })
            .collect(),
        up_block_types: levels
            .iter()
            .rev()
            .map(
                |level| {
                    if level.attention {
                        UpBlockType::AttnUpBlock2D
                    } else {
                        UpBlockType::UpBlock2D
                    }
                },
            )
            .collect(),
        attention_head_dim: Some(head_dim),
        norm_num_groups: GROUPS,
        norm_eps: EPS,
        // Set, because by default the middle block's attention is not normalised with scale_shift.
        attn_norm_num_groups: Some(GROUPS),
        resnet_time_scale_shift: if scale_shift {
            TimeScaleShift::ScaleShift
        } else {
            TimeScaleShift::Default
        },
        flip_sin_to_cos: true,
        freq_shift: 0,
        num_class_embeds: tensors.get("label_emb.weight").and_then(|t| t.dims().first().copied()),
        ..UNet2DConfig::default()
    };
    let renamed = rename_tensors(
        tensors,
        &BlockNames::new(&levels, layers),
        head_dim,
        options.new_attention_order,
    )?;
    Ok((config, renamed))
}

/// The levels on the way down, and the number of residual blocks in each.
fn levels(tensors: &Tensors) -> Result<(Vec<Level>, usize), String> {
    let has = |name: String| tensors.contains_key(&name);
    let (mut levels, mut counts): (Vec<Level>, Vec<usize>) = (Vec::new(), Vec::new());
    let mut begins = true;
    for block in 1.. {
        if has(format!("input_blocks.{block}.0.op.weight")) {
            begins = true;
            continue;
        }
        let Some(conv) = tensors.get(&format!("input_blocks.{block}.0.out_layers.3.weight")) else {
            break;
        };
        let (width, attention) = (
            conv.dims().first().copied().unwrap_or(0),
            has(format!("input_blocks.{block}.1.qkv.weight")),
        );
        match levels.last().filter(|_| !begins) {
            None => {
                levels.push(Level { first: block, attention, width });
                counts.push(1);
            }
            Some(level) if level.width == width && level.attention == attention => {
                counts.last_mut().into_iter().for_each(|count| *count += 1);
            }
            Some(_) => {
                return Err(format!(
                    "input_blocks.{block} differs from the other blocks of its level in width or \
                     attention, or the network halves its images without a convolution"
                ));
            }
        }
        begins = false;
    }
    match counts.first() {
        Some(&layers) if counts.iter().all(|count| *count == layers) => Ok((levels, layers)),
        Some(_) => Err(format!("its levels have {counts:?} blocks; all must have the same number")),
        None => Err("it has no input_blocks.1".to_owned()),
    }
}

/// The channels of an attention head, which must be the same for all `widths` of layers with
/// attention.
fn head_dim(widths: &[usize], options: &OpenAiOptions) -> Result<usize, String> {
    let dim = match (options.head_channels, options.heads) {
        (Some(channels), _) => channels,
        (None, Some(heads)) => {
            let dims: Vec<usize> = widths.iter().map(|width| width / heads.max(1)).collect();
            if dims.iter().any(|dim| *dim != dims[0]) {
                return Err(format!(
                    "{heads} heads of layers with {widths:?} channels have {dims:?} channels each; \
                     UNet2D needs heads with the same number of channels"
                ));
            }
            dims[0]
        }
        (None, None) => {
            return Err(
                "its tensors do not show how many heads attention has: their number or the \
                 channels of one must be given"
                    .to_owned(),
            );
        }
    };
    match widths.iter().find(|width| dim == 0 || !width.is_multiple_of(dim)) {
        Some(width) => Err(format!("{width} channels do not divide into heads of {dim}")),
        None => Ok(dim),
    }
}

/// Names of blocks: in OpenAI's network, and in `UNet2D`.
struct BlockNames(Vec<(String, String)>);

impl BlockNames {
    fn new(levels: &[Level], layers: usize) -> Self {
        let mut names = vec![
            ("time_embed.0".to_owned(), "time_embedding.linear_1".to_owned()),
            ("time_embed.2".to_owned(), "time_embedding.linear_2".to_owned()),
            ("label_emb".to_owned(), "class_embedding".to_owned()),
            ("input_blocks.0.0".to_owned(), "conv_in".to_owned()),
            ("middle_block.0".to_owned(), "mid_block.resnets.0".to_owned()),
            ("middle_block.1".to_owned(), "mid_block.attentions.0".to_owned()),
            ("middle_block.2".to_owned(), "mid_block.resnets.1".to_owned()),
            ("out.0".to_owned(), "conv_norm_out".to_owned()),
            ("out.2".to_owned(), "conv_out".to_owned()),
        ];
        let last = levels.len() - 1;
        for (l, level) in levels.iter().enumerate() {
            for layer in 0..layers {
                let old = format!("input_blocks.{}", level.first + layer);
                names.push((format!("{old}.0"), format!("down_blocks.{l}.resnets.{layer}")));
                names.push((format!("{old}.1"), format!("down_blocks.{l}.attentions.{layer}")));
            }
            let old = format!("input_blocks.{}.0.op", level.first + layers);
            names.push((old, format!("down_blocks.{l}.downsamplers.0.conv")));

            let (up, more) = (last - l, layers + 1);
            for layer in 0..more {
                let old = format!("output_blocks.{}", up * more + layer);
                names.push((format!("{old}.0"), format!("up_blocks.{up}.resnets.{layer}")));
                if level.attention {
                    names.push((format!("{old}.1"), format!("up_blocks.{up}.attentions.{layer}")));
                }
            }
            let old = format!(
                "output_blocks.{}.{}",
                up * more + layers,
                1 + usize::from(level.attention)
            );
            names.push((old, format!("up_blocks.{up}.upsamplers.0")));
        }
        Self(names)
    }

    /// The name of a tensor in `UNet2D`; unchanged if it has no counterpart.
    fn rename(&self, name: &str) -> String {
        // The longest matching block: `input_blocks.2.0.op` before `input_blocks.2.0`.
        let matches = |(block, _): &&(String, String)| {
            name.strip_prefix(block.as_str()).is_some_and(|rest| rest.starts_with('.'))
        };
        let Some((block, new_block)) =
            self.0.iter().filter(matches).max_by_key(|(block, _)| block.len())
        else {
            return name.to_owned();
        };
        let rest = &name[block.len() + 1..];
        let renamed = LAYERS.iter().find_map(|(old, new)| {
            let kind = rest.strip_prefix(old)?.strip_prefix('.')?;
            Some(format!("{new}.{kind}"))
        });
        format!("{new_block}.{}", renamed.unwrap_or_else(|| rest.to_owned()))
    }
}

/// Names of layers in a block: in OpenAI's network, and in `UNet2D`.
const LAYERS: [(&str, &str); 8] = [
    ("in_layers.0", "norm1"),
    ("in_layers.2", "conv1"),
    ("emb_layers.1", "time_emb_proj"),
    ("out_layers.0", "norm2"),
    ("out_layers.3", "conv2"),
    ("skip_connection", "conv_shortcut"),
    ("norm", "group_norm"),
    ("proj_out", "to_out.0"),
];

/// The tensors under their names in `UNet2D`, with queries, keys and values as separate tensors.
fn rename_tensors(
    tensors: &Tensors,
    names: &BlockNames,
    head_dim: usize,
    new_order: bool,
) -> Result<Tensors, String> {
    let mut renamed = Tensors::new();
    for (old_name, tensor) in tensors {
        let error = |e: candle_core::Error| format!("tensor `{old_name}`: {e}");
        let name = names.rename(old_name);
        if let Some((attention, kind)) = name.split_once(".qkv.") {
            for (layer, part) in ["to_q", "to_k", "to_v"].into_iter().zip(0..) {
                let part = split_qkv(tensor, part, head_dim, new_order).map_err(error)?;
                renamed.insert(format!("{attention}.{layer}.{kind}"), part);
            }
            continue;
        }
        // OpenAI's projection of attention is a convolution over a sequence: (C, C, 1).
        let flat = if name.ends_with("to_out.0.weight") {
            tensor.flatten_from(1)
        } else {
            Ok(tensor.clone())
        };
        renamed.insert(name, flat.map_err(error)?);
    }
    Ok(renamed)
}

/// The queries (0), keys (1) or values (2) in a common weight (3·C, C, 1) or bias (3·C).
fn split_qkv(
    common: &Tensor,
    which: usize,
    head_dim: usize,
    new_order: bool,
) -> candle_core::Result<Tensor> {
    let rows = common.dim(0)? / 3;
    let common = if common.rank() > 1 { common.flatten_from(1)? } else { common.unsqueeze(1)? };
    let columns = common.dim(1)?;
    let part = if new_order {
        common.narrow(0, which * rows, rows)?
    } else {
        let heads = common.reshape((rows / head_dim, 3, head_dim, columns))?;
        heads.narrow(1, which, 1)?.contiguous()?.reshape((rows, columns))?
    };
    // A bias is a single column.
    if columns == 1 { part.squeeze(1)?.contiguous() } else { part.contiguous() }
}
