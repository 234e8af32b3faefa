//! Compares the project with numbers of established libraries; `golden/README.md` lists their
//! sources.

mod frechet;
mod losses;
mod models;
mod optim;
mod samplers;
mod schedules;
mod source;

#[test]
fn golden_schedule_tables_agree() {
    schedules::tables();
}

#[test]
fn golden_inference_timesteps_agree() {
    schedules::timesteps();
}

#[test]
fn golden_timesteps_of_all_numbers_of_steps_agree() {
    schedules::all_timesteps();
}

#[test]
fn golden_forward_process_agrees() {
    schedules::forward_process();
}

#[test]
fn golden_posterior_agrees() {
    schedules::posterior();
}

#[test]
fn golden_min_snr_weights_agree() {
    losses::min_snr_weights();
}

#[test]
fn golden_losses_agree() {
    losses::loss_example();
}

#[test]
fn golden_timestep_embedding_agrees() {
    source::timestep_embedding();
}

#[test]
fn golden_simple_unet_forward_and_gradients_agree() {
    source::forward_and_gradients();
}

#[test]
fn golden_simple_unet_training_and_sampling_agree() {
    source::training_and_sampling();
}

#[test]
fn golden_unet2d_models_agree() {
    models::outputs_and_gradients();
}

#[test]
fn golden_adamw_trajectories_agree() {
    optim::adamw();
}

#[test]
fn golden_ema_agrees() {
    optim::ema();
}

#[test]
fn golden_learning_rates_agree() {
    optim::learning_rates();
}

#[test]
fn golden_sampler_trajectories_agree() {
    samplers::trajectories();
}

#[test]
fn golden_noise_of_eulers_schedule_agrees() {
    samplers::euler_add_noise();
}

#[test]
fn golden_frechet_distances_agree() {
    frechet::distances();
}

/// Repeats the tests with each choice of kernels. `slow` is the one that devices other than the CPU
/// use.
#[test]
fn golden_numbers_hold_with_every_choice_of_kernels() {
    const NAME: &str = "golden_numbers_hold_with_every_choice_of_kernels";
    for kernels in ["avx2", "portable", "slow"] {
        let mut suite = std::process::Command::new(std::env::current_exe().unwrap());
        suite.args(["--skip", NAME]).env("DIFFUSION_KERNELS", kernels);
        let output = suite.output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && text.contains("test result: ok"), "{kernels}: {text}");
    }
}
