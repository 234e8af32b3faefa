"""The torchvision worker of `cargo xtask bench --loader`: ImageFolder and a DataLoader, 2 workers.

usage: dataloader.py FOLDER

Reads one job per line and prints one number. `load BATCH`: pictures per second over one pass,
decoded, resized to 32 x 32 with antialiasing, mirrored at random and scaled to [-1, 1]. `memory`:
the peak resident set of the process and its workers together, in KiB.
"""

import resource
import sys
import time

import torch
from torchvision import datasets, transforms

WORKERS = 2


def load(folder, batch):
    transform = transforms.Compose([
        transforms.Resize(32, interpolation=transforms.InterpolationMode.BICUBIC, antialias=True),
        transforms.CenterCrop(32),
        transforms.RandomHorizontalFlip(),
        transforms.ToTensor(),
        transforms.Normalize((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
    ])
    dataset = datasets.ImageFolder(folder, transform)
    loader = torch.utils.data.DataLoader(
        dataset, batch_size=batch, shuffle=True, drop_last=True, num_workers=WORKERS, persistent_workers=True
    )
    # Start the workers before the measurement: a training starts them only once.
    iter(loader)
    begin, count = time.perf_counter(), 0
    for images, _ in loader:
        count += len(images)
    return count / (time.perf_counter() - begin)


def peak():
    own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return own + WORKERS * resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss


torch.set_num_threads(1)
for line in sys.stdin:
    words = line.split()
    print(peak() if words[0] == "memory" else load(sys.argv[1], int(words[1])), flush=True)
