//! Behaviour of the schedulers of diffusers that `cargo xtask golden` found.

use diffusion_interop::{Scheduler, Steps};

/// σ at the start of the first and of the last of 10 steps.
fn ends(class: &str, spacing: &str, extra: &str) -> (f64, f64) {
    let json = format!(r#"{{"_class_name": "{class}", "timestep_spacing": "{spacing}"{extra}}}"#);
    let plan = Scheduler::from_json(&json).unwrap().plan(&Steps::Count(10)).unwrap();
    (plan.start().sigma(), plan.steps()[9].from.sigma())
}

#[test]
fn schedulers_in_sigma_space_sigmas_between_the_ends_of_the_timesteps() {
    for class in ["EulerDiscreteScheduler", "HeunDiscreteScheduler", "LMSDiscreteScheduler"] {
        for spacing in ["leading", "linspace", "trailing"] {
            let by_timestep = ends(class, spacing, "");
            for key in ["use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas"] {
                let spaced = ends(class, spacing, &format!(r#", "{key}": true"#));
                let close = |a: f64, b: f64| (a - b).abs() <= 1e-9 * b;
                assert!(
                    close(spaced.0, by_timestep.0) && close(spaced.1, by_timestep.1),
                    "{class} {spacing} {key}: {spaced:?}, expected {by_timestep:?}"
                );
            }
        }
    }
}

#[test]
fn multistep_solvers_space_sigmas_between_the_ends_of_the_table() {
    let karras = r#", "use_karras_sigmas": true"#;
    for class in ["DPMSolverMultistepScheduler", "UniPCMultistepScheduler"] {
        assert_eq!(ends(class, "leading", karras), ends(class, "linspace", karras), "{class}");
    }
}
