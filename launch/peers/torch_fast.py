"""A CIFAR-10 speed run in PyTorch on the CPU: the network, distortions and optimizer of the recipe cifar10_fast.

    PYTHON_WITH_TORCH -m launch.peers.torch_fast bfloat16 2000      # then a number of steps a line

After airbench94 with Muon (Jordan 2024, github.com/KellerJordan/cifar10-airbench): mirrored images, translations by up to 2
pixels, channels last, float32 weights. Run from the project's folder; it needs torch and numpy alone. The images are made up.
"""
from launch.benches import answering

out = answering.channel()

import sys
import time

import torch
import torch.nn.functional as F
from torch import nn

IMAGES, CLASSES, SHIFT = 10_000, 10, 2
precision = sys.argv[1] if len(sys.argv) > 1 else "float32"
batch_size = int(sys.argv[2]) if len(sys.argv) > 2 else 2000
QUINTIC = 3.4445, -4.7750, 2.0315
DTYPE = torch.bfloat16 if precision == "bfloat16" else torch.float32

images = torch.randn(IMAGES, 3, 32, 32).to(DTYPE)
padded = F.pad(images, (SHIFT,) * 4, "reflect")
labels = torch.randint(0, CLASSES, (IMAGES,))
rows, columns, channels = torch.arange(32), torch.arange(32), torch.arange(3)[None, :, None, None]


def norm(width):
    """Batch normalisation whose scale does not learn."""
    layer = nn.BatchNorm2d(width, eps=1e-12, momentum=0.4)
    layer.weight.requires_grad = False
    return layer


def group(inputs, width):
    """Convolution, maximum, norm, GELU, convolution, norm, GELU; the first channels pass through at first."""
    first, second = (nn.Conv2d(size, width, 3, padding=1, bias=False) for size in (inputs, width))
    for convolution in first, second:
        nn.init.dirac_(convolution.weight.data[:convolution.in_channels])
    return nn.Sequential(first, nn.MaxPool2d(2), norm(width), nn.GELU(), second, norm(width), nn.GELU())


def whitening():
    """2x2 filters that whiten patches of the images; only the bias learns."""
    layer = nn.Conv2d(3, 24, 2)
    patches = images[:2000].float().unfold(2, 2, 1).unfold(3, 2, 1).transpose(1, 3).reshape(-1, 12)
    variances, directions = torch.linalg.eigh(patches.T @ patches / len(patches))
    filters = directions.T.reshape(-1, 3, 2, 2) / torch.sqrt(variances.view(-1, 1, 1, 1) + 5e-4)
    layer.weight.data[:] = torch.cat((filters, -filters))
    layer.weight.requires_grad = False
    layer.bias.data.zero_()
    return layer


network = nn.Sequential(whitening(), nn.GELU(), group(24, 64), group(64, 256), group(256, 256), nn.MaxPool2d(3), nn.Flatten(),
                        nn.Linear(256, CLASSES, bias=False)).to(memory_format=torch.channels_last)
filters = [weight for weight in network.parameters() if weight.ndim == 4 and weight.requires_grad]
momenta = [torch.zeros_like(weight) for weight in filters]
head = network[-1].weight
others = [weight for weight in network.parameters() if weight.requires_grad and weight.ndim == 1]
optimizer = torch.optim.SGD([{"params": others, "lr": 0.053}, {"params": [head], "lr": 0.67}], momentum=0.85, nesterov=True,
                            weight_decay=0.004)


def batch():
    """Translated and mirrored images [b, 3, 32, 32], and their labels."""
    chosen = torch.randint(IMAGES, (batch_size,))
    down, right = torch.randint(2 * SHIFT + 1, (2, batch_size, 1))
    across = torch.where(torch.rand(batch_size, 1) < 0.5, columns, columns.flip(0))
    x = padded[chosen[:, None, None, None], channels, (down + rows)[:, None, :, None], (right + across)[:, None, None, :]]
    return x.contiguous(memory_format=torch.channels_last), labels[chosen]


def orthogonal(gradient):
    """Three Newton-Schulz iterations."""
    a, b, c = QUINTIC
    x = gradient.to(DTYPE)
    x = x / (x.norm() + 1e-7)
    wide = len(x) > x.shape[1]
    x = x.T if wide else x
    for _ in range(3):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return (x.T if wide else x).float()


def step():
    """One update."""
    x, y = batch()
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bfloat16"):
        logits = network(x) / 256
    F.cross_entropy(logits.float(), y, label_smoothing=0.2, reduction="sum").backward()
    optimizer.step()
    with torch.no_grad():
        for weight, momentum in zip(filters, momenta):
            momentum.mul_(0.6).add_(weight.grad)
            weight.mul_(len(weight) ** 0.5 / weight.norm())
            gradient = (weight.grad + 0.6 * momentum).reshape(len(weight), -1)
            weight.sub_(orthogonal(gradient).view(weight.shape), alpha=1e-3)
    network.zero_grad(set_to_none=True)


def measure(steps: int) -> dict:
    """Images a second."""
    start = time.perf_counter()
    for _ in range(steps):
        step()
    return {"value": steps * batch_size / (time.perf_counter() - start)}


measure(1)
answering.serve(measure, out)
