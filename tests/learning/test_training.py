"""Training: the seed decides everything, a teacher of no weight changes nothing, one of all weight is followed."""

import numpy as np
import pytest

from ganglion.learning import training
from ganglion.learning.recipe import Convolution, Dense, Distillation, Examples, GlobalAverage, Training
from tests.learning.nets import needs_torch, rings

pytestmark = needs_torch
SHORT = Training(epochs=12, batch=64, learning_rate=0.02)
LAYERS = (Dense(16),)


@pytest.fixture(scope="module")
def examples():
    return rings(np.random.default_rng(3), 1500)


@pytest.fixture
def rng():
    """Always the same draws: how much a short training learns depends on them."""
    return np.random.default_rng(4)


def same(a, b):
    return all(
        x.tobytes() == y.tobytes()
        for p, q in zip(a.weights, b.weights, strict=True)
        for x, y in zip(p, q, strict=True)
    )


def test_a_seed_gives_the_same_weights_and_another_seed_others(examples):
    one, again, other = (training.train(LAYERS, examples, 3, SHORT, seed) for seed in (1, 1, 2))
    assert same(one, again)
    assert not same(one, other)


def test_it_learns(examples, rng):
    network = training.train(LAYERS, examples, 3, SHORT, 1)
    fresh = rings(rng, 1000)
    assert np.mean(training.logits(network, fresh.inputs).argmax(1) == fresh.classes) > 0.85
    assert network.parameters == 2 * 16 + 16 + 16 * 3 + 3


def test_a_teacher_without_weight_changes_nothing(examples):
    soft = np.log(np.full((len(examples), 3), 1 / 3, np.float32))
    how = Distillation(temperature=2.0, weight=0.0, members=1)
    alone = training.train(LAYERS, examples, 3, SHORT, 1)
    assert same(alone, training.train(LAYERS, examples, 3, SHORT, 1, soft=soft, distillation=how))


def test_a_student_follows_its_teacher_and_not_the_labels(examples, rng):
    """With all the weight on the teacher, labels drawn at random do no harm."""
    members = [training.train((Dense(32),), examples, 3, SHORT, seed) for seed in (11, 12)]
    noise = Examples(examples.inputs, rng.integers(0, 3, len(examples)))
    how = Distillation(temperature=2.0, weight=1.0, members=2)
    soft = training.softened(members, examples.inputs, how.temperature)
    assert np.exp(soft).sum(1) == pytest.approx(1, abs=1e-5)
    student = training.train(LAYERS, noise, 3, SHORT, 1, soft=soft, distillation=how)
    alone = training.train(LAYERS, noise, 3, SHORT, 1)
    right = [
        np.mean(training.logits(n, examples.inputs).argmax(1) == examples.classes) for n in (student, alone)
    ]
    assert right[0] > 0.8
    assert right[1] < 0.6


def test_filters_learn_too_and_leave_in_pytorchs_shapes(rng):
    """A bar stands upright or lies."""
    images = rng.normal(0, 0.3, (400, 1, 6, 6)).astype(np.float32)
    classes = rng.integers(0, 2, 400)
    for image, kind, at in zip(images, classes, rng.integers(0, 6, 400), strict=True):
        image[0, *((slice(None), at) if kind else (at, slice(None)))] += 1
    layers = (Convolution(6), Convolution(6, (3, 3), (2, 2), depthwise=True), GlobalAverage())
    network = training.train(layers, Examples(images, classes), 2, SHORT, 1)
    assert [w.shape for w, _ in network.weights] == [(6, 1, 3, 3), (6, 1, 3, 3), (2, 6)]
    assert np.mean(training.logits(network, images).argmax(1) == classes) > 0.9


def test_the_callers_settings_of_torch_stay(examples):
    import torch

    torch.manual_seed(5)
    before = torch.get_rng_state(), torch.get_num_threads()
    training.train(LAYERS, examples, 3, Training(epochs=1), 1)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert torch.get_num_threads() == before[1]
    assert not torch.are_deterministic_algorithms_enabled()
