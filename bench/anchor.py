"""Trains a U-Net of diffusers on coloured pictures in class folders, as a user of PyTorch would, and
samples from it. `cargo xtask anchor` calls it.

usage: anchor.py --data train.tar --minutes 10 --out samples.npy [--channels 64,128,128] [--layers 1]
                 [--batch 64] [--lr 1e-3] [--num 10000] [--guidance 1,1.5] [--threads 2] [--seed 0]

The recipe: v-prediction on the cosine schedule, class conditioning with dropout of 0.1, AdamW, a
cosine decay over the time, an EMA, mirrored pictures, bf16 autocast, channels last, and
torch.compile if it is faster. Only the time of training counts towards the minutes, compilation
does not. Samples are of DPM-Solver++ 2M SDE with 20 steps, with classes in turn, and are written as
float32 (N, 3, H, W) in [-1, 1] to one file per guidance scale.
"""
import argparse
import io
import json
import math
import tarfile
import time
from pathlib import Path

import numpy as np
import torch
from diffusers import DPMSolverMultistepScheduler, UNet2DModel
from PIL import Image
from torch.nn import functional as F

parser = argparse.ArgumentParser()
parser.add_argument("--data", required=True)
parser.add_argument("--minutes", type=float, required=True)
parser.add_argument("--out", required=True)
parser.add_argument("--channels", default="64,128,128")
parser.add_argument("--layers", type=int, default=1)
parser.add_argument("--batch", type=int, default=64)
parser.add_argument("--lr", type=float, default=1e-3)
parser.add_argument("--num", type=int, default=10_000)
parser.add_argument("--guidance", default="1,1.5")
parser.add_argument("--threads", type=int, default=2)
parser.add_argument("--seed", type=int, default=0)
args = parser.parse_args()

torch.set_num_threads(args.threads)
torch.manual_seed(args.seed)
T = 1000
DROPOUT = 0.1


def load(path):
    """The pictures (N, 3, H, W) in [-1, 1] and their classes, from a tar file of class folders."""
    pictures, names = [], []
    with tarfile.open(path) as tar:
        for member in tar:
            if member.isfile() and member.name.lower().endswith((".jpg", ".jpeg", ".png")):
                picture = Image.open(io.BytesIO(tar.extractfile(member).read())).convert("RGB")
                pictures.append(np.asarray(picture))
                names.append(Path(member.name).parent.name)
    classes = sorted(set(names))
    pixels = torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2)
    return pixels, torch.tensor([classes.index(name) for name in names]), classes


pictures, labels, classes = load(args.data)
side, none = pictures.shape[-1], len(classes)
channels = [int(width) for width in args.channels.split(",")]
levels = len(channels)
network = UNet2DModel(
    sample_size=side, in_channels=3, out_channels=3, layers_per_block=args.layers,
    block_out_channels=channels, num_class_embeds=none + 1,
    down_block_types=["DownBlock2D"] * (levels - 1) + ["AttnDownBlock2D"],
    up_block_types=["AttnUpBlock2D"] + ["UpBlock2D"] * (levels - 1),
).to(memory_format=torch.channels_last)
average = UNet2DModel.from_config(network.config).to(memory_format=torch.channels_last)
average.load_state_dict(network.state_dict())
optimizer = torch.optim.AdamW(network.parameters(), lr=args.lr, weight_decay=0.0, fused=True)
steps = torch.arange(T + 1, dtype=torch.float64) / T
bar = torch.cos((steps + 0.008) / 1.008 * math.pi / 2) ** 2
betas = (1 - bar[1:] / bar[:-1]).clamp(max=0.999)
alphas_cumprod = torch.cumprod(1 - betas, 0).float()


def step(model, number, progress):
    chosen = torch.randint(len(pictures), (args.batch,))
    x0 = pictures[chosen].float() / 127.5 - 1
    flipped = torch.rand(args.batch) < 0.5
    x0[flipped] = x0[flipped].flip(-1)
    x0 = x0.to(memory_format=torch.channels_last)
    y = torch.where(torch.rand(args.batch) < DROPOUT, none, labels[chosen])
    t, noise = torch.randint(T, (args.batch,)), torch.randn_like(x0)
    ac = alphas_cumprod[t][:, None, None, None]
    x_t, v = ac.sqrt() * x0 + (1 - ac).sqrt() * noise, ac.sqrt() * noise - (1 - ac).sqrt() * x0
    with torch.autocast("cpu", torch.bfloat16):
        predicted = model(x_t, t, class_labels=y).sample
    loss = F.mse_loss(predicted.float(), v)
    optimizer.zero_grad()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
    warmup = min(1.0, (number + 1) / 100)
    for group in optimizer.param_groups:
        group["lr"] = args.lr * warmup * 0.5 * (1 + math.cos(math.pi * progress))
    optimizer.step()
    decay = min(0.999, (1 + number) / (10 + number))
    with torch.no_grad():
        torch._foreach_lerp_(list(average.parameters()), list(network.parameters()), 1 - decay)
    return loss.item()


def pace(model):
    for _ in range(3):
        step(model, 0, 1.0)
    begin = time.perf_counter()
    for _ in range(5):
        step(model, 0, 1.0)
    return (time.perf_counter() - begin) / 5


compiled = torch.compile(network, dynamic=False)
speeds = {"eager": pace(network), "compile": pace(compiled)}
model = compiled if speeds["compile"] < speeds["eager"] else network
print(f"seconds a step: {speeds}", flush=True)

number, begin, losses = 0, time.perf_counter(), []
limit = 60 * args.minutes
while (elapsed := time.perf_counter() - begin) < limit:
    losses.append(step(model, number, elapsed / limit))
    number += 1
    if number % 200 == 0:
        print(f"step {number}, loss {np.mean(losses[-200:]):.4f}, {elapsed:.0f} s", flush=True)
parameters = sum(p.numel() for p in network.parameters())
print(json.dumps({"steps": number, "parameters": parameters, "loss": float(np.mean(losses[-200:]))}))

average.eval()
for scale in [float(scale) for scale in args.guidance.split(",")]:
    torch.manual_seed(args.seed + 1)
    parts = []
    for first in range(0, args.num, 250):
        count = min(250, args.num - first)
        scheduler = DPMSolverMultistepScheduler(
            num_train_timesteps=T, beta_schedule="squaredcos_cap_v2", prediction_type="v_prediction",
            algorithm_type="sde-dpmsolver++", solver_order=2, thresholding=False,
            timestep_spacing="trailing")
        scheduler.set_timesteps(20)
        x = torch.randn(count, 3, side, side)
        y = (torch.arange(first, first + count) % none)
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
            for t in scheduler.timesteps:
                if scale == 1:
                    v = average(x, t, class_labels=y).sample.float()
                else:
                    both = average(torch.cat([x, x]), t,
                                   class_labels=torch.cat([y, torch.full_like(y, none)])).sample.float()
                    v = both[count:] + scale * (both[:count] - both[count:])
                x = scheduler.step(v, t, x).prev_sample
        parts.append(x.float().clamp(-1, 1).numpy())
    path = Path(args.out)
    path = path.with_name(f"{path.stem}-{scale}.npy")
    np.save(path, np.concatenate(parts))
    print(path, flush=True)
