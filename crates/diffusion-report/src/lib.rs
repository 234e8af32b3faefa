//! Charts, labelled sheets of pictures and HTML pages for diffusion models and their training runs.
//!
//! - [`Chart`] holds curves as data and writes them as PNG or SVG. The font is included, so a chart
//!   looks the same on every machine. Curves differ in lightness and dashes, so they can be told
//!   apart in greyscale.
//! - [`schedule_chart`], [`predictor_chart`] and [`model_chart`] build charts of noise schedules,
//!   of noise-prediction errors and of a model's losses.
//! - [`NetworkPicture`] draws the parts of a network as a row of boxes.
//! - [`sheet`] lays out pictures in rows and columns with labels. [`animation`] writes labelled
//!   pictures as a GIF.
//! - [`RunPage`] writes `index.html`, `loss.png` and `samples.gif` into the folder of a run.
//! - [`EventWriter`] writes event files for TensorBoard.
//!
//! This crate computes no metrics: it draws numbers and pictures that other crates computed.
//!
//! ```
//! use diffusion_report::{Chart, Curve, Panel, Scale};
//!
//! let panel = Panel {
//!     y: "loss".to_owned(),
//!     y_scale: Scale::Logarithmic,
//!     y_range: None,
//!     curves: vec![Curve::new("training", [(1.0, 1.0), (500.0, 0.2), (1000.0, 0.1)])],
//! };
//! let chart = Chart {
//!     title: "Loss".to_owned(),
//!     x: "step".to_owned(),
//!     x_scale: Scale::Linear,
//!     panels: vec![panel],
//! };
//! let path = std::env::temp_dir().join(format!("loss-{}.svg", std::process::id()));
//! chart.write(&path)?;
//! # std::fs::remove_file(&path)?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

// Drawing uses signed pixel coordinates; pictures store unsigned sizes.
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
