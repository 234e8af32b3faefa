"""Saves pipelines with diffusers, and compares samples with its own: see main()."""

import random
import sys
from pathlib import Path

import diffusers
import numpy as np
import reference
import torch
from safetensors.torch import load_file

STEPS = 5

def save(seed, folder):
    """Two random pipelines: one as safetensors, one as a pickle."""
    rng = random.Random(seed)
    torch.manual_seed(seed)
    for name, safe in [("safe", True), ("pickle", False)]:
        config = reference.model_config(rng) | {
            "in_channels": 3, "out_channels": 3, "num_class_embeds": None, "time_embedding_type": "positional",
        }
        kind, start, end = rng.choice([("linear", 1e-4, 0.02), ("scaled_linear", 0.00085, 0.012)])
        scheduler = diffusers.DDIMScheduler(
            num_train_timesteps=rng.choice([100, 500, 1000]), beta_schedule=kind, beta_start=start, beta_end=end,
            prediction_type=rng.choice(["epsilon", "sample", "v_prediction"]), timestep_spacing="trailing",
        )
        pipeline = diffusers.DDIMPipeline(unet=reference.shaken_model(config), scheduler=scheduler)
        pipeline.save_pretrained(folder / name, safe_serialization=safe)


def compare(folder, noise, samples):
    """DDIM from `noise` by the pipeline in `folder`, against the images in `samples`."""
    pipeline = diffusers.DDPMPipeline.from_pretrained(folder)
    pipeline.set_progress_bar_config(disable=True)
    pipeline(batch_size=1, num_inference_steps=2, output_type="np")
    scheduler = diffusers.DDIMScheduler.from_config(pipeline.scheduler.config, timestep_spacing="trailing")
    scheduler.set_timesteps(STEPS)
    x = load_file(noise)["noise"]
    with torch.no_grad():
        for t in scheduler.timesteps:
            output = pipeline.unet(x, t).sample
            x = scheduler.step(output, t, x, eta=0.0, use_clipped_model_output=True).prev_sample
    ours = torch.from_numpy(np.load(samples))
    difference = float((x.clamp(-1, 1) - ours).abs().max())
    print(f"  {folder}: the samples differ by {difference:.1e}")
    if ours.shape != x.shape or not difference < 1e-3 or float(ours.std()) < 1e-3:
        sys.exit(f"{folder}: {tuple(ours.shape)} differs from {tuple(x.shape)} by {difference}")


def main():
    """`save SEED FOLDER`, or `compare FOLDER NOISE SAMPLES`."""
    if sys.argv[1] == "save":
        save(int(sys.argv[2]), Path(sys.argv[3]))
    else:
        compare(Path(sys.argv[2]), sys.argv[3], sys.argv[4])


if __name__ == "__main__":
    main()
