"""Corrupted copies of valid inputs: the same bytes for the same seed, loader and number."""

import random
import struct
from collections.abc import Sequence

INTERESTING = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 2**62, 2**63 - 1)
MOST_CHANGES = 4


def mutated(rng: random.Random, seeds: Sequence[bytes], tokens: Sequence[bytes]) -> bytes:
    """One of ``seeds`` with one or four changes; ``tokens``: format fragments to insert anywhere."""
    data = bytearray(rng.choice(seeds))
    for _ in range(rng.choice((1, 1, 1, MOST_CHANGES))):
        change = rng.choice(GENTLE if rng.random() < 0.6 else ROUGH)
        change(rng, data, seeds, tokens)
    return bytes(data)


def _place(rng: random.Random, data: bytearray) -> int:
    """A random position, half of the time near the start, where headers are."""
    return rng.randrange(min(len(data), 64) if rng.random() < 0.4 else len(data)) if data else 0


def _span(rng: random.Random, data: bytearray) -> slice:
    begin = _place(rng, data)
    return slice(begin, begin + rng.choice((1, 2, 4, 8, 32, 200)))


def _flip(rng, data, seeds, tokens):
    if data:
        data[_place(rng, data)] ^= 1 << rng.randrange(8)


def _set_byte(rng, data, seeds, tokens):
    if data:
        data[_place(rng, data)] = rng.choice((0, 0x7F, 0x80, 0xFF, rng.randrange(256)))


def _set_number(rng, data, seeds, tokens):
    kind = rng.choice(("<H", ">H", "<I", ">I", "<Q", ">Q"))
    size = struct.calcsize(kind)
    place = _place(rng, data)
    data[place : place + size] = struct.pack(kind, rng.choice(INTERESTING) % 256**size)


def _delete(rng, data, seeds, tokens):
    del data[_span(rng, data)]


def _repeat(rng, data, seeds, tokens):
    span = _span(rng, data)
    data[span] = data[span] * rng.choice((2, 3, 50))


def _cut(rng, data, seeds, tokens):
    del data[_place(rng, data) :]


def _insert_token(rng, data, seeds, tokens):
    place = _place(rng, data)
    data[place:place] = rng.choice(tokens)


def _replace_by_token(rng, data, seeds, tokens):
    token = rng.choice(tokens)
    place = _place(rng, data)
    data[place : place + len(token)] = token


def _graft(rng, data, seeds, tokens):
    other = rng.choice(seeds)
    place = _place(rng, data)
    begin = rng.randrange(len(other) + 1)
    data[place:] = other[begin:]


GENTLE = (_flip, _set_byte)
ROUGH = (_set_number, _delete, _repeat, _cut, _insert_token, _replace_by_token, _graft)
