//! Memory for working data and results.
//!
//! [`scratch`] lends working memory of a thread. [`uninit`] holds results that parallel tasks write
//! once. [`buffer`] recycles large buffers. [`storage`] turns candle's tensors into slices. This
//! module uses [`crate::arith`] only: no images and no operations.

pub(crate) mod buffer;
pub(crate) mod scratch;
pub(crate) mod storage;
pub(crate) mod uninit;
