//! Access to the memory of candle's tensors as slices.

use std::cell::RefCell;

use candle_core::{CpuStorage, DType, InplaceOp1, Layout, Result, Storage, Tensor, bail};

use crate::arith::isa::{Isa, selected};

/// The kernels' instruction set if they support all of `tensors` (`f32` on the CPU), otherwise
/// `None`.
pub(crate) fn kernels_for(tensors: &[&Tensor]) -> Option<Isa> {
    let fits = tensors.iter().all(|t| t.dtype() == DType::F32 && t.device().is_cpu());
    selected().filter(|_| fits)
}

/// The elements of a contiguous `f32` argument of a custom operation.
pub(crate) fn elements<'a>((storage, layout): (&'a CpuStorage, &Layout)) -> Result<&'a [f32]> {
    match (storage, layout.contiguous_offsets()) {
        (CpuStorage::F32(data), Some((begin, end))) => Ok(&data[begin..end]),
        (CpuStorage::F32(_), None) => bail!("the kernels need contiguous arguments"),
        _ => bail!("the kernels need f32 arguments"),
    }
}

/// Calls `f` with the elements of `tensors`, after making them contiguous.
pub(crate) fn with_elements<const N: usize, R>(
    tensors: [&Tensor; N],
    f: impl FnOnce([&[f32]; N]) -> Result<R>,
) -> Result<R> {
    with_all_elements(&tensors, |all| f(std::array::from_fn(|i| all[i])))
}

/// Like [`with_elements`], for any number of tensors.
pub(crate) fn with_all_elements<R>(
    tensors: &[&Tensor],
    f: impl FnOnce(&[&[f32]]) -> Result<R>,
) -> Result<R> {
    let contiguous: Vec<Tensor> =
        tensors.iter().map(|t| t.detach().contiguous()).collect::<Result<_>>()?;
    let guards: Vec<_> = contiguous.iter().map(Tensor::storage_and_layout).collect();
    let slices = guards.iter().map(|(storage, layout)| match &**storage {
        Storage::Cpu(cpu) => elements((cpu, layout)),
        _ => bail!("the kernels need arguments on the CPU"),
    });
    f(&slices.collect::<Result<Vec<_>>>()?)
}

/// The callback of [`with_elements_mut`].
type Change<'f> = dyn FnMut(&mut [&mut [f32]]) -> Result<()> + 'f;

/// Calls `f` with the elements of `tensors`, which it may change in place.
///
/// Two tensors that share memory would deadlock: compare their [`data_pointer`]s first.
///
/// # Errors
/// If a tensor is not contiguous `f32` on the CPU.
pub(crate) fn with_elements_mut(tensors: &[&Tensor], f: &mut Change<'_>) -> Result<()> {
    borrow_all(tensors, &mut [], f)
}

/// The address of a tensor's memory, to find tensors that share it.
pub(crate) fn data_pointer(tensor: &Tensor) -> Result<*const f32> {
    let (storage, _) = tensor.storage_and_layout();
    match &*storage {
        Storage::Cpu(CpuStorage::F32(data)) => Ok(data.as_ptr()),
        _ => bail!("the kernels need f32 arguments on the CPU"),
    }
}

/// Borrows `tensors` one inside the other, since candle lends the memory of one tensor at a time;
/// then calls `f`.
fn borrow_all(tensors: &[&Tensor], borrowed: &mut [&mut [f32]], f: &mut Change<'_>) -> Result<()> {
    match tensors {
        [] => f(borrowed),
        [first, rest @ ..] => {
            first.inplace_op1(&Borrow { rest, state: RefCell::new((borrowed, f)) })
        }
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
            bail!("the kernels can only change contiguous f32 tensors in place");
        };
        let mut state = self.state.borrow_mut();
        let (borrowed, f) = &mut *state;
        let mut borrowed: Vec<&mut [f32]> = borrowed.iter_mut().map(|slice| &mut **slice).collect();
        borrowed.push(&mut data[begin..end]);
        borrow_all(self.rest, &mut borrowed, f)
    }
}

/// The result of a custom operation's forward pass.
pub(crate) fn output(
    data: Vec<f32>,
    shape: impl Into<candle_core::Shape>,
) -> (CpuStorage, candle_core::Shape) {
    (CpuStorage::F32(data), shape.into())
}
