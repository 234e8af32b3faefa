"""PyTorch's side of `cargo xtask bench --loader`: torchvision's ImageFolder behind a DataLoader with 2 workers.

Takes the folder of the pictures; reads `load BATCH` and answers with pictures a second over one pass, decoded, scaled to
32 x 32 with antialiasing, mirrored at random and brought to [-1, 1]; `memory` is answered with the peak resident set of the
process and its workers together, in KiB.
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
    # The workers' start is not counted: they live as long as a training does.
    iter(loader)
    begin, seen = time.perf_counter(), 0
    for images, _ in loader:
        seen += len(images)
    return seen / (time.perf_counter() - begin)


def peak():
    own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return own + WORKERS * resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss


torch.set_num_threads(1)
for line in sys.stdin:
    words = line.split()
    print(peak() if words[0] == "memory" else load(sys.argv[1], int(words[1])), flush=True)
