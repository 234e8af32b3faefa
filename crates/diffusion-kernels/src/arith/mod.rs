//! Arithmetic on slices, compiled for each instruction set.
//!
//! [`isa`] detects the instruction sets, [`product`] multiplies small matrices in registers, [`vector`] holds the short
//! loops. This room allocates no large buffers, starts no tasks, and knows neither images nor candle's tensors.

pub(crate) mod isa;
pub(crate) mod product;
pub(crate) mod vector;
