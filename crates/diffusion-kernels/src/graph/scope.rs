//! Settings for a whole computation: the precision of products, and what is kept for the backward
//! pass.

use std::cell::Cell;

use candle_core::{DType, Device, Tensor};

use crate::arith::format::Format;
use crate::arith::isa::selected;

/// The number format of the factors in convolutions and attention. Parameters, maps, gradients,
/// sums, normalisations, linear layers and optimiser states are f32 in both. A GPU rounds the
/// results of products to the format, too.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Precision {
    /// 24 significant bits.
    #[default]
    F32,
    /// bfloat16: 8 significant bits and the range of f32. Needs a CPU with AVX512-BF16 or a GPU
    /// with bf16; other CPUs compute in f32.
    Bf16,
}

impl Precision {
    /// Whether networks on `device` can compute in this precision.
    #[must_use]
    pub fn is_available(self, device: &Device) -> bool {
        let format = match self {
            Self::F32 => return true,
            Self::Bf16 => Format::Bf16,
        };
        if device.is_cpu() {
            return selected().is_some_and(|isa| isa.in_precision(self).format() == format);
        }
        // Older GPUs have no products in bf16.
        let product = || {
            let one = Tensor::ones((1, 1), DType::F32, device)?.to_dtype(DType::BF16)?;
            one.matmul(&one)?.to_dtype(DType::F32)?.to_vec2::<f32>()
        };
        product().is_ok()
    }
}

/// The settings of the networks that a computation runs.
#[derive(Clone, Copy)]
pub(crate) struct Scope {
    pub precision: Precision,
    /// Whether residual blocks compute their hidden maps again in the backward pass.
    pub checkpointing: bool,
    /// Whether a network computes its batch in one pass, so that the pass can be observed.
    pub whole_batches: bool,
}

impl Scope {
    const DEFAULT: Self =
        Self { precision: Precision::F32, checkpointing: false, whole_batches: false };
}

thread_local! {
    static CURRENT: Cell<Scope> = const { Cell::new(Scope::DEFAULT) };
}

/// The settings around the caller.
pub(crate) fn current_scope() -> Scope {
    CURRENT.get()
}

/// Restores the settings when dropped, also by a panic.
struct Restore(Scope);

impl Drop for Restore {
    fn drop(&mut self) {
        CURRENT.set(self.0);
    }
}

/// Runs `f` with these settings.
pub(crate) fn within<R>(scope: Scope, f: impl FnOnce() -> R) -> R {
    let _restore = Restore(CURRENT.replace(scope));
    f()
}

/// Runs `f`. Networks that it calls multiply in `precision`, also in their backward pass, which may
/// run later. Outside of this function the precision is f32.
///
/// The choice holds on this thread, and on other threads for what it runs by
/// [`in_pool`](crate::in_pool), [`in_parallel`](crate::in_parallel) and
/// [`in_parts`](crate::in_parts).
pub fn autocast<R>(precision: Precision, f: impl FnOnce() -> R) -> R {
    within(Scope { precision, ..current_scope() }, f)
}

/// Runs `f`. If `enabled`, the residual blocks of networks that it calls keep only their inputs,
/// and compute their hidden maps again in the backward pass (Chen et al. 2016). This takes less
/// memory and more time; results have the same bits.
///
/// The choice holds where that of [`autocast`] does.
pub fn checkpoint_activations<R>(enabled: bool, f: impl FnOnce() -> R) -> R {
    within(Scope { checkpointing: enabled, ..current_scope() }, f)
}

/// Runs `f`. Networks that it calls do not divide their batches among threads.
pub(crate) fn with_whole_batches<R>(f: impl FnOnce() -> R) -> R {
    within(Scope { whole_batches: true, ..current_scope() }, f)
}
