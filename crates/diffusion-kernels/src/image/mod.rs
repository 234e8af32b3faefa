//! Kernels for one image, or for a few that stay in the cache, with channels last.
//!
//! [`convolution`] handles any kernel size, [`winograd`] 3 × 3 kernels; [`weight_gradient`] serves
//! both. [`norm`] and [`attention`] are further layers, [`block`] is the fused residual block.
//! [`pixels`], [`window`], [`words`] and [`transpose`] lay images out for them. This module uses
//! [`crate::arith`] and [`crate::memory`], but no tensors, batches or autograd graph.

pub(crate) mod attention;
pub(crate) mod block;
pub(crate) mod convolution;
pub(crate) mod mask;
pub(crate) mod norm;
pub(crate) mod pixels;
pub(crate) mod transpose;
pub(crate) mod weight_gradient;
pub(crate) mod window;
pub(crate) mod winograd;
pub(crate) mod words;
