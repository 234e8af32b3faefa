//! Differentiable operations over batches in candle's autograd graph.
//!
//! Networks use [`feature_map`]; [`map`] holds images and gradients outside of candle's graph.
//! [`op`] is the one candle operation behind all others, which have a file each. [`tasks`] divides
//! batches among threads, [`parallel`] runs several passes at the same time, [`pass`] keeps
//! backward passes apart, [`scope`] chooses f32 or bf16, and [`trace`] records operations and their
//! memory. This module uses [`crate::image`] and the modules below it, but no layers and no
//! optimisers.

pub(crate) mod attention;
pub(crate) mod block;
pub(crate) mod convert;
pub(crate) mod convolution;
pub(crate) mod dropout;
pub(crate) mod elementwise;
pub(crate) mod feature_map;
pub(crate) mod group_norm;
pub(crate) mod linear;
pub(crate) mod map;
pub(crate) mod op;
pub(crate) mod parallel;
pub(crate) mod pass;
pub(crate) mod resample;
pub(crate) mod scope;
pub(crate) mod silu;
pub(crate) mod stack;
pub(crate) mod tasks;
pub(crate) mod trace;
