//! Behaviour of the schedulers of diffusers that `cargo xtask golden` found.

use diffusion_interop::{Scheduler, StepArguments, Steps};

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

#[test]
fn settings_that_a_class_does_not_have_are_ignored_as_in_diffusers() {
    let threshold = |class: &str| {
        let json = format!(
            r#"{{"_class_name": "{class}", "thresholding": true, "variance_type": "fixed_large",
                "solver_type": "bh1", "interpolation_type": "log_linear", "sigma_min": 0.05,
                "final_sigmas_type": "sigma_min", "num_train_timesteps": 100}}"#
        );
        Scheduler::from_json(&json).map(|scheduler| scheduler.threshold(&StepArguments::default()))
    };
    for class in ["PNDMScheduler", "HeunDiscreteScheduler", "LMSDiscreteScheduler"] {
        assert_eq!(threshold(class).unwrap(), None, "{class}");
    }
    assert!(threshold("DDIMScheduler").unwrap().is_some());
    let error = threshold("EulerDiscreteScheduler").unwrap_err().to_string();
    assert!(error.contains("`interpolation_type`"), "Euler has this setting: {error}");
    let end = |class: &str| {
        let json = format!(r#"{{"_class_name": "{class}", "final_sigmas_type": "sigma_min"}}"#);
        let plan = Scheduler::from_json(&json).unwrap().plan(&Steps::Count(5)).unwrap();
        plan.steps()[4].to.sigma()
    };
    assert_eq!(end("HeunDiscreteScheduler"), 0.0);
    assert!(end("EulerDiscreteScheduler") > 0.0);
}

#[test]
fn an_unknown_class_is_named_before_its_settings() {
    let error = |json: &str| Scheduler::from_json(json).unwrap_err().to_string();
    let other = error(r#"{"_class_name": "ScoreSdeVeScheduler", "correct_steps": 1}"#);
    assert!(other.contains("`ScoreSdeVeScheduler` is not supported"), "{other}");
    assert!(error("{}").contains("it has no `_class_name`"));
}

#[test]
fn the_default_number_of_steps_begins_near_noise() {
    for (class, total) in [
        ("DDIMScheduler", 99),
        ("EulerDiscreteScheduler", 99),
        ("PNDMScheduler", 60),
        ("UniPCMultistepScheduler", 37),
        ("DDIMScheduler", 1000),
        ("DDIMScheduler", 7),
    ] {
        let json = format!(
            r#"{{"_class_name": "{class}", "num_train_timesteps": {total},
                "timestep_spacing": "leading"}}"#
        );
        let scheduler = Scheduler::from_json(&json).unwrap();
        let plan = scheduler.plan(&Steps::Count(scheduler.default_steps())).unwrap();
        let share = plan.start().timestep / f64::from(total - 1);
        assert!(share > 0.85, "{class} {total}: begins at {share}");
    }
}
