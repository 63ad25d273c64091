"""The feeder's fault classifier: what the network sees of a frame, and the trip that follows from its answer.

`vector` describes a frame against the remembered normal state, every number between -1 and 1: what is left of the
currents once the load has been taken out (see `detect.unexplained`), the change of the voltages' unbalance and of the
second and third harmonic. A number grows like d / (|d| + size): near zero as fine as the change is small, and a short
circuit does not drown the rest. The network sees this frame and the one before: a fault stays, an inrush decays.

Who decides: what the rule takes for a fault in one frame (`fast`) trips, whatever the network says. Below that, where
the rule waits for a second frame, a network that is very sure of no fault overrules it, and one that is sure of a
fault needs no rule. All this needs two frames in turn. DATA.md has the figures, docs/adr/0022 the reasons.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

if __package__:
    from examples.feeder import detect
else:  # beside flow.py, whose folder is on the path
    import detect  # type: ignore[no-redef] # the same module by its plain name

NUMBERS = 22
"""Numbers that describe one frame."""

KINDS = ("none", "AG", "BG", "CG", "AB", "BC", "CA", "ABG", "BCG", "CAG", "ABC")
"""What the network tells apart: no fault, and the phases that take part in one."""

STEP_SHARE, VOLT_SHARE, SKEW_SHARE, HARMONIC_SHARE, TONE_SHARE = 0.3, 0.1, 0.004, 0.3, 0.25
"""Sizes at which a number is half way to its end: shares of the load, of the remembered voltage (twice), of the rule's
pick-up, and of the change of the fundamental."""

SURE = 1.0
"""How much likelier than "none" (in the logarithm) a kind of fault has to be where the rule sees nothing."""

OVERRULE = 6.0
"""How much likelier "none" has to be than every fault, where the rule sees one, to hold the trip back: 400 times."""

LIKELY_FRAMES = 2

STATE: dict[str, Any] = {
    **detect.STATE,
    "skew": np.zeros(4, np.float32),
    "harmonics": np.zeros(6, np.float32),
    "last_skew": np.zeros(4, np.float32),
    "last_harmonics": np.zeros(6, np.float32),
    "before": np.zeros(NUMBERS, np.float32),
    "likely": np.int32(0),
}
"""`detect.STATE`; the remembered voltage unbalance and harmonics and those of the last frame; the numbers of the frame
before; frames in a row that were taken for a fault."""


def _soft(d: Any, size: Any) -> Any:
    return d / (np.abs(d) + size)


def vector(f: Any, s: Any, now: dict[str, Any]) -> Any:
    """f32[22] between -1 and 1 of one frame; `now` are the signals of `detect.judge`."""
    delta = f.seq - s.mem
    mem_re = s.mem[1]
    wanted = delta[1] * mem_re
    left = delta - s.mem * (wanted / np.maximum(mem_re * mem_re + 1.0, np.abs(wanted)))
    pickup, load, residual, jump = now["pickup"], now["load"], now["residual"], now["jump"]
    tones = f.harmonics - s.harmonics
    tone = np.max(np.abs(tones.reshape(3, 2)), axis=0)
    volt = np.maximum(s.mem[6], 1.0)
    whole = np.stack(
        [
            _soft(delta[6], VOLT_SHARE * volt),
            residual / (residual + jump + 1.0),
            residual / (residual + pickup),
            load / (load + 100.0),
        ]
    )
    return np.concatenate(
        [
            _soft(np.stack([left[0], left[3], left[2], left[5]]), pickup),
            _soft(np.stack([delta[1], delta[4]]), detect.RISE_AMP + STEP_SHARE * load),
            _soft(f.skew - s.skew, SKEW_SHARE * volt),
            _soft(tones, HARMONIC_SHARE * pickup),
            tone / (tone + TONE_SHARE * (jump + residual) + 1.0),
            whole,
        ]
    )


def _look(f: Any, s: Any) -> tuple[Any, dict[str, Any], dict[str, Any]]:
    """The network's input f32[44], the rule's signals, and the next state but for the trip."""
    now, after = detect.judge(f, s)
    numbers = vector(f, s, now)
    restart, remember = now["restart"], now["remember"]

    def memory(held: Any, last: Any, new: Any) -> Any:
        return np.where(restart, new, np.where(remember, held + detect.MEMORY_RATE * (last - held), held))

    after |= {
        "skew": memory(s.skew, s.last_skew, f.skew),
        "harmonics": memory(s.harmonics, s.last_harmonics, f.harmonics),
        "last_skew": np.where(f.bad, s.last_skew, f.skew),
        "last_harmonics": np.where(f.bad, s.last_harmonics, f.harmonics),
        "before": np.where(restart | f.bad, 0.0, numbers),
    }
    return np.concatenate([numbers, s.before]), now, after


def observe(f: Any, s: Any) -> tuple[dict[str, Any], bool, dict[str, Any]]:
    """What there is to learn from: `x` f32[44] as the network is given it, and some of the rule's signals.

    The memory follows the rule alone, so what is learned is what the device will see, whatever the network answers.
    """
    x, now, after = _look(f, s)
    after |= {"likely": s.likely, "latched": s.latched}
    return {"x": x, **{k: now[k] for k in ("armed", "fast", "above", "slow")}}, True, after


def decider(
    network: Callable[[Any], Any],
) -> Callable[[Any, Any], tuple[dict[str, Any], bool, dict[str, Any]]]:
    """`decide` with a network: f32[44] to f32[11], the logits of `KINDS`."""

    def decide(f: Any, s: Any) -> tuple[dict[str, Any], bool, dict[str, Any]]:
        """One decision per frame, as `detect.decide`; `kind` is the place in `KINDS` of the likeliest fault."""
        x, now, after = _look(f, s)
        logits = network(x)
        margin = np.max(logits[1:]) - logits[0]
        agreed = margin > np.where(now["above"], -OVERRULE, SURE)
        counted = (s.likely + (agreed & (s.likely < LIKELY_FRAMES))) * agreed
        likely = np.where(f.bad, s.likely, counted)
        trip = now["armed"] & (now["fast"] | (likely >= LIKELY_FRAMES)) & ~s.latched
        after |= {"likely": likely * now["alive"], "latched": (s.latched | trip) & now["alive"]}
        return (
            {
                "trip": trip,
                "kind": np.argmax(logits[1:]) + 1,
                "bad": f.bad,
                "residual": now["residual"],
                "rise": now["rise"],
            },
            True,
            after,
        )

    return decide
