//! The samplers by name.

use serde::{Deserialize, Serialize};

use crate::{
    Churn, Ddim, Ddpm, DpmSolver, Euler, EulerAncestral, FlowEuler, FlowHeun, Heun, Lms, Pndm,
    Sampler, SolverType, UniPc, VarianceType,
};

/// The samplers of this crate that a user can choose by name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SamplerKind {
    /// Ancestral sampling (Ho et al. 2020).
    #[default]
    Ddpm,
    /// Deterministic sampling with η = 0, stochastic with η > 0 (Song et al. 2021).
    Ddim,
    /// DPM-Solver++ 2M with the midpoint rule (Lu et al. 2022).
    #[serde(rename = "dpmpp-2m")]
    DpmSolver2m,
    /// DPM-Solver++ 2M with Heun's rule.
    #[serde(rename = "dpmpp-2m-heun")]
    DpmSolver2mHeun,
    /// DPM-Solver++ 2M SDE.
    #[serde(rename = "dpmpp-2m-sde")]
    DpmSolver2mSde,
    /// Euler's method in σ, with churn (Karras et al. 2022).
    Euler,
    /// Euler's method with ancestral noise.
    EulerAncestral,
    /// Heun's method in σ, with churn and two predictions per step (Karras et al. 2022, algorithm
    /// 2).
    Heun,
    /// UniPC of second order (Zhao et al. 2023).
    #[serde(rename = "unipc")]
    UniPc,
    /// Linear multistep method of fourth order in σ.
    Lms,
    /// Pseudo linear multistep method (Liu et al. 2022).
    Pndm,
    /// Euler's method on the straight path of flow matching.
    FlowEuler,
    /// Heun's method on the straight path of flow matching.
    FlowHeun,
}

/// Settings that only some samplers use.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct SamplerOptions {
    /// The variance of DDPM's steps.
    pub variance: VarianceType,
    /// DDIM's η. Default: 0.
    pub eta: f64,
    /// The churn of Euler's and Heun's method. Default: none.
    pub churn: Churn,
}

impl SamplerKind {
    /// All kinds, in the order of the documentation.
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

    /// The name in files and on the command line.
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

    /// The kind with the given name, or `None`.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == name)
    }

    /// Builds a sampler of this kind.
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

    /// Whether the sampler needs a plan on the straight path of flow matching.
    pub fn follows_flow(self) -> bool {
        matches!(self, Self::FlowEuler | Self::FlowHeun)
    }

    /// Whether the same initial noise always gives the same image.
    pub fn is_deterministic(self, options: &SamplerOptions) -> bool {
        match self {
            Self::Ddpm | Self::DpmSolver2mSde | Self::EulerAncestral => false,
            Self::Ddim => options.eta == 0.0,
            Self::Euler | Self::Heun => options.churn.amount == 0.0,
            _ => true,
        }
    }
}
