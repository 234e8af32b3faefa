"""Compares samples of this project with samples by diffusers, and parses the scripts' arguments."""

import sys
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file

STEPS = 5


def compare(folder, scheduler, network, noise, samples):
    """Compares `samples` with DDIM from `noise` by `network`, a function of x and t."""
    scheduler.set_timesteps(STEPS)
    x = load_file(noise)["noise"]
    with torch.no_grad():
        for t in scheduler.timesteps:
            x = scheduler.step(network(x, t), t, x, eta=0.0, use_clipped_model_output=True).prev_sample
    images = torch.from_numpy(np.load(samples))
    difference = float((x.clamp(-1, 1) - images).abs().max())
    print(f"  {folder}: the samples differ by {difference:.1e}")
    if images.shape != x.shape or not difference < 1e-3 or float(images.std()) < 1e-3:
        sys.exit(f"{folder}: {tuple(images.shape)} differs from {tuple(x.shape)} by {difference}")


def main(save, compare_folder):
    """Runs `save SEED FOLDER` or `compare FOLDER NOISE SAMPLES`."""
    if sys.argv[1] == "save":
        save(int(sys.argv[2]), Path(sys.argv[3]))
    else:
        compare_folder(Path(sys.argv[2]), sys.argv[3], sys.argv[4])
