//! Arithmetic on slices, compiled for each instruction set.
//!
//! [`isa`] detects the instruction sets, [`product`] multiplies small matrices in registers,
//! [`format`] stores their factors in bf16, [`lanes`] holds 16 numbers in registers, and [`vector`]
//! has the short loops. This module allocates no large buffers, starts no tasks, and
//! does not use images or candle's tensors.

pub(crate) mod format;
pub(crate) mod isa;
pub(crate) mod lanes;
pub(crate) mod product;
pub(crate) mod vector;
