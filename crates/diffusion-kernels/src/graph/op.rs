//! The adapter from the kernels' operations to candle's custom operations.

// candle's custom operations take at most three arguments. An operation on more of them is a chain:
//
//     op(a, b, link)      link = Link(c, d, link)      link = Link(e, f)
//
// 1. A link has a token of one number as its result, so that candle visits it after the operation.
// 2. The operation computes the gradients of all arguments. It returns those of its own, and stores
//    the others for the links (`Later`), by the pass that computed them.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::ThreadId;

use candle_core::{
    CpuStorage, CustomOp1, CustomOp2, CustomOp3, DType, Device, Layout, Result, Shape, Tensor, bail,
};

use crate::graph::pass::{current_pass, hand_over};

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

/// Applies `op` to its arguments. If there are more than three, the result is a token.
pub(crate) fn apply<O: MapOp>(op: O, arguments: &[&Tensor]) -> Result<Tensor> {
    if let [first, second, others @ ..] = arguments
        && others.len() > 1
    {
        let later = Arc::new(Later::default());
        let arguments = arguments.iter().copied().cloned().collect();
        let chained = Chained { op, arguments, later: later.clone() };
        return apply_few(chained, &[first, second, &link(2, others, &later)?]);
    }
    apply_few(op, arguments)
}

/// Applies `op` to one to three arguments.
fn apply_few<O: MapOp>(op: O, arguments: &[&Tensor]) -> Result<Tensor> {
    match arguments {
        [a] => a.apply_op1(Adapter(op)),
        [a, b] => a.apply_op2(b, Adapter(op)),
        [a, b, c] => a.apply_op3(b, c, Adapter(op)),
        _ => bail!("{}: a candle operation takes one to three arguments", O::NAME),
    }
}

/// The gradients that an operation has computed for the links of its chain, by pass.
type Later = Mutex<HashMap<(ThreadId, u64), Vec<Option<Tensor>>>>;

/// An operation on more arguments than candle allows, with all of them.
struct Chained<O> {
    op: O,
    arguments: Vec<Tensor>,
    later: Arc<Later>,
}

impl<O: MapOp> MapOp for Chained<O> {
    const NAME: &'static str = O::NAME;

    fn backward(&self, own: &[&Tensor], gradient: &Tensor) -> Result<Vec<Option<Tensor>>> {
        let arguments: Vec<&Tensor> = self.arguments.iter().collect();
        let mut gradients = self.op.backward(&arguments, gradient)?;
        gradients.truncate(arguments.len());
        let own_gradients = gradients[..2].iter_mut().map(Option::take).collect();
        self.later.lock().unwrap_or_else(PoisonError::into_inner).insert(current_pass(), gradients);
        with_token(own_gradients, own[2])
    }
}

/// Two arguments of a chained operation, from `first` on, or three at its end.
struct Link {
    first: usize,
    is_last: bool,
    later: Arc<Later>,
}

/// The token of the arguments from index `first` on.
fn link(first: usize, arguments: &[&Tensor], later: &Arc<Later>) -> Result<Tensor> {
    let is_last = arguments.len() <= 3;
    let op = Link { first, is_last, later: later.clone() };
    match arguments {
        [a, b, others @ ..] if !is_last => apply_few(op, &[a, b, &link(first + 2, others, later)?]),
        _ => apply_few(op, arguments),
    }
}

impl MapOp for Link {
    const NAME: &'static str = "diffusion-arguments";

    fn backward(&self, own: &[&Tensor], _: &Tensor) -> Result<Vec<Option<Tensor>>> {
        let mut later = self.later.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(gradients) = later.get_mut(&current_pass()) else {
            bail!("{}: the operation has computed no gradients", Self::NAME);
        };
        let number = own.len() - usize::from(!self.is_last);
        let gradients: Vec<_> =
            gradients[self.first..][..number].iter_mut().map(Option::take).collect();
        if self.is_last {
            later.remove(&current_pass());
            return Ok(gradients);
        }
        with_token(gradients, own[2])
    }
}

/// Appends the gradient of a link's token.
fn with_token(mut gradients: Vec<Option<Tensor>>, token: &Tensor) -> Result<Vec<Option<Tensor>>> {
    let needed = token.track_op().then(|| Tensor::ones(1, DType::F32, &Device::Cpu));
    gradients.push(needed.transpose()?);
    Ok(gradients)
}

/// Implements candle's custom operations by a [`MapOp`].
struct Adapter<O>(O);

impl<O: MapOp> Adapter<O> {
    fn backward<const N: usize>(
        &self,
        arguments: [&Tensor; N],
        dy: &Tensor,
    ) -> Result<[Option<Tensor>; N]> {
        let gradients = self.0.backward(&arguments, dy)?;
        let mut all = std::array::from_fn(|_| None);
        for ((all, argument), gradient) in all.iter_mut().zip(arguments).zip(gradients) {
            if let Some(gradient) = gradient {
                *all = hand_over(argument, gradient)?;
            }
        }
        Ok(all)
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
