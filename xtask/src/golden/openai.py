"""The network of improved-diffusion and guided-diffusion, with random weights.

`save` writes two networks, `compare` compares their samples.
"""

import json
import math
import random

import diffusers
import sampling
import torch
from torch import nn
from torch.nn import functional as F


class Residual(nn.Module):
    def __init__(self, cin, cout, time, scale_shift):
        super().__init__()
        self.scale_shift = scale_shift
        self.in_layers = nn.Sequential(nn.GroupNorm(32, cin), nn.SiLU(), nn.Conv2d(cin, cout, 3, padding=1))
        self.emb_layers = nn.Sequential(nn.SiLU(), nn.Linear(time, 2 * cout if scale_shift else cout))
        self.out_layers = nn.Sequential(
            nn.GroupNorm(32, cout), nn.SiLU(), nn.Dropout(0.0), nn.Conv2d(cout, cout, 3, padding=1)
        )
        self.skip_connection = nn.Identity() if cin == cout else nn.Conv2d(cin, cout, 1)

    def forward(self, x, time):
        h, e = self.in_layers(x), self.emb_layers(time)[:, :, None, None]
        if self.scale_shift:
            scale, shift = e.chunk(2, dim=1)
            h = self.out_layers[1:](self.out_layers[0](h) * (1 + scale) + shift)
        else:
            h = self.out_layers(h + e)
        return self.skip_connection(x) + h


class Attention(nn.Module):
    def __init__(self, channels, heads, new_order):
        super().__init__()
        self.heads, self.new_order = heads, new_order
        self.norm = nn.GroupNorm(32, channels)
        self.qkv, self.proj_out = nn.Conv1d(channels, 3 * channels, 1), nn.Conv1d(channels, channels, 1)

    def forward(self, x, _):
        n, c, h, w = x.shape
        qkv = self.qkv(self.norm(x).reshape(n, c, h * w))
        if self.new_order:
            q, k, v = (part.reshape(n * self.heads, -1, h * w) for part in qkv.chunk(3, dim=1))
        else:
            q, k, v = qkv.reshape(n * self.heads, -1, h * w).chunk(3, dim=1)
        weights = torch.softmax(torch.einsum("bct,bcs->bts", q, k) / math.sqrt(q.shape[1]), dim=-1)
        return x + self.proj_out(torch.einsum("bts,bcs->bct", weights, v).reshape(n, c, h * w)).reshape(x.shape)


class Down(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.op = nn.Conv2d(channels, channels, 3, stride=2, padding=1)

    def forward(self, x, _):
        return self.op(x)


class Up(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x, _):
        return self.conv(F.interpolate(x, scale_factor=2, mode="nearest"))


class First(nn.Conv2d):
    def forward(self, x, _):
        return super().forward(x)


class UNet(nn.Module):
    def __init__(self, widths, layers, attention, heads, scale_shift, new_order, outputs):
        super().__init__()
        first, time = widths[0], 4 * widths[0]
        self.first = first
        self.time_embed = nn.Sequential(nn.Linear(first, time), nn.SiLU(), nn.Linear(time, time))
        residual = lambda cin, cout: Residual(cin, cout, time, scale_shift)
        attend = lambda width, level: [Attention(width, heads, new_order)] if attention[level] else []
        down, skips, width = [[First(3, first, 3, padding=1)]], [first], first
        for level, next_width in enumerate(widths):
            for _ in range(layers):
                down.append([residual(width, next_width), *attend(next_width, level)])
                width = next_width
                skips.append(width)
            if level + 1 < len(widths):
                down.append([Down(width)])
                skips.append(width)
        middle = [residual(width, width), Attention(width, heads, new_order), residual(width, width)]
        up = []
        for level, next_width in reversed(list(enumerate(widths))):
            for layer in range(layers + 1):
                block = [residual(width + skips.pop(), next_width), *attend(next_width, level)]
                width = next_width
                if level > 0 and layer == layers:
                    block.append(Up(width))
                up.append(block)
        self.input_blocks = nn.ModuleList(nn.ModuleList(block) for block in down)
        self.middle_block = nn.ModuleList(middle)
        self.output_blocks = nn.ModuleList(nn.ModuleList(block) for block in up)
        self.out = nn.Sequential(nn.GroupNorm(32, width), nn.SiLU(), nn.Conv2d(width, outputs, 3, padding=1))

    def forward(self, x, t):
        half = self.first // 2
        angles = t[:, None].float() * torch.exp(-math.log(10_000) * torch.arange(half) / half)
        time = self.time_embed(torch.cat([angles.cos(), angles.sin()], dim=1))
        skips = []
        for block in self.input_blocks:
            for layer in block:
                x = layer(x, time)
            skips.append(x)
        for layer in self.middle_block:
            x = layer(x, time)
        for block in self.output_blocks:
            x = torch.cat([x, skips.pop()], dim=1)
            for layer in block:
                x = layer(x, time)
        return self.out(x)


def load(folder):
    settings = json.loads((folder / "settings.json").read_text())
    network = UNet(**settings)
    network.load_state_dict(torch.load(folder / "model.pt"))
    return network.eval()


def save(seed, folder):
    """Writes two random networks, each in a folder with the flags that `diffusion import` needs."""
    rng = random.Random(seed)
    torch.manual_seed(seed)
    for name, new_order in [("old", False), ("new", True)]:
        settings = {
            "widths": rng.choice([[32, 64], [64, 64, 64], [32, 64, 64]]), "layers": rng.choice([1, 2]),
            "heads": rng.choice([1, 2, 4]), "scale_shift": rng.choice([True, False]), "new_order": new_order,
            "outputs": rng.choice([3, 6]),
        }
        levels = len(settings["widths"])
        settings["attention"] = [False] + [rng.choice([True, False]) for _ in range(levels - 1)]
        network = UNet(**settings)
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.add_(torch.randn_like(parameter) * (0.1 if parameter.dim() == 1 else 0.02))
        (folder / name).mkdir(parents=True)
        (folder / name / "settings.json").write_text(json.dumps(settings))
        torch.save(network.state_dict(), folder / name / "model.pt")
        order = " --new-attention-order" if new_order else ""
        (folder / name / "flags").write_text(f"--size 16 --heads {settings['heads']}{order}")
        print(f"  {name}: {settings}")


def compare(folder, noise, samples):
    """Compares `samples` with DDIM by the network in `folder`."""
    network = load(folder)
    scheduler = diffusers.DDIMScheduler(timestep_spacing="trailing")
    sampling.compare(folder, scheduler, lambda x, t: network(x, t.expand(len(x)))[:, :3], noise, samples)


if __name__ == "__main__":
    sampling.main(save, compare)
