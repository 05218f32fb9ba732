"""The CIFAR-10 tutorial's network and distortions in PyTorch on the CPU, whole batches distorted at once, channels last.

    PYTHON_WITH_TORCH -m launch.peers.torch_tutorial bfloat16      # then a number of steps a line

Run from the project's folder; it needs torch and numpy alone. Moving averages, decay of the two dense layers.
"""
from launch.benches import answering

out = answering.channel()

import sys
import time

import torch
import torch.nn.functional as F
from torch import nn

BATCH, SIDE = 128, 24
precision = sys.argv[1] if len(sys.argv) > 1 else "float32"
images = torch.randint(0, 256, (50_000, 3, 32, 32), dtype=torch.uint8)
labels = torch.randint(0, 10, (50_000,))
examples, channels = torch.arange(BATCH)[:, None, None, None], torch.arange(3)[None, :, None, None]


def batch():
    """Distorted images and their labels."""
    chosen = torch.randint(len(images), (BATCH,))
    rows = torch.randint(33 - SIDE, (BATCH, 1)) + torch.arange(SIDE)
    columns = torch.randint(33 - SIDE, (BATCH, 1)) + torch.arange(SIDE)
    columns = torch.where(torch.rand(BATCH, 1) < 0.5, columns, columns.flip(1))
    x = images[chosen][examples, channels, rows[:, None, :, None], columns[:, None, None, :]].float()
    x += 63 * (2 * torch.rand(BATCH, 1, 1, 1) - 1)
    mean = x.mean((2, 3), keepdim=True)
    x = (x - mean) * (0.2 + 1.6 * torch.rand(BATCH, 1, 1, 1)) + mean
    deviation, mean = torch.std_mean(x, (1, 2, 3), correction=0, keepdim=True)
    x = (x - mean) / deviation.clamp_min((3 * SIDE * SIDE) ** -0.5)
    return x.contiguous(memory_format=torch.channels_last), labels[chosen]


def normalization():
    """Local response normalisation, the tutorial's constants."""
    return nn.LocalResponseNorm(9, alpha=0.001, beta=0.75, k=1.0)


network = nn.Sequential(
    nn.Conv2d(3, 64, 5, padding=2), nn.ReLU(), nn.MaxPool2d(3, 2, 1), normalization(),
    nn.Conv2d(64, 64, 5, padding=2), nn.ReLU(), normalization(), nn.MaxPool2d(3, 2, 1), nn.Flatten(),
    nn.Linear(2304, 384), nn.ReLU(), nn.Linear(384, 192), nn.ReLU(), nn.Linear(192, 10))
network.to(memory_format=torch.channels_last)
weights = list(network.parameters())
averages = [weight.detach().clone() for weight in weights]
decayed = [network[9].weight, network[11].weight]
optimizer = torch.optim.SGD(weights, 0.1)


def step():
    """One update."""
    x, y = batch()
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bfloat16"):
        outputs = network(x)
    loss = F.cross_entropy(outputs.float(), y) + 0.002 * sum(weight.square().sum() for weight in decayed)
    loss.backward()
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    with torch.no_grad():
        torch._foreach_lerp_(averages, weights, 1e-4)


def measure(steps: int) -> dict:
    """Images a second."""
    start = time.perf_counter()
    for _ in range(steps):
        step()
    return {"value": steps * BATCH / (time.perf_counter() - start)}


measure(10)
answering.serve(measure, out)
