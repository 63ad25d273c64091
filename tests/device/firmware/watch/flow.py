"""A network on the device, behind a kernel that makes its input and before one that waits: for firmware's tests."""

import numpy as np

import ganglion as gg

flow = gg.Flow("watch")
moves = flow.source("moves", gg.Frame(3, 32, dtype="i16", scale=(0.004,), unit="g"), every="20ms")
net = gg.network("moves.onnx")


@gg.kernel(x=gg.f32[3, 32])
def centred(x):
    apart = x - np.mean(x, axis=1, keepdims=True)
    return {"wave": apart / np.maximum(np.std(apart), 0.01)}


@gg.kernel(f=centred, state={"found": 0, "n": 0})
def found(f, s):
    """A class that two frames in turn agree on."""
    logits = net(f.wave)
    best = np.argmax(logits)
    n = np.where(best == s.found, np.minimum(s.n + 1, 2), 1)
    return {"logits": logits, "best": best}, n == 2, {"found": best, "n": n}


waves = moves.map(centred)
classes = waves.map(found)
classes.sink("classes_kept")
falls = classes.where(lambda c: (c.best == 2) | (c.best == 3), id="falls")
falls.act("siren", "on", within="40ms")
