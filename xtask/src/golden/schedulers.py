"""`save` writes pipelines with every scheduler class, `compare` samples them and compares the images from here.

usage: schedulers.py save SEED FOLDER
       schedulers.py compare FOLDER
"""

import random
import sys
from pathlib import Path

import diffusers
import numpy as np
import reference
import torch
from safetensors.torch import load_file

CLASSES = [name for name in reference.SAMPLERS if not name.startswith("EDM")]


def defaults(name):
    """The default settings of a class, with few timesteps so that many steps are fast."""
    return {"num_train_timesteps": 100}, 10


def options(rng, name):
    """Random settings and a random number of steps."""
    settings, steps, _, _ = reference.sampler_case(rng, name)
    return settings, steps


def converted(rng, name):
    """The settings of another random class, of which `name` ignores those that it does not have."""
    while True:
        other = rng.choice(CLASSES)
        settings, steps, _, _ = reference.sampler_case(rng, other)
        scheduler = getattr(diffusers, name).from_config(getattr(diffusers, other)(**settings).config)
        if scheduler.config.prediction_type == "sample" and name in ("PNDMScheduler", "EulerAncestralDiscreteScheduler"):
            continue
        scheduler.set_timesteps(steps)
        timesteps = scheduler.timesteps.tolist()
        if timesteps.count(timesteps[0]) == 1 and len(timesteps) >= steps:
            return scheduler, steps


def save(seed, folder):
    rng = random.Random(seed)
    torch.manual_seed(seed)
    for name in CLASSES:
        kinds = {"default": defaults(name), "random": options(rng, name), "converted": converted(rng, name)}
        for kind, (settings, steps) in kinds.items():
            config = reference.model_config(rng) | {
                "in_channels": 3, "out_channels": 3, "num_class_embeds": None, "time_embedding_type": "positional",
            }
            scheduler = settings if kind == "converted" else getattr(diffusers, name)(**settings)
            pipeline = diffusers.DDPMPipeline(unet=reference.shaken_model(config), scheduler=scheduler)
            path = folder / f"{name}-{kind}"
            pipeline.save_pretrained(path)
            # The pipeline's constructor replaces the scheduler by a DDPMScheduler's class of its own.
            scheduler.save_pretrained(path / "scheduler")
            (path / "steps").write_text(str(steps))
            np.save(path / "noise.npy", torch.randn(2, 3, 16, 16).numpy())
            print(f"  {name}, {kind}: {steps} steps, {dict(scheduler.config) if kind == 'converted' else settings}")


class DoubleTorch:
    """The module torch with double in place of single precision."""

    float32 = torch.float64

    def __getattr__(self, name):
        return getattr(torch, name)


def sample(path, dtype):
    """The images of the pipeline in `path` from its noise, as Python's pipelines compute them."""
    scheduler = scheduler_of(path)
    network = diffusers.UNet2DModel.from_pretrained(path / "unet", torch_dtype=dtype)
    module = sys.modules[type(scheduler).__module__]
    noise = load_file(path / "step-noise.safetensors")["noise"].to(dtype)
    x = torch.from_numpy(np.load(path / "noise.npy")).to(dtype) * scheduler.init_noise_sigma
    last = len(scheduler.timesteps) - 1
    original = module.torch
    if dtype == torch.float64:
        # Some schedulers convert to single precision.
        module.torch = DoubleTorch()
    with torch.no_grad():
        for k, t in enumerate(scheduler.timesteps):
            module.randn_tensor = lambda *_, k=k, **__: noise[last - k]
            output = network(scheduler.scale_model_input(x, t).to(dtype), t).sample
            x = scheduler.step(output, t, x).prev_sample
    module.torch = original
    return x.clamp(-1, 1)


def scheduler_of(path):
    """The scheduler of the pipeline in `path`, with its timesteps."""
    scheduler = getattr(diffusers, path.name.rsplit("-", 1)[0]).from_pretrained(path / "scheduler")
    scheduler.set_timesteps(int((path / "steps").read_text()))
    return scheduler


def compare(folder):
    failed = []
    for path in sorted(path for path in folder.iterdir() if path.is_dir()):
        expected = sample(path, torch.float32)
        images = torch.from_numpy(np.load(path / "samples" / "samples.npy"))
        difference = float((expected - images).abs().max())
        # Where the first σ is in the thousands, single precision itself has errors above 1e-4. Those of
        # another order of the network's sums, and of Winograd's method, are several times as large.
        rounding = float((expected - sample(path, torch.float64)).abs().max())
        largest = float(getattr(scheduler_of(path), "sigmas", torch.zeros(1)).max())
        allowed = max(1e-4, 8 * rounding, 1e-7 * largest)
        print(f"  {path.name}: the images differ by {difference:.1e}, allowed {allowed:.1e}")
        if not difference < allowed or float(images.std()) < 1e-3:
            failed.append(path.name)
    if failed:
        sys.exit(f"the images differ: {', '.join(failed)}")


if __name__ == "__main__":
    if sys.argv[1] == "save":
        save(int(sys.argv[2]), Path(sys.argv[3]))
    else:
        compare(Path(sys.argv[2]))
