"""What an ONNX file asks for from outside of itself, read from its protobuf without running it."""

import mmap
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType

DOMAINS = ("", "ai.onnx", "ai.onnx.ml", "com.microsoft", "com.microsoft.nchwc")
"""The operators that onnxruntime has; those of other domains need a library of their own."""

# Field numbers of onnx.proto (https://github.com/onnx/onnx/blob/main/onnx/onnx.proto3): of each
# message those that lead to another one, and which.
_MESSAGES: Mapping[str, Mapping[int, str]] = MappingProxyType(
    {
        "model": {7: "graph", 8: "opset", 25: "function"},
        "graph": {1: "node", 5: "tensor", 15: "sparse"},
        "function": {7: "node", 9: "opset"},
        "node": {5: "attribute"},
        "attribute": {
            5: "tensor",
            6: "graph",
            10: "tensor",
            11: "graph",
            22: "sparse",
            23: "sparse",
        },
        "sparse": {1: "tensor", 2: "tensor"},
        "tensor": {13: "external"},
    }
)
_MAX_DEPTH = 32
_MORE = 0x80
"""The bit of a varint's byte that says that another one follows."""


def outside(path: Path) -> tuple[set[str], set[str]]:
    """The files that hold its weights, by relative path, and the foreign domains of its operators.

    Raises:
        ValueError: it is not ONNX.
    """
    locations: set[str] = set()
    domains: set[str] = set()
    if not path.stat().st_size:
        raise ValueError("it is empty")
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        seen = set()
        for kind, start, end in _messages(data, "model", 0, len(data), 0):
            seen.add(kind)
            if kind == "opset":
                domains.add(_text(data, start, end, 1))
            elif kind == "external" and _text(data, start, end, 1) == "location":
                locations.add(_text(data, start, end, 2))
    if not {"graph", "opset"} <= seen:
        raise ValueError("it has no graph of operators")
    return locations, domains - set(DOMAINS)


def _messages(
    data: mmap.mmap, kind: str, start: int, end: int, depth: int
) -> Iterator[tuple[str, int, int]]:
    """Every message below one of ``kind``, with its place in the file."""
    if depth > _MAX_DEPTH:
        raise ValueError("its graphs are nested too deeply")
    inner = _MESSAGES.get(kind, {})
    for number, first, last in _fields(data, start, end):
        if number in inner:
            yield inner[number], first, last
            yield from _messages(data, inner[number], first, last, depth + 1)


def _text(data: mmap.mmap, start: int, end: int, wanted: int) -> str:
    found = ""
    for number, first, last in _fields(data, start, end):
        if number == wanted:  # the last one counts
            found = data[first:last].decode()
    return found


def _fields(data: mmap.mmap, start: int, end: int) -> Iterator[tuple[int, int, int]]:
    """The length-delimited fields of a message: number, and where the content lies."""
    position = start
    while position < end:
        tag, position = _varint(data, position, end)
        number, wire = tag >> 3, tag & 7
        match wire:
            case 0:
                _, position = _varint(data, position, end)
            case 1:
                position += 8
            case 2:
                length, position = _varint(data, position, end)
                if length > end - position:
                    raise ValueError("it is cut off, or no protobuf")
                yield number, position, position + length
                position += length
            case 5:
                position += 4
            case _:
                raise ValueError("it is no protobuf")
    if position != end:
        raise ValueError("it is cut off, or no protobuf")


def _varint(data: mmap.mmap, position: int, end: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if position >= end:
            raise ValueError("it is cut off, or no protobuf")
        byte = data[position]
        position += 1
        value |= (byte & ~_MORE) << shift
        if not byte & _MORE:
            return value, position
    raise ValueError("it is no protobuf")
