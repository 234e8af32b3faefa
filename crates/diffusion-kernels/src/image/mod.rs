//! Kernels of one image, or of a few that stay in the cache, all with their channels last.
//!
//! Two convolutions, [`convolution`] for any kernel and [`winograd`] for 3 × 3 ones, with [`weight_gradient`]; [`norm`]
//! and [`attention`]; [`block`], the residual block; [`pixels`], [`window`] and [`transpose`] lay images out for them.
//! This room knows [`crate::arith`] and [`crate::memory`], but no tensors, no batches and no graph.

pub(crate) mod attention;
pub(crate) mod block;
pub(crate) mod convolution;
pub(crate) mod norm;
pub(crate) mod pixels;
pub(crate) mod transpose;
pub(crate) mod weight_gradient;
pub(crate) mod window;
pub(crate) mod winograd;
