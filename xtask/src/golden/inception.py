"""Writes features of pytorch-fid's network with weights that a formula defines.

usage: inception.py SEED FILE

The test in crates/diffusion-eval computes exactly the same weights and pictures, so the repository
needs no file of 90 MB.
"""

import json
import sys

import numpy as np
import pytorch_fid.inception as fid
import torch
import torchvision

seed, file = int(sys.argv[1]), sys.argv[2]
BATCHES = [(2, 3, 32, 32), (1, 3, 40, 28), (1, 1, 28, 28), (1, 3, 330, 310)]
SHOWN = 32  # every 32nd feature is written


def mixed(x):
    x = x ^ (x >> np.uint32(16))
    x = x * np.uint32(0x7FEB352D)
    x = x ^ (x >> np.uint32(15))
    x = x * np.uint32(0x846CA68B)
    return x ^ (x >> np.uint32(16))


def bits(stream, count):
    """The first `count` random 32-bit integers of a stream."""
    key = mixed(np.array([seed], np.uint32) + mixed(np.array([stream], np.uint32)))
    return mixed(mixed(np.arange(count, dtype=np.uint32)) + key)


def uniform(stream, shape, lowest, span):
    """Single-precision numbers in [lowest, lowest + span)."""
    unit = (bits(stream, int(np.prod(shape))) >> np.uint32(8)).astype(np.float32) * np.float32(2**-24)
    return torch.from_numpy((np.float32(lowest) + unit * np.float32(span)).reshape(shape))


def weights(state):
    """Fills the state dict of a network; returns its convolutions' names and shapes."""
    names = sorted(name.removesuffix(".conv.weight") for name in state if name.endswith(".conv.weight"))
    convolutions = [[name, list(state[f"{name}.conv.weight"].shape)] for name in names]
    for i, (name, shape) in enumerate(convolutions):
        span = np.float32(np.sqrt(24 / np.prod(shape[1:])))
        ranges = {
            "conv.weight": (-span / np.float32(2), span),
            "bn.weight": (0.75, 0.5),
            "bn.bias": (-0.5, 1),
            "bn.running_mean": (-0.25, 0.5),
            "bn.running_var": (0.5, 1),
        }
        for k, (part, (lowest, span)) in enumerate(ranges.items()):
            key = f"{name}.{part}"
            state[key] = uniform(5 * i + k, tuple(state[key].shape), lowest, span)
    return convolutions


def picture(index, shape):
    """A picture of bytes: gradients with noise."""
    c, y, x = np.indices(shape, dtype=np.uint32)
    noise = bits(1_000_000 + index, int(np.prod(shape))).reshape(shape) >> np.uint32(25)
    return (noise + (5 * x + (3 + index) * y + 40 * c) % 128).astype(np.uint8)


def rounded(values):
    return [float(f"{value:.9g}") for value in values]


state = torchvision.models.inception_v3(num_classes=1008, aux_logits=False, init_weights=False).state_dict()
convolutions = weights(state)
fid.load_state_dict_from_url = lambda *_, **__: state
network = fid.InceptionV3().eval()

batches, pictures = [], 0
for shape in BATCHES:
    images = np.stack([picture(pictures + i, shape[1:]) for i in range(shape[0])])
    pictures += shape[0]
    images = torch.from_numpy(images.astype(np.float32) / np.float32(255)).expand(-1, 3, -1, -1)
    with torch.no_grad():
        features = network(images)[0].flatten(1)
    batches.append({
        "shape": shape,
        "features": [rounded(row[::SHOWN].tolist()) for row in features],
        "mean": rounded(features.double().mean(1).tolist()),
        "norm": rounded(features.double().norm(dim=1).tolist()),
    })  # fmt: skip

with open(file, "w") as out:
    json.dump({"seed": seed, "convolutions": convolutions, "batches": batches}, out)
    out.write("\n")
print(f"  {pictures} pictures, norms {[round(n, 2) for b in batches for n in b['norm']]}")
