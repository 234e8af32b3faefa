//! The samplers by name.

use serde::{Deserialize, Serialize};

use crate::{
    Churn, Ddim, Ddpm, DpmSolver, Euler, EulerAncestral, FlowEuler, FlowHeun, Heun, Lms, Pndm,
    Sampler, SolverType, UniPc, VarianceType,
};

/// Every sampler of this crate, with what a user may choose of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SamplerKind {
    /// Ancestral sampling (Ho et al. 2020).
    #[default]
    Ddpm,
    /// Deterministic, or with η in between (Song et al. 2021).
    Ddim,
    /// DPM-Solver++ 2M with the midpoint rule (Lu et al. 2022).
    #[serde(rename = "dpmpp-2m")]
    DpmSolver2m,
    /// DPM-Solver++ 2M with Heun's rule.
    #[serde(rename = "dpmpp-2m-heun")]
    DpmSolver2mHeun,
    /// DPM-Solver++ 2M for the stochastic equation.
    #[serde(rename = "dpmpp-2m-sde")]
    DpmSolver2mSde,
    /// Euler's method in σ, with churn (Karras et al. 2022).
    Euler,
    /// Euler's method with ancestral noise.
    EulerAncestral,
    /// Heun's method in σ, with churn: two looks a step (Karras et al. 2022, algorithm 2).
    Heun,
    /// UniPC of second order (Zhao et al. 2023).
    #[serde(rename = "unipc")]
    UniPc,
    /// Linear multistep of fourth order in σ.
    Lms,
    /// Pseudo linear multistep (Liu et al. 2022).
    Pndm,
    /// Euler's method on the straight path of flow matching.
    FlowEuler,
    /// Heun's method on the straight path of flow matching.
    FlowHeun,
}

/// What some samplers can be told.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct SamplerOptions {
    /// DDPM's variance.
    pub variance: VarianceType,
    /// DDIM's η.
    pub eta: f64,
    /// Euler's and Heun's churn.
    pub churn: Churn,
}

impl SamplerKind {
    /// All of them, in the order of the documentation.
    pub const ALL: [Self; 13] = [
        Self::Ddpm,
        Self::Ddim,
        Self::DpmSolver2m,
        Self::DpmSolver2mHeun,
        Self::DpmSolver2mSde,
        Self::Euler,
        Self::EulerAncestral,
        Self::Heun,
        Self::UniPc,
        Self::Lms,
        Self::Pndm,
        Self::FlowEuler,
        Self::FlowHeun,
    ];

    /// The name, as in files and on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ddpm => "ddpm",
            Self::Ddim => "ddim",
            Self::DpmSolver2m => "dpmpp-2m",
            Self::DpmSolver2mHeun => "dpmpp-2m-heun",
            Self::DpmSolver2mSde => "dpmpp-2m-sde",
            Self::Euler => "euler",
            Self::EulerAncestral => "euler-ancestral",
            Self::Heun => "heun",
            Self::UniPc => "unipc",
            Self::Lms => "lms",
            Self::Pndm => "pndm",
            Self::FlowEuler => "flow-euler",
            Self::FlowHeun => "flow-heun",
        }
    }

    /// The sampler of the given name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == name)
    }

    /// A sampler of this kind, ready to begin.
    pub fn build(self, options: &SamplerOptions) -> Box<dyn Sampler> {
        let &SamplerOptions { variance, eta, churn } = options;
        match self {
            Self::Ddpm => Box::new(Ddpm { variance }),
            Self::Ddim => Box::new(Ddim { eta }),
            Self::DpmSolver2m => Box::new(DpmSolver::default()),
            Self::DpmSolver2mHeun => Box::new(DpmSolver::new(2, SolverType::Heun, false)),
            Self::DpmSolver2mSde => Box::new(DpmSolver::new(2, SolverType::Midpoint, true)),
            Self::Euler => Box::new(Euler { churn }),
            Self::EulerAncestral => Box::new(EulerAncestral),
            Self::Heun => Box::new(Heun { churn }),
            Self::UniPc => Box::new(UniPc::default()),
            Self::Lms => Box::new(Lms::default()),
            Self::Pndm => Box::new(Pndm::default()),
            Self::FlowEuler => Box::new(FlowEuler),
            Self::FlowHeun => Box::new(FlowHeun),
        }
    }

    /// Whether it follows the straight path of flow matching, and takes plans along it only.
    pub fn follows_flow(self) -> bool {
        matches!(self, Self::FlowEuler | Self::FlowHeun)
    }

    /// Whether the same noise always gives the same image.
    pub fn is_deterministic(self, options: &SamplerOptions) -> bool {
        match self {
            Self::Ddpm | Self::DpmSolver2mSde | Self::EulerAncestral => false,
            Self::Ddim => options.eta == 0.0,
            Self::Euler | Self::Heun => options.churn.amount == 0.0,
            _ => true,
        }
    }
}
