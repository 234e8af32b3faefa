//! The precision of products, chosen for a whole computation.

use std::cell::Cell;

use crate::arith::format::Format;
use crate::arith::isa::selected;

/// The number format of the factors of products. Parameters, maps, gradients, sums, normalisations
/// and optimiser states are f32 in both.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Precision {
    /// 24 significant bits.
    #[default]
    F32,
    /// bfloat16: 8 significant bits and the range of f32. Needs a CPU with AVX512-BF16; on others,
    /// the kernels compute in f32.
    Bf16,
}

impl Precision {
    /// Whether the kernels can compute in this precision on this CPU.
    #[must_use]
    pub fn is_available(self) -> bool {
        let format = match self {
            Self::F32 => Format::F32,
            Self::Bf16 => Format::Bf16,
        };
        selected().is_some_and(|isa| isa.in_precision(self).format() == format)
    }
}

thread_local! {
    static CURRENT: Cell<Precision> = const { Cell::new(Precision::F32) };
}

/// The precision that the innermost [`autocast`] around the caller chose.
pub(crate) fn current_precision() -> Precision {
    CURRENT.get()
}

/// Restores the precision when dropped, also by a panic.
struct Restore(Precision);

impl Drop for Restore {
    fn drop(&mut self) {
        CURRENT.set(self.0);
    }
}

/// Runs `f`. Networks that it calls multiply in `precision`, also in their backward pass, which may
/// run later. Outside of this function the precision is f32.
///
/// The choice holds on this thread, and on the pool's threads for what it runs by
/// [`in_pool`](crate::in_pool).
pub fn autocast<R>(precision: Precision, f: impl FnOnce() -> R) -> R {
    let _restore = Restore(CURRENT.replace(precision));
    f()
}
