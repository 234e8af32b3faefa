"""Reads a run's event files with TensorBoard and compares every scalar with metrics.jsonl.

usage: events.py RUN
"""

import json
import struct
import sys
from pathlib import Path

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

run = Path(sys.argv[1])
lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
events = EventAccumulator(str(run / "tensorboard"), size_guidance={"scalars": 0})
events.Reload()


def single(value):
    """The value rounded to single precision."""
    return struct.unpack("f", struct.pack("f", value))[0]


def expected(of):
    """The steps and values of one tag, from metrics.jsonl."""
    return [(line["step"], single(of(line))) for line in lines if of(line) is not None]


quarters = ["quarter_1_cleanest", "quarter_2", "quarter_3", "quarter_4_noisiest"]
tags = {
    "loss/train": lambda line: line["loss"],
    "optimizer/lr": lambda line: line["lr"],
    "optimizer/grad_norm": lambda line: line["grad_norm"],
    "speed/images_per_second": lambda line: line["images_per_second"],
    "loss/held_out": lambda line: line.get("validation_loss"),
    **{
        f"loss_by_t/{name}": lambda line, i=i: line["loss_by_t_quartile"][i]
        for i, name in enumerate(quarters)
    },
}
names = set(events.Tags()["scalars"])
assert names == set(tags), f"tags {sorted(names)}, expected {sorted(tags)}"
for tag, of in tags.items():
    scalars = [(scalar.step, scalar.value) for scalar in events.Scalars(tag)]
    assert scalars == expected(of), f"{tag}: {scalars[:3]} …, expected {expected(of)[:3]} …"
print(f"  {len(tags)} tags of {len(lines)} steps agree")
