//! The samplers, one file each.

mod churn;
mod ddim;
mod ddpm;
mod dpm_solver;
mod euler;
mod euler_ancestral;
mod flow;
mod heun;
mod history;
mod lms;
mod pndm;
mod unipc;

pub use churn::Churn;
pub use ddim::Ddim;
pub use ddpm::Ddpm;
pub use dpm_solver::{DpmSolver, SolverType};
pub use euler::Euler;
pub use euler_ancestral::EulerAncestral;
pub use flow::{FlowEuler, FlowHeun};
pub use heun::Heun;
use history::History;
pub use lms::Lms;
pub use pndm::Pndm;
pub use unipc::{UniPc, Weighting};
