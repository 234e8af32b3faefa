"""Writes hashes of the timesteps of every scheduler class, for all numbers of steps.

usage: timesteps.py FILE

tests/golden/README.md describes the file.
"""

import json
import sys
from pathlib import Path

import diffusers
import numpy as np

TOTALS = [10, 37, 50, 64, 100, 200, 500, 999, 1000]
SPACINGS = [("leading", 0), ("leading", 1), ("linspace", 0), ("trailing", 0)]
# Without the last two, a timestep outside the schedule has no noise level.
CLASSES = [
    "DDPMScheduler", "DDIMScheduler", "PNDMScheduler", "DPMSolverMultistepScheduler", "EulerDiscreteScheduler",
    "EulerAncestralDiscreteScheduler", "HeunDiscreteScheduler", "UniPCMultistepScheduler", "LMSDiscreteScheduler",
]
BY_ALPHA = CLASSES[:3]
# The calls of PNDM differ from its steps. They are compared for small schedules.
LARGEST_OF_CALLS = 100


def digest(timesteps):
    """A hash of numbers in single precision, which depends on their order."""
    bits = np.asarray(timesteps, dtype=np.float32).view(np.uint32).astype(np.uint64)
    places = np.arange(len(bits), dtype=np.uint64) * np.uint64(2) + np.uint64(1)
    with np.errstate(over="ignore"):
        return int(((bits + np.uint64(1)) * places).sum(dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15))


def hashes(name, total, spacing, offset):
    """One hash for each number of steps; 0 where diffusers cannot take the steps."""
    extra = {"skip_prk_steps": False} if name == "PNDMScheduler" else {}
    scheduler = getattr(diffusers, name)(
        num_train_timesteps=total, timestep_spacing=spacing, steps_offset=offset, **extra)
    result = []
    for steps in range(1, total + 1):
        try:
            scheduler.set_timesteps(steps)
        except ValueError:
            # PNDM's Runge-Kutta steps need four timesteps.
            result.append(0)
            continue
        timesteps = scheduler.timesteps.numpy()
        if name == "HeunDiscreteScheduler":
            # Every step but the first evaluates the network twice at one timestep.
            timesteps = np.concatenate([timesteps[:1], timesteps[1::2]])
        if name == "PNDMScheduler" and total > LARGEST_OF_CALLS:
            timesteps = scheduler._timesteps[::-1]
        result.append(0 if name in BY_ALPHA and timesteps.max() >= total else digest(timesteps))
    return result


def main():
    rows = [
        {"class": name, "num_train_timesteps": total, "timestep_spacing": spacing, "steps_offset": offset,
         "hashes": hashes(name, total, spacing, offset)}
        for name in CLASSES for total in TOTALS for spacing, offset in SPACINGS
    ]
    Path(sys.argv[1]).write_text(json.dumps({"rows": rows}))
    print(f"  timesteps of {sum(len(row['hashes']) for row in rows)} plans")


if __name__ == "__main__":
    main()
