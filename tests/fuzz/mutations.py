"""What a file looks like after somebody damaged it, or made it up: seeded changes of a valid one.

A sample is its parts and how they become a file, so that a change of a part comes with the checksums and lengths around
it, and reaches what is behind them. A part is bytes, or a structure as JSON or torch.save has it.
"""

from __future__ import annotations

import copy
import json
import math
import random
from collections.abc import Callable
from typing import Any, NamedTuple

import torch

_LENGTHS = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 1 << 40, (1 << 63) - 1, 1 << 63)
_TOKENS = (
    b"[" * 30_000, b'{"a":' * 3_000, b"1e999", b"-1", b"null", b"NaN", b"9" * 5_000, b"9" * 400, b'"', b"\\ud800",
    b"\n", b"\0", b"\xff\xfe", b"../../x", b"\x1b[2J", b"<script>", b"{}", b"[]", b",",
)  # fmt: skip
_ODD: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 3, 1 << 31, 1 << 63, -(10**400), 10**400, 1e-320, 0.5, 1e308, math.inf, math.nan, "",
    "x", "\x1b]0;owned\x07", "\u202ex", "../../x", "/etc/passwd", "<script>alert(1)</script>", "\ud800", "[/x]",
    "$x_", "x\ny", "a" * 5_000, [], {}, [[]], [None], {"": {}}, [1] * 1_000,
)  # fmt: skip


class Sample(NamedTuple):
    """A valid file."""

    parts: tuple[Any, ...]
    pack: Callable[..., bytes] = lambda *parts: b"".join(parts)

    def whole(self) -> bytes:
        return self.pack(*self.parts)


def text_of(value: Any) -> bytes:
    """JSON, for a sample whose part is a structure."""
    return json.dumps(value).encode()


def mutated(rng: random.Random, samples: list[Sample]) -> bytes:
    """One of the samples, changed in one to three places."""
    sample, other = rng.choice(samples), rng.choice(samples)
    if rng.random() < 0.4:
        return _bytes(rng, sample.whole(), other.whole())
    parts = list(sample.parts)
    for _ in range(rng.choice((1, 1, 2, 3))):
        at = rng.randrange(len(parts))
        parts[at] = _bytes(rng, parts[at], parts[at]) if isinstance(parts[at], bytes) else _structure(rng, parts[at])
    try:
        return sample.pack(*parts)
    except (ValueError, TypeError, OverflowError, AttributeError, KeyError):  # nothing can write that
        return _bytes(rng, sample.whole(), other.whole())


def _bytes(rng: random.Random, data: bytes, other: bytes) -> bytes:
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        data = rng.choice((_flipped, _flipped, _set, _length, _length, _cut, _spliced, _repeated, _token))(
            rng, data, other
        )
    return data


def _place(rng: random.Random, data: bytes) -> int:
    """Headers stand at both ends."""
    size = len(data)
    spans = ((0, size), (0, min(size, 64)), (0, min(size, 512)), (max(0, size - 128), size))
    low, high = rng.choice(spans)
    return rng.randrange(low, high) if high > low else 0


def _put(data: bytes, at: int, new: bytes) -> bytes:
    return (data[:at] + new + data[at + len(new) :])[: max(len(data), 1)]


def _flipped(rng: random.Random, data: bytes, other: bytes) -> bytes:
    at = _place(rng, data)
    return _put(data, at, bytes([data[at] ^ (1 << rng.randrange(8))])) if data else data


def _set(rng: random.Random, data: bytes, other: bytes) -> bytes:
    return _put(data, _place(rng, data), bytes([rng.choice((0, 0xFF, 0x7F, 0x80, 10, 32, rng.randrange(256)))]))


def _length(rng: random.Random, data: bytes, other: bytes) -> bytes:
    """A number in the place of one: a limit of its width, one near the file's size, or one off."""
    at, width = _place(rng, data), rng.choice((1, 2, 4, 8))
    order = rng.choice(("little", "big"))
    old = int.from_bytes(data[at : at + width], order)
    value = rng.choice((*_LENGTHS, len(data), len(data) + rng.randrange(-9, 9), old + 1, old - 1, 2 * old))
    return _put(data, at, (value % (1 << 8 * width)).to_bytes(width, order))


def _cut(rng: random.Random, data: bytes, other: bytes) -> bytes:
    return data[: _place(rng, data)]


def _spliced(rng: random.Random, data: bytes, other: bytes) -> bytes:
    """A piece of another one in the place of one's own, of the same length or not."""
    at, start = _place(rng, data), _place(rng, other)
    piece = other[start : start + rng.choice((1, 4, 16, 64, 1024))]
    return _put(data, at, piece) if rng.random() < 0.5 else data[:at] + piece + data[at + rng.randrange(64) :]


def _repeated(rng: random.Random, data: bytes, other: bytes) -> bytes:
    at, length = _place(rng, data), rng.choice((1, 8, 30, 512))
    return data[:at] + data[at : at + length] * rng.randrange(4) + data[at + length :]


def _token(rng: random.Random, data: bytes, other: bytes) -> bytes:
    at = _place(rng, data)
    return data[:at] + rng.choice(_TOKENS) + data[at + rng.choice((0, 0, 1, 4)) :]


def _structure(rng: random.Random, value: Any) -> Any:
    """A node of it replaced, left out, moved or named otherwise."""
    value = copy.deepcopy(value)
    places = list(_nodes(value))
    if not places:
        return rng.choice(_ODD)
    holder, key = rng.choice(places)
    odd = (*_ODD, _odd_tensor(rng)) if isinstance(holder[key], torch.Tensor) else _ODD
    change = rng.randrange(6)
    if change == 0:
        del holder[key]
    elif change == 1:
        source, name = rng.choice(places)
        holder[key] = copy.deepcopy(source.get(name) if isinstance(source, dict) else source[name % max(1, len(source))]
                                    if source else None)  # fmt: skip
    elif change == 2 and isinstance(holder, dict):
        holder[rng.choice([text for text in _ODD if isinstance(text, str)])] = holder.pop(key)
    else:
        holder[key] = rng.choice(odd)
    return value


def _nodes(value: Any) -> Any:
    """(container, key) of everything in it."""
    pairs = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in list(pairs):
        yield value, key
        yield from _nodes(inner)


def _odd_tensor(rng: random.Random) -> torch.Tensor:
    shape = rng.choice(((), (0,), (1,), (3, 3), (2, 2, 2, 2)))
    return torch.full(shape, rng.choice((0.0, math.nan, 1e38))).to(rng.choice((torch.float32, torch.int64, torch.bool)))
