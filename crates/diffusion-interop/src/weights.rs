//! Reads the weights of a model folder: a safetensors file, or a pickle, which is parsed and not
//! executed.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor, pickle};
use diffusion_files::FileError;
use safetensors::SafeTensors;
use serde_json::Value;

use crate::InteropError;
use crate::folder::{check_not_pointer, length_within, read_limited, read_object};

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

/// The files of weights of a model: one, or several parts of it.
pub(crate) type Files = Vec<PathBuf>;

/// Beginnings of the names of files that a training saves beside the weights.
const NOT_WEIGHTS: [&str; 4] = ["optimizer", "scheduler", "random_states", "scaler"];

/// The endings of files of weights.
const ENDINGS: [&str; 5] = ["safetensors", "bin", "pt", "pth", "ckpt"];

/// The files of weights in `folder`: the usual one, the parts that an index lists, or the only file
/// that can be one, such as `diffusion_pytorch_model.fp16.safetensors`.
///
/// # Errors
/// If there is no such file, or if several could be meant. If the index is invalid.
pub(crate) fn find(folder: &Path) -> Result<Files, InteropError> {
    let mut names: Vec<String> = fs::read_dir(folder)
        .map_err(FileError::io(folder))?
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .collect();
    names.sort();
    // As in diffusers, parts come before a single file. An index may be that of a variant, such as
    // `….index.fp16.json`.
    let is_index = |name: &&String| name.contains(".index.") && name.ends_with("json");
    let mut indexes: Vec<&String> = names.iter().filter(is_index).collect();
    indexes.sort_by_key(|name| !name.ends_with(".index.json"));
    if let Some(index) = indexes.first().filter(|name| name.ends_with(".index.json")) {
        return parts(folder, &folder.join(index));
    }
    if let Some(path) = FILES.iter().map(|name| folder.join(name)).find(|path| path.exists()) {
        return Ok(vec![path]);
    }
    if let [index] = indexes.as_slice() {
        return parts(folder, &folder.join(index));
    }
    let is_weights = |name: &&String| {
        let ending = name.rsplit_once('.').map_or("", |(_, ending)| ending);
        ENDINGS.contains(&ending) && !NOT_WEIGHTS.iter().any(|start| name.starts_with(start))
    };
    let candidates: Vec<&String> = names.iter().filter(is_weights).collect();
    let problem = match candidates.as_slice() {
        [only] => return Ok(vec![folder.join(only)]),
        [] => format!("this folder holds no weights: there is no {}", FILES.join(" and no ")),
        several => {
            let names: Vec<&str> = several.iter().map(|name| name.as_str()).collect();
            format!(
                "this folder holds several files of weights ({}); keep one of them, or rename it to \
                 {FILE}",
                names.join(", ")
            )
        }
    };
    Err(InteropError::unusable(folder, problem))
}

/// The files that an index of several parts lists. They must be in the folder of the index.
fn parts(folder: &Path, index: &Path) -> Result<Files, InteropError> {
    let problem = |problem: String| {
        let problem = format!("the weights are in several parts, but {problem}");
        InteropError::unusable(index, problem)
    };
    let fields = read_object(index)?;
    let map = fields.get("weight_map").and_then(Value::as_object);
    let map = map.ok_or_else(|| problem("this index has no `weight_map`".to_owned()))?;
    let names: BTreeSet<&str> = map.values().filter_map(Value::as_str).collect();
    let name = |name: &str| {
        let is_plain = !name.contains(['/', '\\']) && ![".", "..", ""].contains(&name);
        let path = folder.join(name);
        if is_plain && path.is_file() {
            return Ok(path);
        }
        Err(problem(format!("its part `{name}` is missing")))
    };
    let parts: Files = names.into_iter().map(name).collect::<Result<_, _>>()?;
    if parts.is_empty() {
        return Err(problem("its `weight_map` names none".to_owned()));
    }
    Ok(parts)
}

/// The tensors in all `files` of a model.
///
/// # Errors
/// If a file cannot be read as a state dict, or two files have a tensor of the same name.
pub(crate) fn read_all(files: &[PathBuf]) -> Result<Tensors, InteropError> {
    let mut all = Tensors::new();
    for path in files {
        for (name, tensor) in read(path)? {
            if all.contains_key(&name) {
                let problem = format!("tensor `{name}` is also in another part");
                return Err(InteropError::unusable(path, problem));
            }
            all.insert(name, tensor);
        }
    }
    Ok(all)
}

/// A tensor that every network has.
const FIRST_TENSOR: &str = "conv_in.weight";

/// The names without what wrappers put before all of them, such as `_orig_mod.` of a compiled
/// model, `module.` of data-parallel training or `ema_model.`. Counters of a wrapper are left out.
fn without_prefixes(tensors: Tensors) -> Tensors {
    let mut wrapped = tensors.keys().filter_map(|name| name.strip_suffix(FIRST_TENSOR));
    let (Some(prefix), None) = (wrapped.next(), wrapped.next()) else { return tensors };
    let belongs = |name: &str| name.starts_with(prefix);
    let is_counter = |tensor: &Tensor| tensor.elem_count() == 1;
    if !prefix.ends_with('.')
        || !tensors.iter().all(|(name, tensor)| belongs(name) || is_counter(tensor))
    {
        return tensors;
    }
    let prefix = prefix.to_owned();
    tensors
        .into_iter()
        .filter_map(|(name, tensor)| Some((name.strip_prefix(&prefix)?.to_owned(), tensor)))
        .collect()
}

/// The tensors in a file, as f32 and under their current names.
///
/// # Errors
/// - If the file is damaged, too large, a pointer of Git LFS, or of another type.
/// - If a tensor does not hold finite floating-point numbers.
/// - If a tensor occurs twice, under its current and its old name.
/// - An I/O error of the operating system.
pub(crate) fn read(path: &Path) -> Result<Tensors, InteropError> {
    length_within(path, MAX_BYTES)?;
    let mut head = Vec::new();
    let file = File::open(path).map_err(FileError::io(path))?;
    file.take(64).read_to_end(&mut head).map_err(FileError::io(path))?;
    check_not_pointer(path, &head)?;
    let tensors = if path.extension().is_some_and(|extension| extension == "safetensors") {
        read_safetensors(path)?
    } else {
        read_pickle(path)?
    };
    let mut renamed = Tensors::new();
    for (name, tensor) in without_prefixes(tensors) {
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
    let open = |key: Option<&'static str>| {
        let owned_path = path.to_owned();
        let reader = std::thread::Builder::new().stack_size(PICKLE_STACK);
        let reader = reader
            .spawn(move || pickle::PthTensors::new(owned_path, key))
            .map_err(FileError::io(path))?;
        let file = reader.join().map_err(|_| damaged("it is damaged".to_owned()))?;
        file.map_err(|e| damaged(explained(&e.to_string())))
    };
    let mut file = open(None)?;
    for key in STATE_KEYS {
        if !file.tensor_infos().is_empty() {
            break;
        }
        if let Ok(nested) = open(Some(key)) {
            file = nested;
        }
    }
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

/// Names under which trainings save the weights in a larger dictionary.
const STATE_KEYS: [&str; 6] = ["ema", "state_dict", "model_state_dict", "model", "module", "net"];

/// The error of the pickle reader, in other words where it does not say what to do.
fn explained(problem: &str) -> String {
    if problem.contains("EOCD") {
        return "it has the format of PyTorch before 1.6".to_owned();
    }
    problem.to_owned()
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
    fn prefixes_of_wrappers_are_removed_if_all_names_have_them() {
        let names = |names: &[&str]| {
            let tensor = Tensor::zeros(1, DType::F32, &Device::Cpu).unwrap();
            let tensors = names.iter().map(|name| ((*name).to_owned(), tensor.clone())).collect();
            without_prefixes(tensors).into_keys().collect::<Vec<_>>()
        };
        assert_eq!(names(&["_orig_mod.conv_in.weight", "_orig_mod.c"]), ["c", "conv_in.weight"]);
        let twice = names(&["module._orig_mod.conv_in.weight", "module._orig_mod.b"]);
        assert_eq!(twice, ["b", "conv_in.weight"]);
        // A tensor of one number may be a counter of the wrapper.
        assert_eq!(names(&["ema_model.conv_in.weight", "step"]), ["conv_in.weight"]);
        assert_eq!(names(&["conv_in.weight", "b"]), ["b", "conv_in.weight"]);
        assert_eq!(names(&["module.a", "b"]), ["b", "module.a"]);
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
