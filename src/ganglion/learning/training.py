"""The one door to PyTorch: trains small networks on one thread, from a seed; weights leave as NumPy arrays.

The same seed, examples and version on the same kind of processor give the same weights, bit for bit; another processor
may order its sums otherwise.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from ganglion.core.errors import HostError
from ganglion.learning.recipe import (
    Array,
    Convolution,
    Dense,
    Distillation,
    Examples,
    GlobalAverage,
    Layers,
    Training,
)

TORCH = "2.13.0"
ROWS_AT_ONCE = 8192


@dataclass(frozen=True)
class Trained:
    """``layers`` with the last dense one; ``weights``: (weight, bias) of each that has some, as PyTorch shapes them."""

    shape: tuple[int, ...]
    layers: Layers
    weights: tuple[tuple[Array, Array], ...]

    @property
    def parameters(self) -> int:
        """How many numbers were learnt."""
        return sum(int(w.size + b.size) for w, b in self.weights)


def torch_version() -> str:
    """The version of PyTorch. Raises `HostError` ``learning.torch`` when it is not installed."""
    return str(_torch().__version__)


def _torch() -> Any:
    try:
        import torch
    except ImportError as error:
        raise HostError(
            "learning.torch",
            "networks cannot be trained: PyTorch is not installed",
            why="it is an optional part",
            next_step=f"pip install torch=={TORCH} (the CPU build is enough)",
        ) from error
    return torch


@contextmanager
def _quietly(seed: int) -> Iterator[Any]:
    """One thread and a seed, without changing those of whoever calls."""
    torch = _torch()
    threads, strict = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            yield torch
    finally:
        torch.set_num_threads(threads)
        torch.use_deterministic_algorithms(strict)


def _module(torch: Any, shape: tuple[int, ...], layers: Layers) -> Any:
    """The network; ReLU after every layer with weights but the last."""
    nn = torch.nn
    parts: list[Any] = []
    now = shape
    for k, layer in enumerate(layers):
        if isinstance(layer, Convolution):
            pads = (layer.kernel[0] // 2, layer.kernel[1] // 2)
            groups = now[0] if layer.depthwise else 1
            parts.append(nn.Conv2d(now[0], layer.channels, layer.kernel, layer.strides, pads, groups=groups))
            extents = [(n - 1) // s + 1 for n, s in zip(now[1:], layer.strides, strict=True)]
            now = (layer.channels, *extents)
        elif isinstance(layer, GlobalAverage):
            parts.append(nn.AdaptiveAvgPool2d(1))
            now = (now[0], 1, 1)
        else:
            if len(now) > 1:
                parts.append(nn.Flatten())
            parts.append(nn.Linear(int(np.prod(now)), layer.width))
            now = (layer.width,)
        if not isinstance(layer, GlobalAverage) and k < len(layers) - 1:
            parts.append(nn.ReLU())
    return nn.Sequential(*parts)


def train(
    layers: Layers,
    examples: Examples,
    classes: int,
    training: Training,
    seed: int,
    *,
    soft: Array | None = None,
    distillation: Distillation | None = None,
) -> Trained:
    """A network of ``layers`` and a last dense one, trained from ``seed``.

    ``soft``: the teacher's log-probabilities (n, classes) at the temperature of ``distillation``, which the student
    learns from as well. Order of batches and first weights depend on the seed alone, so a student with a teacher and
    one without start alike and see the same batches.
    """
    whole = (*layers, Dense(classes))
    shape = tuple(int(n) for n in examples.inputs.shape[1:])
    with _quietly(seed) as torch:
        network = _module(torch, shape, whole)
        inputs, targets = torch.from_numpy(examples.inputs), torch.from_numpy(examples.classes)
        teacher = None if soft is None else torch.from_numpy(soft)
        count, batch = len(examples), training.batch
        steps = training.epochs * -(-count // batch)
        optimizer = torch.optim.AdamW(
            network.parameters(), lr=training.learning_rate, weight_decay=training.weight_decay
        )
        rate = torch.optim.lr_scheduler.OneCycleLR(optimizer, training.learning_rate, total_steps=steps)
        for _ in range(training.epochs):
            order = torch.randperm(count)
            for start in range(0, count, batch):
                rows = order[start : start + batch]
                logits = network(inputs[rows])
                loss = torch.nn.functional.cross_entropy(logits, targets[rows])
                if teacher is not None and distillation is not None:
                    loss = _softened(torch, logits, teacher[rows], loss, distillation)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                rate.step()
        found = [m for m in network if hasattr(m, "weight")]
        weights = tuple(
            (m.weight.detach().numpy().astype(np.float32), m.bias.detach().numpy().astype(np.float32))
            for m in found
        )
    return Trained(shape, whole, weights)


def _softened(torch: Any, logits: Any, teacher: Any, hard: Any, how: Distillation) -> Any:
    student = torch.nn.functional.log_softmax(logits / how.temperature, dim=1)
    apart = torch.nn.functional.kl_div(student, teacher, reduction="batchmean", log_target=True)
    return how.weight * how.temperature**2 * apart + (1 - how.weight) * hard


def logits(trained: Trained, inputs: Array) -> Array:
    """float32 (n, classes)."""
    with _quietly(0) as torch:
        network = _module(torch, trained.shape, trained.layers)
        found = [m for m in network if hasattr(m, "weight")]
        with torch.no_grad():
            for module, (weight, bias) in zip(found, trained.weights, strict=True):
                module.weight.copy_(torch.from_numpy(weight))
                module.bias.copy_(torch.from_numpy(bias))
            parts = [
                network(torch.from_numpy(np.ascontiguousarray(inputs[k : k + ROWS_AT_ONCE]))).numpy()
                for k in range(0, len(inputs), ROWS_AT_ONCE)
            ]
    return np.concatenate(parts) if parts else np.zeros((0, trained.weights[-1][1].size), np.float32)


def softened(members: Sequence[Trained], inputs: Array, temperature: float) -> Array:
    """The teacher: the logarithm of the mean of its members' probabilities at a temperature, float32 (n, classes)."""
    total = np.zeros((len(inputs), members[0].weights[-1][1].size))
    for member in members:
        z = logits(member, inputs).astype(np.float64) / temperature
        shares = np.exp(z - z.max(1, keepdims=True))
        total += shares / shares.sum(1, keepdims=True)
    return np.asarray(np.log(np.maximum(total / len(members), 1e-30)), np.float32)
