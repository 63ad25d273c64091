"""Counts the instructions of one call on an emulated Cortex-M: ``python counted.py JOB.json RESULT.json``.

A program of its own, since the emulator's licence (GPLv2) does not go with ours in one process. The call is made twice
and the second is counted, by blocks of translated code times the Thumb instructions in them.
"""

import base64
import json
import sys
from collections import Counter
from pathlib import Path

from unicorn import UC_HOOK_BLOCK

BENCHMARKS = Path(__file__).parents[1]
sys.path[:0] = [str(BENCHMARKS / "networks"), str(BENCHMARKS.parent / "tests" / "kernels")]
from counting import instructions  # noqa: E402 # a script beside us, not a package
from emulated import Processor  # noqa: E402 # a script beside the tests, not a package

CALLS = 2


def main(job_file, result_file):
    job = json.loads(Path(job_file).read_text())
    processor = Processor(job["target"], job["image"], job["flash"], job["ram"])
    blocks: Counter[tuple[int, int]] = Counter()

    def seen(_, address, size, __):
        blocks[address, size] += 1

    processor.machine.hook_add(UC_HOOK_BLOCK, seen)
    places = [processor.put(base64.b64decode(content)) for content in job["buffers"]]
    arguments = [
        places[a] if isinstance(a, int) else processor.pointers([places[i] for i in a])
        for a in job["arguments"]
    ]
    arguments += [0] * (4 - len(arguments))
    for _ in range(CALLS):
        blocks.clear()
        processor.call(job["symbol"], *arguments)
    memory = processor.machine
    count = sum(n * instructions(memory.mem_read(at, size)) for (at, size), n in blocks.items())
    Path(result_file).write_text(json.dumps(count))


if __name__ == "__main__":
    main(*sys.argv[1:])
