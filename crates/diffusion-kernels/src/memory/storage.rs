//! From candle's tensors to slices and back.

use std::cell::RefCell;

use candle_core::{CpuStorage, DType, InplaceOp1, Layout, Result, Storage, Tensor, bail};

use crate::arith::isa::{Isa, chosen};

/// The instructions to use if all of `tensors` are what the kernels take: `f32` on the CPU.
pub(crate) fn kernels_for(tensors: &[&Tensor]) -> Option<Isa> {
    let fits = tensors.iter().all(|t| t.dtype() == DType::F32 && t.device().is_cpu());
    chosen().filter(|_| fits)
}

/// The elements of a contiguous `f32` argument of a custom operation.
pub(crate) fn elements<'a>((storage, layout): (&'a CpuStorage, &Layout)) -> Result<&'a [f32]> {
    match (storage, layout.contiguous_offsets()) {
        (CpuStorage::F32(data), Some((begin, end))) => Ok(&data[begin..end]),
        (CpuStorage::F32(_), None) => bail!("the kernels want contiguous arguments"),
        _ => bail!("the kernels want f32 arguments"),
    }
}

/// Calls `f` with the elements of `tensors`, which are brought into contiguous order first.
pub(crate) fn with_elements<const N: usize, R>(
    tensors: [&Tensor; N],
    f: impl FnOnce([&[f32]; N]) -> Result<R>,
) -> Result<R> {
    let contiguous: Vec<Tensor> =
        tensors.iter().map(|t| t.detach().contiguous()).collect::<Result<_>>()?;
    let guards: Vec<_> = contiguous.iter().map(Tensor::storage_and_layout).collect();
    let mut slices: [&[f32]; N] = [&[]; N];
    for (slice, (storage, layout)) in slices.iter_mut().zip(&guards) {
        match &**storage {
            Storage::Cpu(cpu) => *slice = elements((cpu, layout))?,
            _ => bail!("the kernels want arguments on the CPU"),
        }
    }
    f(slices)
}

/// What [`with_elements_mut`] calls.
type Change<'f> = dyn FnMut(&mut [&mut [f32]]) -> Result<()> + 'f;

/// Calls `f` with the elements of `tensors`, to be changed where they are.
///
/// # Errors
/// Tensors that are not contiguous `f32` on the CPU.
///
/// # Panics
/// Never, but a tensor whose memory is another's would be waited for without end: see [`memory`].
pub(crate) fn with_elements_mut(tensors: &[&Tensor], f: &mut Change<'_>) -> Result<()> {
    with_more_elements(tensors, &mut [], f)
}

/// Where the elements of a tensor begin, to find two that share them.
pub(crate) fn memory(tensor: &Tensor) -> Result<*const f32> {
    let (storage, _) = tensor.storage_and_layout();
    match &*storage {
        Storage::Cpu(CpuStorage::F32(data)) => Ok(data.as_ptr()),
        _ => bail!("the kernels want f32 arguments on the CPU"),
    }
}

/// candle lends one tensor's memory at a time: each is asked for while the ones before it are held.
fn with_more_elements(
    tensors: &[&Tensor],
    held: &mut [&mut [f32]],
    f: &mut Change<'_>,
) -> Result<()> {
    match tensors {
        [] => f(held),
        [first, rest @ ..] => first.inplace_op1(&Borrow { rest, state: RefCell::new((held, f)) }),
    }
}

struct Borrow<'a, 'h, 'f> {
    rest: &'a [&'a Tensor],
    state: RefCell<(&'a mut [&'h mut [f32]], &'a mut Change<'f>)>,
}

impl InplaceOp1 for Borrow<'_, '_, '_> {
    fn name(&self) -> &'static str {
        "diffusion-borrow"
    }

    fn cpu_fwd(&self, storage: &mut CpuStorage, layout: &Layout) -> Result<()> {
        let (CpuStorage::F32(data), Some((begin, end))) = (storage, layout.contiguous_offsets())
        else {
            bail!("the kernels change contiguous f32 tensors only");
        };
        let mut state = self.state.borrow_mut();
        let (held, f) = &mut *state;
        let mut held: Vec<&mut [f32]> = held.iter_mut().map(|slice| &mut **slice).collect();
        held.push(&mut data[begin..end]);
        with_more_elements(self.rest, &mut held, f)
    }
}

/// What a custom operation's forward pass returns.
pub(crate) fn output(
    data: Vec<f32>,
    shape: impl Into<candle_core::Shape>,
) -> (CpuStorage, candle_core::Shape) {
    (CpuStorage::F32(data), shape.into())
}
