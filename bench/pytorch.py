"""The PyTorch worker of `cargo xtask bench`: the same networks and the same jobs as diffusion-bench.

usage: pytorch.py eager|compile nchw|channels_last f32|bf16 THREADS [cuda]

Reads one job per line (`train BATCH [NETWORK]`, `forward BATCH [NETWORK]`, `sample SAMPLER NUM STEPS
[NETWORK]`, `sgemm` or `memory`), runs it once and prints one number: milliseconds, GFLOP/s for
`sgemm`, or KiB for `memory` (the peak of the resident set).

A network is one of `networks.json`, built by diffusers (`unet2d-WIDTH-SIDE` scales its `unet2d`), or
`recipe` for the `mnist` preset with classes, Muon and guidance, or else that preset's network
without them. With `bf16`, networks run under `torch.autocast`. With `cuda`, they run on the first
CUDA device.
"""
import json
import math
import sys
import time
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F

T = 200
CLASSES = 10
GUIDANCE = 1.1


def now():
    """The time at which everything so far is computed, in seconds."""
    if torch.get_default_device().type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


class Residual(nn.Module):
    def __init__(self, cin, cout, time_dim):
        super().__init__()
        self.norm1, self.conv1 = nn.GroupNorm(8, cin), nn.Conv2d(cin, cout, 3, padding=1)
        self.time = nn.Linear(time_dim, cout)
        self.norm2, self.conv2 = nn.GroupNorm(8, cout), nn.Conv2d(cout, cout, 3, padding=1)
        self.skip = nn.Identity() if cin == cout else nn.Conv2d(cin, cout, 1)

    def forward(self, x, time):
        h = self.conv1(F.silu(self.norm1(x))) + self.time(time)[:, :, None, None]
        return self.conv2(F.silu(self.norm2(h))) + self.skip(x)


class SimpleUNet(nn.Module):
    def __init__(self, classes=0, channels=1, b=32, time_dim=128):
        super().__init__()
        # One more vector for images without a class.
        self.class_embedding = nn.Embedding(classes + 1, time_dim) if classes else None
        half = time_dim // 2
        self.register_buffer("frequencies", torch.exp(-math.log(10_000) * torch.arange(half) / (half - 1)))
        self.mlp = nn.Sequential(nn.Linear(time_dim, 4 * time_dim), nn.SiLU(), nn.Linear(4 * time_dim, time_dim))
        self.stem = nn.Conv2d(channels, b, 3, padding=1)
        self.enc1, self.down1 = Residual(b, b, time_dim), nn.Conv2d(b, b, 3, stride=2, padding=1)
        self.enc2, self.down2 = Residual(b, 2 * b, time_dim), nn.Conv2d(2 * b, 2 * b, 3, stride=2, padding=1)
        self.mid = Residual(2 * b, 2 * b, time_dim)
        self.up2, self.dec2 = nn.ConvTranspose2d(2 * b, 2 * b, 4, 2, 1), Residual(4 * b, b, time_dim)
        self.up1, self.dec1 = nn.ConvTranspose2d(b, b, 4, 2, 1), Residual(2 * b, b, time_dim)
        self.out = nn.Conv2d(b, channels, 1)

    def forward(self, x, t, classes=None):
        angles = t[:, None] * self.frequencies
        time = self.mlp(torch.cat([angles.sin(), angles.cos()], dim=1))
        if classes is not None:
            time = time + self.class_embedding(classes)
        e1 = self.enc1(self.stem(x), time)
        e2 = self.enc2(self.down1(e1), time)
        h = self.mid(self.down2(e2), time)
        h = self.dec2(torch.cat([self.up2(h), e2], dim=1), time)
        h = self.dec1(torch.cat([self.up1(h), e1], dim=1), time)
        return self.out(h)


def listed(name):
    """The side and the settings of a network of `networks.json`."""
    networks = json.loads((Path(__file__).parent / "networks.json").read_text())
    if name in networks:
        return networks[name]["side"], networks[name]["network"]
    name, width, side = name.split("-")
    network = networks[name]["network"]
    network["block_out_channels"] = [int(width) * factor for factor in network["block_out_channels"]]
    return int(side), network


class Muon:
    """`torch.optim.Muon` for the hidden matrices of a network, and AdamW for its other parameters.

    Muon takes matrices only. It gets a view of the weights of each convolution, as (outputs, others).
    """

    def __init__(self, network, adamw):
        self.matrices, others = [], []
        for name, p in network.named_parameters():
            if p.ndim < 2 or name.split(".")[0] in ("stem", "class_embedding", "out"):
                others.append(p)
            else:
                self.matrices.append((p, nn.Parameter(self.matrix(p.detach()))))
        # With this adjustment, an update has the size of AdamW's, as in this project.
        settings = {"lr": 2e-3, "weight_decay": 0.0, "adjust_lr_fn": "match_rms_adamw"}
        self.muon = torch.optim.Muon([matrix for _, matrix in self.matrices], **settings)
        self.adamw = adamw(others)

    @staticmethod
    def matrix(weight):
        if weight.ndim == 4 and not weight.is_contiguous():
            weight = weight.permute(0, 2, 3, 1)
        return weight.view(len(weight), -1)

    def zero_grad(self):
        for p, matrix in self.matrices:
            p.grad = matrix.grad = None
        self.adamw.zero_grad()

    def step(self):
        for p, matrix in self.matrices:
            matrix.grad = self.matrix(p.grad.contiguous(memory_format=torch.channels_last)
                                      if p.ndim == 4 and not p.is_contiguous() else p.grad.contiguous())
        self.muon.step()
        self.adamw.step()


class Measured:
    """A network, with its optimizer and its moving average."""

    def __init__(self, name, mode, layout, precision):
        self.bf16 = precision == "bf16"
        self.format = torch.channels_last if layout == "channels_last" else torch.contiguous_format
        self.classes = CLASSES if name == "recipe" else 0
        if name in ("mnist", "recipe"):
            self.shape, network = (1, 28, 28), SimpleUNet(self.classes)
        else:
            from diffusers import UNet2DModel

            side, settings = listed(name)
            self.shape = (settings["in_channels"], side, side)
            network = UNet2DModel(sample_size=side, **settings)
        network = network.to(memory_format=self.format)
        self.parameters = list(network.parameters())
        self.network = torch.compile(network, dynamic=False) if mode == "compile" else network
        self.ema = [p.detach().clone() for p in self.parameters]
        adamw = lambda parameters: torch.optim.AdamW(parameters, lr=1e-3, weight_decay=0.0, fused=True)
        self.optimizer = Muon(network, adamw) if self.classes else adamw(self.parameters)
        betas = torch.linspace(5e-4, 0.1, T, dtype=torch.float64)
        self.alphas_cumprod = torch.cumprod(1 - betas, 0)

    def call(self, x, t, classes=None):
        with torch.autocast(x.device.type, torch.bfloat16, enabled=self.bf16):
            y = self.network(x, t) if classes is None else self.network(x, t, classes)
        return (y if torch.is_tensor(y) else y.sample).float()

    def images(self, n):
        return torch.randn(n, *self.shape).to(memory_format=self.format)

    def train(self, batch):
        self.network.train()
        x0 = self.images(batch)
        begin = now()
        t, noise = torch.randint(T, (batch,)), torch.randn_like(x0)
        classes = torch.randint(self.classes + 1, (batch,)) if self.classes else None
        ac = self.alphas_cumprod[t].float()[:, None, None, None]
        x_t = ac.sqrt() * x0 + (1 - ac).sqrt() * noise
        loss = F.mse_loss(self.call(x_t, t.float(), classes), noise)
        self.optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.parameters, 1.0)
        self.optimizer.step()
        with torch.no_grad():
            torch._foreach_lerp_(self.ema, self.parameters, 0.005)
        loss.item()
        return 1e3 * (now() - begin)

    @torch.inference_mode()
    def forward(self, batch):
        self.network.eval()
        x, t = self.images(batch), torch.full((batch,), 100.0)
        begin = now()
        self.call(x, t)
        return 1e3 * (now() - begin)

    def guided(self, x, t):
        """The noise; if the network has classes, with guidance, and both predictions in one batch."""
        if not self.classes:
            return self.call(x, torch.full((len(x),), float(t)))
        classes = torch.arange(len(x)) % self.classes
        classes = torch.cat([classes, torch.full_like(classes, self.classes)])
        both = self.call(torch.cat([x, x]), torch.full((2 * len(x),), float(t)), classes)
        conditional, unconditional = both.chunk(2)
        return torch.lerp(unconditional, conditional, GUIDANCE)

    @torch.inference_mode()
    def sample(self, sampler, num, steps):
        self.network.eval()
        x = self.images(num)
        begin = now()
        alphas_cumprod = self.alphas_cumprod.tolist()
        last, last_h = None, 0.0
        for k in range(steps - 1, -1, -1):
            t = k * T // steps
            ac, prev = alphas_cumprod[t], 1.0
            if k > 0:
                prev = alphas_cumprod[(k - 1) * T // steps]
            eps = self.guided(x, t)
            x0 = ((x - math.sqrt(1 - ac) * eps) / math.sqrt(ac)).clamp(-1, 1)
            if sampler == "ddim":
                eps = (x - math.sqrt(ac) * x0) / math.sqrt(1 - ac)
                x = math.sqrt(prev) * x0 + math.sqrt(1 - prev) * eps
            elif sampler == "ddpm":
                beta = 1 - ac / prev
                x = (math.sqrt(prev) * beta * x0 + math.sqrt(ac / prev) * (1 - prev) * x) / (1 - ac)
                if k > 0:
                    x += math.sqrt(beta * (1 - prev) / (1 - ac)) * torch.randn_like(x)
            elif k == 0:
                x = x0
            elif sampler != "dpmpp-2m-sde":
                raise ValueError(f"unknown sampler {sampler}")
            else:
                h = 0.5 * math.log(prev * (1 - ac) / (ac * (1 - prev)))
                estimate = x0 if last is None else x0 + (x0 - last) * (h / last_h / 2)
                decay = 1 - math.exp(-2 * h)
                x = math.sqrt((1 - prev) / (1 - ac)) * math.exp(-h) * x + math.sqrt(prev) * decay * estimate
                x += math.sqrt((1 - prev) * decay) * torch.randn_like(x)
                last, last_h = x0, h
        return 1e3 * (now() - begin)


class Bench:
    def __init__(self, mode, layout, precision, threads, device="cpu"):
        torch.set_default_device(device)
        torch.set_num_threads(int(threads))
        # Products of f32 are products of f32 on GPUs, too.
        torch.backends.cudnn.allow_tf32 = False
        if mode == "compile":
            from torch._inductor import config

            # Each batch size gets its own compiled program. Without gradients, weights are constants
            # that are converted and packed once.
            torch._dynamo.config.recompile_limit = 64
            config.freezing = True
        torch.manual_seed(0)
        self.settings = mode, layout, precision
        self.networks = {}

    def network(self, name):
        if name not in self.networks:
            self.networks[name] = Measured(name, *self.settings)
        return self.networks[name]

    def train(self, batch, name="mnist"):
        return self.network(name).train(int(batch))

    def forward(self, batch, name="mnist"):
        return self.network(name).forward(int(batch))

    def sample(self, sampler, num, steps, name="mnist"):
        return self.network(name).sample(sampler, int(num), int(steps))

    def sgemm(self):
        n = 1024
        a, b = torch.randn(n, n), torch.randn(n, n)
        torch.mm(a, b)
        begin = now()
        for _ in range(8):
            torch.mm(a, b)
        return 8 * 2e-9 * n**3 / (now() - begin)

    def memory(self):
        if torch.get_default_device().type == "cuda":
            return torch.cuda.max_memory_allocated() / 1024
        try:
            import resource
        except ImportError:  # Windows
            return 0
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak / 1024 if sys.platform == "darwin" else peak


bench = Bench(*sys.argv[1:])
for line in sys.stdin:
    job, *arguments = line.split()
    print(f"{getattr(bench, job)(*arguments):.6f}", flush=True)
