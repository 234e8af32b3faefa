//! State dicts of OpenAI's improved-diffusion and guided-diffusion, whose network numbers its layers where ours names them.
//!
//! What the tensors show is inferred: widths, layers a level, attention, classes, learned variance, whether time scales and
//! shifts. What they do not show must be said: how many heads attention has, and how its queries, keys and values lie in
//! their common matrix.

use candle_core::Tensor;
use diffusion_unet::{DownBlockType, TimeScaleShift, UNet2DConfig, UpBlockType};

use crate::weights::Tensors;

/// The normalisations of that network have as many groups.
const GROUPS: usize = 32;
const EPS: f64 = 1e-5;

/// What the tensors do not show.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OpenAiOptions {
    /// `num_heads`.
    pub heads: Option<usize>,
    /// `num_head_channels`, in place of `heads`.
    pub head_channels: Option<usize>,
    /// `use_new_attention_order`: queries of all heads before all keys, and not head by head.
    pub new_attention_order: bool,
}

/// Whether these are the tensors of such a network.
pub(crate) fn is_openai(tensors: &Tensors) -> bool {
    tensors.contains_key("input_blocks.0.0.weight")
}

/// A level: its ResNets by their number among the blocks, whether they have attention, and its width.
struct Level {
    first: usize,
    attention: bool,
    width: usize,
}

/// The configuration that the tensors describe, and the tensors under [`diffusion_unet::UNet2D`]'s names. Nothing is dropped:
/// a tensor without a counterpart keeps its name, and loading refuses it.
///
/// # Errors
/// One sentence: what the file does not say, or what our network has no form for.
pub(crate) fn converted(
    tensors: &Tensors,
    options: &OpenAiOptions,
) -> Result<(UNet2DConfig, Tensors), String> {
    if tensors
        .keys()
        .any(|name| name.starts_with("output_blocks.") && name.contains(".2.in_layers"))
    {
        return Err("it was trained with resblock_updown, which UNet2D has beside attention only"
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
            "its first convolution gives {conv_in} channels and its first level {}",
            levels[0].width
        ));
    }
    let last = levels[levels.len() - 1].width;
    let attending =
        levels.iter().filter(|level| level.attention).map(|level| level.width).chain([last]);
    let head_dim = head_dim(&attending.collect::<Vec<_>>(), options)?;
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
        // Said, so that the middle block's attention is normalised where time scales and shifts, too.
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
    let renamed =
        renamed(tensors, &Names::new(&levels, layers), head_dim, options.new_attention_order)?;
    Ok((config, renamed))
}

/// The levels on the way down, and the ResNets of each.
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
                    "input_blocks.{block} differs from the other blocks of its level in width or attention, or the \
                     network halves its images without a convolution"
                ));
            }
        }
        begins = false;
    }
    match counts.first() {
        Some(&layers) if counts.iter().all(|count| *count == layers) => Ok((levels, layers)),
        Some(_) => Err(format!("its levels have {counts:?} blocks; they must have equally many")),
        None => Err("it has no input_blocks.1".to_owned()),
    }
}

/// The width of a head, the same wherever there is attention, of the given widths.
fn head_dim(widths: &[usize], options: &OpenAiOptions) -> Result<usize, String> {
    let dim = match (options.head_channels, options.heads) {
        (Some(channels), _) => channels,
        (None, Some(heads)) => {
            let dims: Vec<usize> = widths.iter().map(|width| width / heads.max(1)).collect();
            if dims.iter().any(|dim| *dim != dims[0]) {
                return Err(format!(
                    "{heads} heads on widths {widths:?} are {dims:?} channels wide; UNet2D has heads of one width only"
                ));
            }
            dims[0]
        }
        (None, None) => {
            return Err(
                "its tensors do not show how many heads attention has: their number or the channels of one must be given"
                    .to_owned(),
            );
        }
    };
    match widths.iter().find(|width| dim == 0 || !width.is_multiple_of(dim)) {
        Some(width) => Err(format!("{width} channels do not divide into heads of {dim}")),
        None => Ok(dim),
    }
}

/// The names of blocks: theirs, and ours.
struct Names(Vec<(String, String)>);

impl Names {
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
                let theirs = format!("input_blocks.{}", level.first + layer);
                names.push((format!("{theirs}.0"), format!("down_blocks.{l}.resnets.{layer}")));
                names.push((format!("{theirs}.1"), format!("down_blocks.{l}.attentions.{layer}")));
            }
            let theirs = format!("input_blocks.{}.0.op", level.first + layers);
            names.push((theirs, format!("down_blocks.{l}.downsamplers.0.conv")));

            let (up, more) = (last - l, layers + 1);
            for layer in 0..more {
                let theirs = format!("output_blocks.{}", up * more + layer);
                names.push((format!("{theirs}.0"), format!("up_blocks.{up}.resnets.{layer}")));
                if level.attention {
                    names.push((
                        format!("{theirs}.1"),
                        format!("up_blocks.{up}.attentions.{layer}"),
                    ));
                }
            }
            let theirs = format!(
                "output_blocks.{}.{}",
                up * more + layers,
                1 + usize::from(level.attention)
            );
            names.push((theirs, format!("up_blocks.{up}.upsamplers.0")));
        }
        Self(names)
    }

    /// Our name for a tensor; its own where there is none.
    fn ours(&self, theirs: &str) -> String {
        // The longest that fits: `input_blocks.2.0.op` before `input_blocks.2.0`.
        let fits = |(block, _): &&(String, String)| {
            theirs.strip_prefix(block.as_str()).is_some_and(|rest| rest.starts_with('.'))
        };
        let Some((block, ours)) = self.0.iter().filter(fits).max_by_key(|(block, _)| block.len())
        else {
            return theirs.to_owned();
        };
        let rest = &theirs[block.len() + 1..];
        let renamed = LAYERS.iter().find_map(|(old, new)| {
            let kind = rest.strip_prefix(old)?.strip_prefix('.')?;
            Some(format!("{new}.{kind}"))
        });
        format!("{ours}.{}", renamed.unwrap_or_else(|| rest.to_owned()))
    }
}

/// The layers of a block: theirs, and ours.
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

fn renamed(
    tensors: &Tensors,
    names: &Names,
    head_dim: usize,
    new_order: bool,
) -> Result<Tensors, String> {
    let mut renamed = Tensors::new();
    for (theirs, tensor) in tensors {
        let cannot = |e: candle_core::Error| format!("tensor `{theirs}`: {e}");
        let ours = names.ours(theirs);
        if let Some((attention, kind)) = ours.split_once(".qkv.") {
            for (layer, part) in ["to_q", "to_k", "to_v"].into_iter().zip(0..) {
                let part = third(tensor, part, head_dim, new_order).map_err(cannot)?;
                renamed.insert(format!("{attention}.{layer}.{kind}"), part);
            }
            continue;
        }
        // The projection of attention is a convolution over a sequence there: (C, C, 1).
        let flat = if ours.ends_with("to_out.0.weight") {
            tensor.flatten_from(1)
        } else {
            Ok(tensor.clone())
        };
        renamed.insert(ours, flat.map_err(cannot)?);
    }
    Ok(renamed)
}

/// Queries (0), keys (1) or values (2) of a common weight (3·C, C, 1) or bias (3·C).
fn third(
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
