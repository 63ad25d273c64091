"""Counts instructions and stack on an emulated Cortex-M: ``python counting.py JOB.json RESULT.npz``.

A program of its own, since the emulator's licence (GPLv2) does not go with ours in one process. Counted are blocks of
translated code times the Thumb instructions in them, which equals QEMU's count to a few instructions.
"""

import json
import sys
from collections import Counter
from pathlib import Path

import numpy as np
from unicorn import UC_HOOK_BLOCK

sys.path.insert(0, str(Path(__file__).parents[2] / "tests" / "kernels"))
from emulated import RAM_BYTES, STACK_BYTES, Processor  # a script beside the tests, not a package

PATTERN = 0xA5


def instructions(code):
    """How many Thumb instructions lie in a block: those that begin with 11101, 11110 or 11111 are 32 bits long."""
    at = count = 0
    while at < len(code):
        at += 4 if code[at + 1] >> 3 in (0b11101, 0b11110, 0b11111) else 2
        count += 1
    return count


def main(job_file, result_file):
    job = json.loads(Path(job_file).read_text())
    frames = np.load(job["frames"])
    processor = Processor(job["target"], job["image"], job["flash"], job["ram"])
    machine = processor.machine
    blocks: Counter[tuple[int, int]] = Counter()

    def seen(_, address, size, __):
        blocks[address, size] += 1

    machine.hook_add(UC_HOOK_BLOCK, seen)
    given = processor.put(bytes(frames.shape[1]))
    result = processor.put(bytes(job["output_bytes"]))
    work = processor.put(bytes(job["workspace_bytes"] + 8))
    top = job["ram"] + RAM_BYTES - 256
    counts, stacks, outputs = [], [], []
    for frame in frames:
        machine.mem_write(given, frame.tobytes())
        machine.mem_write(top - STACK_BYTES // 4, bytes([PATTERN]) * (STACK_BYTES // 4))
        blocks.clear()
        processor.call(job["symbol"], given, result, work, 0)
        counts.append(sum(n * instructions(machine.mem_read(a, s)) for (a, s), n in blocks.items()))
        stack = np.frombuffer(bytes(machine.mem_read(top - STACK_BYTES // 4, STACK_BYTES // 4)), np.uint8)
        used = np.flatnonzero(stack != PATTERN)
        stacks.append(len(stack) - int(used[0]) if used.size else 0)
        outputs.append(np.frombuffer(bytes(machine.mem_read(result, job["output_bytes"])), np.int8))
    np.savez(result_file, counts=counts, stacks=stacks, outputs=np.array(outputs))


if __name__ == "__main__":
    main(*sys.argv[1:])
