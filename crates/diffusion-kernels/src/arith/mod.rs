//! Arithmetic on slices, compiled for each instruction set.
//!
//! [`isa`] detects the instruction sets, [`product`] multiplies small matrices in registers,
//! [`format`] stores their factors in bf16, and [`vector`] holds the short loops. This module allocates no large buffers, starts no tasks, and
//! does not use images or candle's tensors.

pub(crate) mod format;
pub(crate) mod isa;
pub(crate) mod product;
pub(crate) mod vector;
