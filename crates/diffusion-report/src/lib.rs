//! Numbers for people who look rather than read: charts, labelled sheets of pictures, and the page of a run.
//!
//! [`Chart`] is data, drawn as PNG or SVG with a font that comes along, so that it looks the same everywhere; its curves differ
//! in lightness, dashes and marks, so that they stay apart in grey. [`sheet`] lays pictures out with names. The figures of the
//! project's own questions are [`schedule_chart`], [`predictor_chart`], [`model_chart`] and [`NetworkPicture`]. [`RunPage`] makes
//! `index.html`, `loss.png` and `samples.gif` of what a training has left in its folder.
//!
//! This crate computes nothing that it draws.

// Pixels are counted with signed numbers where they are drawn on, with unsigned ones where they are kept.
#![allow(clippy::cast_possible_wrap)]

mod chart;
mod error;
mod figures;
mod run;
mod sheet;
mod tensorboard;

pub use chart::{Chart, Curve, Panel, Scale};
pub use error::ReportError;
pub use figures::{NetworkBox, NetworkPicture, model_chart, predictor_chart, schedule_chart};
pub use run::{RunPage, animation};
pub use sheet::{Cell, sheet};
pub use tensorboard::EventWriter;
