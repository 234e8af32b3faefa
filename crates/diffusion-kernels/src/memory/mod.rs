//! Where the numbers lie.
//!
//! [`scratch`] lends a thread's working memory, [`fresh`] results that tasks write once, [`buffer`] large blocks that the
//! next step uses again; [`storage`] turns candle's tensors into slices. This room knows [`crate::arith`] only: no
//! images and no operations.

pub(crate) mod buffer;
pub(crate) mod fresh;
pub(crate) mod scratch;
pub(crate) mod storage;
