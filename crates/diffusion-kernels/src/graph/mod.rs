//! Differentiable operations over batches, as candle's graph sees them.
//!
//! [`feature_map`] is what networks use; [`map`] holds images and gradients beside the graph. [`op`] is the one candle
//! operation behind all others, which have a file each. [`tasks`] divides batches among threads; [`trace`] records
//! operations and their memory. This room knows [`crate::image`] and all below it, but no layers and no optimizers.

pub(crate) mod attention;
pub(crate) mod block;
pub(crate) mod convolution;
pub(crate) mod elementwise;
pub(crate) mod feature_map;
pub(crate) mod group_norm;
pub(crate) mod linear;
pub(crate) mod map;
pub(crate) mod op;
pub(crate) mod resample;
pub(crate) mod silu;
pub(crate) mod stack;
pub(crate) mod tasks;
pub(crate) mod trace;
pub(crate) mod turn;
