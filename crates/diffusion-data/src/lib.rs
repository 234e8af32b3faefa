//! Under construction.

#[cfg(feature = "hub")]
pub mod hub;
