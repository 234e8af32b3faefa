//! Reads the weights of a model folder: a safetensors file, or a pickle, which is parsed and not
//! executed.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor, pickle};
use diffusion_files::FileError;
use safetensors::SafeTensors;

use crate::InteropError;
use crate::folder::{length_within, read_limited};

/// The file that diffusers writes.
pub(crate) const FILE: &str = "diffusion_pytorch_model.safetensors";

/// The supported files, the most trustworthy first.
const FILES: [&str; 3] = [FILE, "diffusion_pytorch_model.bin", "diffusion_pytorch_model.pt"];

/// The most bytes of a file of weights; more than the largest supported network has.
const MAX_BYTES: u64 = 1 << 34;

/// The most bytes of the list of tensors before the numbers. A network with thousands of tensors
/// needs a few hundred kilobytes.
const MAX_HEADER: u64 = 1 << 24;

/// Bytes of the stack of the pickle reader. They are reserved; a valid file uses few of them.
const PICKLE_STACK: usize = 1 << 30;

/// Tensors by name.
pub(crate) type Tensors = BTreeMap<String, Tensor>;

/// The path of the file of weights in `folder`.
///
/// # Errors
/// If there is no such file, or the weights are in several files.
pub(crate) fn find(folder: &Path) -> Result<PathBuf, InteropError> {
    let found = FILES.iter().map(|name| folder.join(name)).find(|path| path.exists());
    found.ok_or_else(|| {
        let has_parts = folder.join(format!("{FILE}.index.json")).exists();
        let problem = if has_parts {
            format!("the weights are in several parts; save them in one file, {FILE}")
        } else {
            format!("this folder holds no weights: there is no {}", FILES.join(" and no "))
        };
        InteropError::unusable(folder, problem)
    })
}

/// The tensors in a file, as f32 and under their current names.
///
/// # Errors
/// - If the file is damaged, too large or of another type.
/// - If a tensor does not hold finite floating-point numbers.
/// - If a tensor occurs twice, under its current and its old name.
/// - An I/O error of the operating system.
pub(crate) fn read(path: &Path) -> Result<Tensors, InteropError> {
    let tensors = if path.extension().is_some_and(|extension| extension == "safetensors") {
        read_safetensors(path)?
    } else {
        read_pickle(path)?
    };
    let mut renamed = Tensors::new();
    for (name, tensor) in tensors {
        let problem =
            |problem: String| InteropError::unusable(path, format!("tensor `{name}` {problem}"));
        if !matches!(tensor.dtype(), DType::F32 | DType::F16 | DType::BF16 | DType::F64) {
            return Err(problem(format!(
                "has type {:?}; weights must be floating-point numbers",
                tensor.dtype()
            )));
        }
        let tensor = tensor.to_dtype(DType::F32).and_then(|tensor| flatten_linear(&name, tensor));
        let tensor = tensor.map_err(|e| problem(format!("cannot be read: {e}")))?;
        let finite = tensor.abs().and_then(|t| t.flatten_all()?.max(0)?.to_scalar::<f32>());
        if tensor.elem_count() > 0 && !finite.is_ok_and(f32::is_finite) {
            return Err(problem("holds numbers that are not finite".to_owned()));
        }
        if renamed.insert(current_name(&name), tensor).is_some() {
            return Err(problem(
                "occurs twice, once under its name in old versions of diffusers".to_owned(),
            ));
        }
    }
    Ok(renamed)
}

fn read_safetensors(path: &Path) -> Result<Tensors, InteropError> {
    let length = length_within(path, MAX_BYTES)?;
    let damaged = |problem: String| {
        InteropError::unusable(path, format!("not a whole safetensors file: {problem}"))
    };
    let bytes = read_limited(path, MAX_BYTES)?;
    let Some(header) = bytes.first_chunk().map(|bytes| u64::from_le_bytes(*bytes)) else {
        return Err(damaged(format!("it has {length} bytes")));
    };
    if header > MAX_HEADER {
        return Err(damaged(format!(
            "its header would have {header} bytes; expected at most {MAX_HEADER}"
        )));
    }
    SafeTensors::deserialize(&bytes).map_err(|e| damaged(e.to_string()))?;
    let tensors = candle_core::safetensors::load_buffer(&bytes, &Device::Cpu);
    Ok(tensors.map_err(|e| damaged(e.to_string()))?.into_iter().collect())
}

fn read_pickle(path: &Path) -> Result<Tensors, InteropError> {
    let length = length_within(path, MAX_BYTES)?;
    let damaged = |problem: String| {
        InteropError::unusable(
            path,
            format!("not a state dict that can be read ({problem}); save it as {FILE}"),
        )
    };
    // In places the reader assumes that PyTorch wrote the file, and it recurses as deep as the file
    // requires. On its own thread a panic ends only that thread, and the stack is large.
    let owned_path = path.to_owned();
    let reader = std::thread::Builder::new().stack_size(PICKLE_STACK);
    let reader = reader
        .spawn(move || pickle::PthTensors::new(owned_path, None))
        .map_err(FileError::io(path))?;
    let file = reader
        .join()
        .map_err(|_| damaged("it is damaged".to_owned()))?
        .map_err(|e| damaged(e.to_string()))?;
    let mut claimed = 0u64;
    for info in file.tensor_infos().values() {
        let dims = info.layout.dims().iter().map(|&dim| dim as u64);
        let size = dims.fold(info.dtype.size_in_bytes() as u64, u64::saturating_mul);
        claimed = claimed.saturating_add(size);
    }
    if claimed > length {
        return Err(damaged(format!(
            "its header states {claimed} bytes of numbers, but it has only {length} bytes"
        )));
    }
    let mut tensors = Tensors::new();
    for name in file.tensor_infos().keys() {
        if let Some(tensor) =
            file.get(name).map_err(|e| damaged(format!("tensor `{name}`: {e}")))?
        {
            tensors.insert(name.clone(), tensor);
        }
    }
    if tensors.is_empty() {
        return Err(damaged("it contains no named tensors".to_owned()));
    }
    Ok(tensors)
}

/// The layers of attention: the names in old versions of diffusers, and the current names.
const ATTENTION: [(&str, &str); 4] =
    [("query", "to_q"), ("key", "to_k"), ("value", "to_v"), ("proj_attn", "to_out.0")];

/// Splits `….attentions.N.LAYER.KIND` before and after LAYER.
fn attention_layer(name: &str) -> Option<(&str, &str, &str)> {
    let start = name.find("attentions.")? + "attentions.".len();
    let start = start + name[start..].find('.')? + 1;
    let end = start + name[start..].rfind('.')?;
    Some((&name[..start], &name[start..end], &name[end..]))
}

fn current_name(name: &str) -> String {
    let current = attention_layer(name).and_then(|(before, layer, after)| {
        let (_, new) = ATTENTION.iter().find(|(old, _)| *old == layer)?;
        Some(format!("{before}{new}{after}"))
    });
    current.unwrap_or_else(|| name.to_owned())
}

/// Reshapes the weight of a linear layer of attention from (C, C, 1, 1) to (C, C). Old versions of
/// diffusers had 1×1 convolutions there.
fn flatten_linear(name: &str, tensor: Tensor) -> candle_core::Result<Tensor> {
    let is_linear = attention_layer(name).is_some_and(|(_, layer, kind)| {
        kind == ".weight" && ATTENTION.iter().any(|(old, new)| [*old, *new].contains(&layer))
    });
    match tensor.dims() {
        [rows, columns, rest @ ..]
            if is_linear && !rest.is_empty() && rest.iter().all(|dim| *dim == 1) =>
        {
            tensor.reshape((*rows, *columns))
        }
        _ => Ok(tensor),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn old_names_of_attention_become_current_ones() {
        let cases = [
            ("mid_block.attentions.0.query.weight", "mid_block.attentions.0.to_q.weight"),
            ("down_blocks.1.attentions.2.key.bias", "down_blocks.1.attentions.2.to_k.bias"),
            ("up_blocks.0.attentions.1.value.weight", "up_blocks.0.attentions.1.to_v.weight"),
            ("mid_block.attentions.0.proj_attn.bias", "mid_block.attentions.0.to_out.0.bias"),
            ("mid_block.attentions.0.to_out.0.bias", "mid_block.attentions.0.to_out.0.bias"),
            ("mid_block.attentions.0.group_norm.bias", "mid_block.attentions.0.group_norm.bias"),
            ("mid_block.resnets.0.conv1.weight", "mid_block.resnets.0.conv1.weight"),
            ("attentions.", "attentions."),
        ];
        for (old, new) in cases {
            assert_eq!(current_name(old), new);
        }
    }

    #[test]
    fn convolutions_of_attention_become_linear() {
        let tensor = |shape: &[usize]| Tensor::zeros(shape, DType::F32, &Device::Cpu).unwrap();
        let dims =
            |name, shape: &[usize]| flatten_linear(name, tensor(shape)).unwrap().dims().to_vec();
        assert_eq!(dims("mid_block.attentions.0.query.weight", &[4, 4, 1, 1]), [4, 4]);
        assert_eq!(dims("mid_block.attentions.0.to_out.0.weight", &[4, 4, 1]), [4, 4]);
        assert_eq!(dims("mid_block.attentions.0.to_q.weight", &[4, 4, 3, 3]), [4, 4, 3, 3]);
        assert_eq!(dims("mid_block.resnets.0.conv_shortcut.weight", &[4, 4, 1, 1]), [4, 4, 1, 1]);
    }
}
