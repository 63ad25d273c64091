"""The layers of an int8 TFLite file, read from its bytes: tables, vectors and the few fields that are needed.

Field numbers are those of TensorFlow Lite's public schema.
"""

import struct
from dataclasses import dataclass

import numpy as np

CONV, DEPTHWISE, AVERAGE, RESHAPE, DENSE, SOFTMAX = 3, 4, 1, 22, 9, 25
DTYPES = {0: np.float32, 2: np.int32, 9: np.int8}


@dataclass
class Tensor:
    shape: list
    values: np.ndarray
    scales: np.ndarray
    zeros: np.ndarray


@dataclass
class Operator:
    code: int
    inputs: list
    outputs: list
    options: dict


class Bytes:
    """A flat buffer; offsets are relative to where they stand."""

    def __init__(self, content):
        self.content = content

    def number(self, form, at):
        return struct.unpack_from("<" + form, self.content, at)[0]

    def follow(self, at):
        return at + self.number("I", at)

    def table(self, at):
        """Field number to place."""
        directory = at - self.number("i", at)
        fields = (self.number("H", directory) - 4) // 2
        places = {k: self.number("H", directory + 4 + 2 * k) for k in range(fields)}
        return {k: at + place for k, place in places.items() if place}

    def vector(self, at, dtype):
        start = self.follow(at)
        return np.frombuffer(self.content, dtype, self.number("I", start), start + 4)

    def tables(self, at):
        start = self.follow(at)
        return [self.table(self.follow(start + 4 + 4 * k)) for k in range(self.number("I", start))]


def read(content):
    """(tensors, operators) of the first graph."""
    data = Bytes(content)
    root = data.table(data.follow(0))
    codes = [
        max(data.content[c[0]] if 0 in c else 0, data.number("i", c[3]) if 3 in c else 0)
        for c in data.tables(root[1])
    ]
    graph = data.tables(root[2])[0]
    buffers = data.tables(root[4])
    tensors = []
    for fields in data.tables(graph[0]):
        shape = data.vector(fields[0], np.int32).tolist() if 0 in fields else []
        dtype = DTYPES[data.content[fields[1]] if 1 in fields else 0]
        buffer = buffers[data.number("I", fields[2]) if 2 in fields else 0]
        values = (
            np.frombuffer(data.vector(buffer[0], np.uint8).tobytes(), dtype)
            if 0 in buffer
            else np.zeros(0, dtype)
        )
        scale = data.table(data.follow(fields[4])) if 4 in fields else {}
        scales = data.vector(scale[2], np.float32) if 2 in scale else np.zeros(0, np.float32)
        zeros = data.vector(scale[3], np.int64) if 3 in scale else np.zeros(len(scales), np.int64)
        tensors.append(Tensor(shape, values.reshape(shape) if values.size else values, scales, zeros))
    operators = []
    for fields in data.tables(graph[3]):
        options = {}
        if 4 in fields:
            options = {k: data.number("i", at) for k, at in data.table(data.follow(fields[4])).items()}
        code = codes[data.number("I", fields[0]) if 0 in fields else 0]
        inputs, outputs = (data.vector(fields[k], np.int32).tolist() for k in (1, 2))
        operators.append(Operator(code, inputs, outputs, options))
    return tensors, operators
