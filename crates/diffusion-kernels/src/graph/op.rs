//! The adapter from the kernels' operations to candle's custom operations.

use candle_core::{
    CpuStorage, CustomOp1, CustomOp2, CustomOp3, Layout, Result, Shape, Tensor, bail,
};

/// An argument of a forward pass: candle's memory, and the tensor's layout in it.
pub(crate) type Argument<'a> = (&'a CpuStorage, &'a Layout);

/// A differentiable operation of the kernels.
pub(crate) trait MapOp: Send + Sync + 'static {
    /// The name in candle's error messages.
    const NAME: &'static str;

    /// The result in candle's graph. By default it is the token of a map whose images are already
    /// computed.
    fn forward(&self, _: &[Argument<'_>]) -> Result<(CpuStorage, Shape)> {
        Ok((CpuStorage::F32(vec![0.0]), Shape::from(1)))
    }

    /// The gradients of the arguments, in their order, from the gradient of the result. Gradients
    /// beyond the number of arguments are ignored.
    fn backward(&self, arguments: &[&Tensor], gradient: &Tensor) -> Result<Vec<Option<Tensor>>>;
}

/// Applies `op` to one to three arguments.
pub(crate) fn apply<O: MapOp>(op: O, arguments: &[&Tensor]) -> Result<Tensor> {
    match arguments {
        [a] => a.apply_op1(Adapter(op)),
        [a, b] => a.apply_op2(b, Adapter(op)),
        [a, b, c] => a.apply_op3(b, c, Adapter(op)),
        _ => bail!(
            "{}: a candle operation takes one to three arguments, got {}",
            O::NAME,
            arguments.len()
        ),
    }
}

/// Implements candle's custom operations by a [`MapOp`].
struct Adapter<O>(O);

impl<O: MapOp> Adapter<O> {
    fn backward<const N: usize>(
        &self,
        arguments: [&Tensor; N],
        dy: &Tensor,
    ) -> Result<[Option<Tensor>; N]> {
        let mut gradients = self.0.backward(&arguments, dy)?.into_iter();
        Ok(arguments.map(|_| gradients.next().flatten()))
    }
}

impl<O: MapOp> CustomOp1 for Adapter<O> {
    fn name(&self) -> &'static str {
        O::NAME
    }

    fn cpu_fwd(&self, a: &CpuStorage, la: &Layout) -> Result<(CpuStorage, Shape)> {
        self.0.forward(&[(a, la)])
    }

    fn bwd(&self, a: &Tensor, _: &Tensor, dy: &Tensor) -> Result<Option<Tensor>> {
        self.backward([a], dy).map(|[da]| da)
    }
}

impl<O: MapOp> CustomOp2 for Adapter<O> {
    fn name(&self) -> &'static str {
        O::NAME
    }

    fn cpu_fwd(
        &self,
        a: &CpuStorage,
        la: &Layout,
        b: &CpuStorage,
        lb: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        self.0.forward(&[(a, la), (b, lb)])
    }

    fn bwd(
        &self,
        a: &Tensor,
        b: &Tensor,
        _: &Tensor,
        dy: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        self.backward([a, b], dy).map(|[da, db]| (da, db))
    }
}

impl<O: MapOp> CustomOp3 for Adapter<O> {
    fn name(&self) -> &'static str {
        O::NAME
    }

    fn cpu_fwd(
        &self,
        a: &CpuStorage,
        la: &Layout,
        b: &CpuStorage,
        lb: &Layout,
        c: &CpuStorage,
        lc: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        self.0.forward(&[(a, la), (b, lb), (c, lc)])
    }

    fn bwd(
        &self,
        a: &Tensor,
        b: &Tensor,
        c: &Tensor,
        _: &Tensor,
        dy: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        self.backward([a, b, c], dy).map(|[da, db, dc]| (da, db, dc))
    }
}
