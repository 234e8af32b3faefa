"""Writes golden numbers of diffusers with new random configurations.

usage: reference.py SEED FOLDER

tests/golden/README.md describes the format of the folder. The golden tests read the folder that the
variable DIFFUSION_GOLDEN_DIR names.
"""

import copy
import json
import math
import random
import sys
from pathlib import Path

import diffusers
import numpy as np
import torch
from safetensors.torch import save_file

SHAPE = (2, 3, 8, 8)

FAKES = {
    "tanh_cos": lambda x, t: 0.7 * math.cos(t / 300) * torch.tanh(x) + 0.1 * x,
    "tanh_cos1": lambda x, t: 0.7 * math.cos(t) * torch.tanh(x) + 0.1 * x,
}


def write(path, data):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(data, indent=1, allow_nan=False))


def write_tensors(path, tensors):
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({name: tensor.detach().contiguous() for name, tensor in tensors.items()}, str(path))


def betas_f64(config):
    """The betas by the schedule's formula, in double precision."""
    n, start, end = config["num_train_timesteps"], config["beta_start"], config["beta_end"]
    kind = config["beta_schedule"]
    if kind == "linear":
        betas = np.linspace(start, end, n)
    elif kind == "scaled_linear":
        betas = np.linspace(start**0.5, end**0.5, n) ** 2
    elif kind == "sigmoid":
        betas = (end - start) / (1 + np.exp(-np.linspace(-6, 6, n))) + start
    else:
        alpha = np.cos((np.arange(n + 1) / n + 0.008) / 1.008 * np.pi / 2) ** 2
        betas = np.minimum(1 - alpha[1:] / alpha[:-1], 0.999)
    if config.get("rescale_betas_zero_snr"):
        root = np.sqrt(np.cumprod(1 - betas))
        root = (root - root[-1]) * root[0] / (root[0] - root[-1])
        betas = 1 - np.append(root[0] ** 2, root[1:] ** 2 / root[:-1] ** 2)
    return betas


def schedules(rng, folder):
    entries, tensors = {}, {}
    for kind in ["linear", "scaled_linear", "squaredcos_cap_v2", "sigmoid"]:
        for rescale in [False, True]:
            steps = rng.randint(50, 1000)
            config = {
                "beta_schedule": kind,
                "num_train_timesteps": steps,
                "beta_start": rng.uniform(5e-5, 1e-3) * 1000 / steps,
                "beta_end": rng.uniform(0.01, 0.025) * 1000 / steps,
                "rescale_betas_zero_snr": rescale,
            }
            name = f"{kind}_T{steps}" + ("_zero_snr" if rescale else "")
            betas = betas_f64(config)
            scheduler = diffusers.DDPMScheduler(**config)
            spots = sorted(rng.sample(range(steps), 5))
            difference = np.abs(scheduler.betas.double().numpy() - betas) / betas
            entries[name] = config | {
                "spot_index": spots,
                "spot_betas_f64": [float(betas[i]) for i in spots],
                "max_rel_diff_f32_vs_f64_betas": float(difference.max()),
            }
            tensors |= {
                f"{name}/betas_f64": torch.from_numpy(betas),
                f"{name}/alphas_cumprod_f64": torch.from_numpy(np.cumprod(1 - betas)),
                f"{name}/betas_f32": scheduler.betas,
                f"{name}/alphas_cumprod_f32": scheduler.alphas_cumprod,
            }
    write(folder / "schedules/tables.json", {"entries": entries})
    write_tensors(folder / "schedules/tables.safetensors", tensors)


def spaced_sigmas(rng):
    """A random spacing of the noise levels."""
    kind = rng.choice([None, None, "use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas"])
    return {kind: True} if kind else {}


def sampler_case(rng, name):
    """Settings of a scheduler, its number of steps, arguments of `step`, and if it draws noise.

    The steps begin at different timesteps: with repeated ones, diffusers begins at the second and runs out of σ.
    """
    while True:
        settings, steps, arguments, noisy = any_sampler_case(rng, name)
        scheduler = getattr(diffusers, name)(**settings)
        scheduler.set_timesteps(steps)
        timesteps = scheduler.timesteps.tolist()
        if timesteps.count(timesteps[0]) == 1:
            return settings, steps, arguments, noisy


def any_sampler_case(rng, name):
    edm = name.startswith("EDM")
    steps, settings, arguments, noisy = rng.choice([5, 7, 8, 10, 13, 20]), {}, {}, False
    predictions = ["epsilon", "v_prediction"]
    if name not in ("PNDMScheduler", "EulerAncestralDiscreteScheduler") and not edm:
        predictions.append("sample")
    settings["prediction_type"] = rng.choice(predictions)
    if not edm:
        settings["num_train_timesteps"] = rng.choice([200, 500, 1000])
        kind, start, end = rng.choice([
            ("linear", 1e-4, 0.02), ("scaled_linear", 0.00085, 0.012), ("squaredcos_cap_v2", 1e-4, 0.02)])
        settings |= {"beta_schedule": kind, "beta_start": start, "beta_end": end}
        settings["timestep_spacing"] = rng.choice(["leading", "linspace", "trailing"])
        settings["steps_offset"] = rng.choice([0, 1])
    if name == "DDIMScheduler":
        settings |= {"clip_sample": rng.random() < 0.5, "set_alpha_to_one": rng.random() < 0.5}
        settings |= rng.choice([{}, {"clip_sample_range": 1.5}, {"thresholding": True, "sample_max_value": 2.0}])
        arguments["eta"] = rng.choice([0.0, 0.5, 1.0])
        noisy = arguments["eta"] > 0
    elif name == "DDPMScheduler":
        settings |= {"variance_type": rng.choice(["fixed_small", "fixed_large"]), "clip_sample": rng.random() < 0.5}
        noisy = True
    elif name == "DPMSolverMultistepScheduler":
        settings["algorithm_type"] = rng.choice(["dpmsolver++", "sde-dpmsolver++"])
        noisy = settings["algorithm_type"].startswith("sde")
        settings["solver_order"] = rng.choice([1, 2] if noisy else [1, 2, 3])
        settings["solver_type"] = rng.choice(["midpoint", "heun"])
        settings |= spaced_sigmas(rng) | rng.choice([{}, {"lambda_min_clipped": -5.1}, {"euler_at_final": True}])
    elif name == "UniPCMultistepScheduler":
        settings["solver_order"] = rng.choice([1, 2, 3])
        # diffusers gives NaN for the smallest σ at the end if σ are spaced, and for bh1 with σ = 0 at the end.
        smallest = {"final_sigmas_type": "sigma_min", "solver_type": rng.choice(["bh1", "bh2"])}
        settings |= rng.choice([spaced_sigmas(rng), smallest])
    elif name in ("EulerDiscreteScheduler", "HeunDiscreteScheduler", "LMSDiscreteScheduler"):
        settings |= spaced_sigmas(rng)
    elif name == "EulerAncestralDiscreteScheduler":
        noisy = True
    elif name == "PNDMScheduler":
        settings |= {"skip_prk_steps": rng.random() < 0.5, "set_alpha_to_one": rng.random() < 0.5}
    if name == "EulerDiscreteScheduler" and rng.random() < 0.5:
        arguments |= {"s_churn": 5.0, "s_tmin": 0.1, "s_tmax": 2.0, "s_noise": 1.01}
        noisy = True
    if name == "LMSDiscreteScheduler":
        arguments["order"] = rng.choice([2, 3, 4])
    return settings, steps, arguments, noisy


def trajectory(scheduler, steps, arguments, fake, x, noise, shake):
    """All states. `shake` is the size of a random relative error on all computed values."""
    module = sys.modules[type(scheduler).__module__]
    scheduler.set_timesteps(steps)
    error = lambda tensor: tensor * (1 + shake * (2 * torch.rand(tensor.shape) - 1)) if shake else tensor
    states = [x * scheduler.init_noise_sigma]
    for k, t in enumerate(scheduler.timesteps):
        module.randn_tensor = lambda *_, k=k, **__: noise[k]
        scaled = error(scheduler.scale_model_input(error(states[-1]), t))
        states.append(scheduler.step(error(fake(scaled, float(t))), t, states[-1], **arguments).prev_sample)
    return torch.stack(states).float()


def in_double(scheduler):
    """A copy of the scheduler with betas in double precision."""
    scheduler = copy.deepcopy(scheduler)
    if hasattr(scheduler, "betas"):
        scheduler.betas = torch.from_numpy(betas_f64(dict(scheduler.config)))
        scheduler.alphas = 1 - scheduler.betas
        scheduler.alphas_cumprod = torch.cumprod(scheduler.alphas, 0)
        if hasattr(scheduler, "final_alpha_cumprod") and not scheduler.config.set_alpha_to_one:
            scheduler.final_alpha_cumprod = scheduler.alphas_cumprod[0]
    return scheduler


def sampler(rng, name, folder):
    settings, steps, arguments, noisy = sampler_case(rng, name)
    scheduler = getattr(diffusers, name)(**settings)
    fake_name = "tanh_cos1" if name.startswith("EDM") else "tanh_cos"
    fake = FAKES[fake_name]
    scheduler.set_timesteps(steps)
    calls = len(scheduler.timesteps)
    x, noise = torch.randn(SHAPE), torch.randn(calls, *SHAPE)
    run = lambda of, shake=0.0: trajectory(copy.deepcopy(of), steps, arguments, fake, x, noise, shake)
    states, double = run(scheduler), in_double(scheduler)
    others = [run(double)] + [run(scheduler, 2.0**-22) for _ in range(4)]
    worst = max(float((other - states).abs().max()) for other in others)
    double.set_timesteps(steps)
    timesteps, sigmas = scheduler.timesteps.double(), getattr(scheduler, "sigmas", None)
    config = {k: v for k, v in dict(scheduler.config).items() if not k.startswith("_")}
    config = {k: None if isinstance(v, float) and math.isinf(v) else v for k, v in config.items()}
    case = {
        "id": "fresh",
        "class": name,
        "config": config,
        "num_inference_steps": steps,
        "custom_timesteps": None,
        "step_arguments": arguments,
        "fake_model": fake_name,
        "init_noise_sigma": float(scheduler.init_noise_sigma),
        "x_steps": list(range(calls + 1)),
        "timesteps": timesteps.tolist(),
        "timesteps_atol": 4 * float((double.timesteps.double() - timesteps).abs().max()) + (
            2e-3 if scheduler.timesteps.is_floating_point() else 0
        ),
        "sigmas": None,
        "atol_float64_table": max(1e-4, 6 * worst),
    }
    if sigmas is not None and len(sigmas) == calls + 1:
        sigmas, exact = sigmas.double(), double.sigmas.double()
        relative = ((sigmas - exact).abs() / exact.clamp(min=1e-12)).max()
        case |= {"sigmas": sigmas.tolist(), "sigmas_rtol_float64_table": 1e-5 + 2 * float(relative)}
    tensors = {"x_init": x, "fresh/x": states}
    if noisy:
        tensors["fresh/noise"] = noise
    file = folder / "samplers" / name
    write(file.with_suffix(".json"), {"cases": [case]})
    write_tensors(file.with_suffix(".safetensors"), tensors)
    print(f"  {name}: {settings}, {steps} steps, {arguments}")


def model_config(rng):
    groups, levels = rng.choice([2, 4]), rng.choice([1, 2, 3])
    choice = lambda *values: rng.choice(values)
    return {
        "sample_size": 16,
        "in_channels": choice(1, 3),
        "out_channels": choice(1, 3, 6),
        "center_input_sample": choice(False, True),
        "time_embedding_type": choice("positional", "positional", "fourier"),
        "freq_shift": choice(0, 1),
        "flip_sin_to_cos": choice(False, True),
        "block_out_channels": [choice(8, 16, 24) for _ in range(levels)],
        "down_block_types": [choice("DownBlock2D", "AttnDownBlock2D") for _ in range(levels)],
        "up_block_types": [choice("UpBlock2D", "AttnUpBlock2D") for _ in range(levels)],
        "layers_per_block": choice(1, 2),
        "downsample_padding": choice(0, 1),
        "downsample_type": choice("conv", "resnet"),
        "upsample_type": choice("conv", "resnet"),
        "attention_head_dim": choice(None, 4, 8),
        "norm_num_groups": groups,
        "attn_norm_num_groups": choice(None, 2),
        "norm_eps": choice(1e-5, 1e-6),
        "resnet_time_scale_shift": choice("default", "scale_shift"),
        "add_attention": choice(False, True),
        "mid_block_scale_factor": choice(1, 2**0.5),
        "num_class_embeds": choice(None, 7),
    }


def shaken_model(config):
    """A random network of diffusers without layers that are zero or the identity."""
    model = diffusers.UNet2DModel(**config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter) * (0.1 if parameter.dim() == 1 else 0.02))
    return model.eval()


def model(rng, name, folder):
    config = model_config(rng)
    model = shaken_model(config)
    sample = torch.randn(2, config["in_channels"], 16, 16)
    fourier = config["time_embedding_type"] == "fourier"
    timesteps = torch.tensor([rng.uniform(0.2, 4) for _ in range(2)] if fourier else [rng.randrange(1000) for _ in range(2)])
    labels = torch.tensor([1, 6]) if config["num_class_embeds"] else None
    with torch.no_grad():
        output = model(sample, timesteps, class_labels=labels).sample
    exact = copy.deepcopy(model).double()
    x = sample.double().requires_grad_()
    output_f64 = exact(x, timesteps.double() if fourier else timesteps, class_labels=labels).sample
    (output_f64**2).mean().backward()
    # The gradient of a bias before a normalisation may be only rounding error.
    graded = [n for n, p in exact.named_parameters() if p.grad is not None and p.grad.abs().max() > 1e-6]
    chosen = rng.sample(sorted(graded), min(12, len(graded)))
    parameters = dict(exact.named_parameters())
    io = {"sample": sample, "timesteps": timesteps, "output": output, "output_f64": output_f64}
    io |= {f"grad/{n}": parameters[n].grad.float() for n in chosen} | {"grad/sample": x.grad.float()}
    if labels is not None:
        io["class_labels"] = labels
    path = folder / "models" / name
    model.save_pretrained(path)
    write_tensors(path / "io.safetensors", io)
    write(path / "case.json", {
        "parameter_count": sum(p.numel() for p in model.parameters()),
        "atol_output": 5e-5 * max(1.0, float(output.abs().max())),
        "atol_grad_relative_to_max_abs_grad": 5e-4,
        "atol_grad_floor": 1e-7,
    })
    print(f"  {name}: {config}")


SAMPLERS = [
    "DDPMScheduler", "DDIMScheduler", "DPMSolverMultistepScheduler", "EulerDiscreteScheduler",
    "EulerAncestralDiscreteScheduler", "HeunDiscreteScheduler", "UniPCMultistepScheduler", "LMSDiscreteScheduler",
    "PNDMScheduler", "EDMEulerScheduler", "EDMDPMSolverMultistepScheduler",
]


def main():
    seed, folder = int(sys.argv[1]), Path(sys.argv[2])
    rng = random.Random(seed)
    torch.manual_seed(seed)
    torch.set_num_threads(1)
    schedules(rng, folder)
    for name in SAMPLERS:
        sampler(rng, name, folder)
    for number in range(4):
        model(rng, f"fresh_{number}", folder)


if __name__ == "__main__":
    main()
