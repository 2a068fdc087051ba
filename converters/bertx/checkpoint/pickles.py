"""Pickles as data: an interpreter of the few opcodes that weights need. Nothing named in a pickle is ever looked up.

Python's own unpickler imports what a pickle names and calls it. Here a global is a pair of words, a call is a record of
its arguments, and whoever reads the pickle decides what they mean. Steps, sizes and kinds are bounded.
The opcodes are those of https://github.com/python/cpython/blob/main/Lib/pickletools.py.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Container
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from bertx.errors import InputRefused, escape

#: The largest pickle that is read, in bytes; that of a model with 1,000 tensors has 0.2 MB.
MAX_PICKLE_BYTES = 16 * 2**20
#: Opcodes in one pickle; a tensor takes about 50.
MAX_STEPS = 2_000_000

_STOP = 0x2E
_MAX_LINE = 4096
_MAX_DIGITS = 40
_UNSAFE = "it may be malicious: do not load it elsewhere either; ask its author for safetensors"
_DAMAGED = "download it again"


@dataclass(frozen=True, slots=True)
class Global:
    """A name that a pickle refers to: a word, not the object."""

    module: str
    name: str


@dataclass(frozen=True, slots=True)
class Call:
    """What a pickle wants to be called: recorded, not done."""

    function: Global
    arguments: tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class Persistent:
    """A reference to something outside the pickle, by its id."""

    id: Any


class _Mark:
    """Where a group of values begins on the stack."""


_MARK = _Mark()
_ORDERED = Global("collections", "OrderedDict")


def read_pickle(data: bytes, start: int, file: Path, allowed: Container[tuple[str, str]]) -> tuple[Any, int]:
    """(the value of the pickle that begins at `start`, where it ends).

    Values are None, bool, int, float, str, bytes, tuple, list, dict (OrderedDict too), Global, Call, Persistent.
    `allowed` holds the (module, name) pairs that may be named. Raises InputRefused("E_FORMAT"), naming `file`.
    """
    machine = _Machine(data, start, file, allowed)
    try:
        return machine.run(), machine.at
    except (IndexError, struct.error) as error:  # an operand or a value of the stack is missing
        machine.refuse("has a pickle that ends too early or takes what is not there", _DAMAGED, error)
    except (UnicodeError, ValueError) as error:
        machine.refuse("has a pickle with malformed text or numbers", _DAMAGED, error)


class _Machine:
    """The state of one pickle: its bytes, the place in them, the stack and the memo."""

    def __init__(self, data: bytes, start: int, file: Path, allowed: Container[tuple[str, str]]) -> None:
        self.data = data
        self.at = start
        self.file = file
        self.allowed = allowed
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}

    def run(self) -> Any:
        for _ in range(MAX_STEPS):
            opcode = self.unsigned(1)
            if opcode == _STOP:
                break
            step = _STEPS.get(opcode)
            if step is None:
                self.refuse(f"has a pickle with the opcode 0x{opcode:02x}, which no weights need", _UNSAFE)
            step(self)
        else:
            self.refuse(f"has a pickle of more than {MAX_STEPS:,} steps", "save the state dict alone")
        value = self.pop()
        if self.stack:
            self.refuse("has a pickle that leaves values behind", _DAMAGED)
        return value

    def refuse(self, what: str, hint: str, cause: Exception | None = None) -> NoReturn:
        raise InputRefused("E_FORMAT", f"{escape(self.file)} {what}", hint) from cause

    # Operands.

    def take(self, count: int) -> bytes:
        if not 0 <= count <= len(self.data) - self.at:
            raise IndexError
        self.at += count
        return self.data[self.at - count : self.at]

    def unsigned(self, size: int) -> int:
        return int.from_bytes(self.take(size), "little")

    def line(self, most: int = _MAX_LINE) -> bytes:
        end = self.data.index(b"\n", self.at, self.at + most)
        line = self.data[self.at : end]
        self.at = end + 1
        return line

    # The stack.

    def push(self, value: Any) -> None:
        self.stack.append(value)

    def pop(self) -> Any:
        value = self.stack.pop()
        if value is _MARK:
            raise IndexError
        return value

    def top(self) -> Any:
        return self.stack[-1]

    def group(self) -> list[Any]:
        """The values since the last mark, which are taken from the stack with it."""
        place = len(self.stack) - 1
        while self.stack[place] is not _MARK:
            place -= 1
            if place < 0:
                raise IndexError
        values = self.stack[place + 1 :]
        del self.stack[place:]
        return values

    # What opcodes do.

    def protocol(self) -> None:
        if self.unsigned(1) > 5:
            self.refuse("has a pickle of an unknown protocol", "save it with an older PyTorch")

    def frame(self) -> None:
        self.unsigned(8)

    def text(self, size: int) -> None:
        self.push(self.take(self.unsigned(size)).decode("utf-8"))

    def bytes(self, size: int) -> None:
        self.push(self.take(self.unsigned(size)))

    def long(self, size: int) -> None:
        length = self.unsigned(size)
        if length > _MAX_DIGITS:
            raise ValueError
        self.push(int.from_bytes(self.take(length), "little", signed=True))

    def decimal(self) -> None:
        line = self.line(_MAX_DIGITS)
        self.push({b"00": False, b"01": True}[line] if line in (b"00", b"01") else int(line.removesuffix(b"L")))

    def keep(self, place: int) -> None:
        if self.top() is _MARK:
            raise IndexError
        self.memo[place] = self.top()

    def recall(self, place: int) -> None:
        if place not in self.memo:
            raise IndexError
        self.push(self.memo[place])

    def name(self, module: Any, name: Any) -> None:
        if not isinstance(module, str) or not isinstance(name, str):
            self.refuse("has a pickle that computes the names of what it calls", _UNSAFE)
        if (module, name) not in self.allowed:
            named = escape(f"{module}.{name}", 200)
            hint = "save the state dict alone (torch.save(model.state_dict(), …)), or use safetensors"
            self.refuse(f"names {named}, which is code and no part of weights", hint)
        self.push(Global(module, name))

    def stack_global(self) -> None:
        name, module = self.pop(), self.pop()
        self.name(module, name)

    def call(self) -> None:
        arguments, function = self.pop(), self.pop()
        if not isinstance(function, Global) or not isinstance(arguments, tuple):
            self.refuse("has a pickle that calls what is no name", _UNSAFE)
        self.push(self.ordered(arguments) if function == _ORDERED else Call(function, arguments))

    def ordered(self, arguments: tuple[Any, ...]) -> dict[Any, Any]:
        made: dict[Any, Any] = {}
        pairs = arguments[0] if len(arguments) == 1 else []
        if len(arguments) > 1 or not isinstance(pairs, list):
            self.refuse("has a pickle with a malformed OrderedDict", _DAMAGED)
        for pair in pairs:
            if not isinstance(pair, list | tuple) or len(pair) != 2:
                self.refuse("has a pickle with a malformed OrderedDict", _DAMAGED)
            self.set(made, pair[0], pair[1])
        return made

    def build(self) -> None:
        """Attributes: those of an OrderedDict (a state dict's versions) say nothing of its tensors."""
        state = self.pop()
        if not isinstance(self.top(), dict) or not isinstance(state, dict):
            self.refuse("has a pickle that sets attributes", _UNSAFE)

    def persistent(self) -> None:
        self.push(Persistent(self.pop()))

    def set(self, target: Any, key: Any, value: Any) -> None:
        # Other keys could nest deeper than C can hash.
        if not isinstance(target, dict) or not isinstance(key, str | int):
            self.refuse("has a pickle with keys that are neither text nor numbers", _DAMAGED)
        if key in target:
            self.refuse(f"has the key {escape(key, 200)} twice", _DAMAGED)
        target[key] = value

    def set_all(self) -> None:
        values = self.group()
        if len(values) % 2:
            raise IndexError
        for key, value in zip(values[::2], values[1::2], strict=True):
            self.set(self.top(), key, value)

    def set_one(self) -> None:
        value, key = self.pop(), self.pop()
        self.set(self.top(), key, value)

    def dictionary(self) -> None:
        values = self.group()
        self.push({})
        for key, value in zip(values[::2], values[1::2], strict=True):
            self.set(self.top(), key, value)

    def append(self, values: list[Any]) -> None:
        if not isinstance(self.top(), list):
            self.refuse("has a pickle that appends to what is no list", _UNSAFE)
        self.top().extend(values)

    def tuple_of(self, count: int) -> None:
        self.push(tuple(reversed([self.pop() for _ in range(count)])))


#: opcode -> what it does; any other is refused
_STEPS: dict[int, Callable[[_Machine], Any]] = {
    ord(code): step
    for code, step in {
        "\x80": _Machine.protocol,
        "\x95": _Machine.frame,
        "N": lambda m: m.push(None),
        "\x88": lambda m: m.push(True),
        "\x89": lambda m: m.push(False),
        "I": _Machine.decimal,
        "L": _Machine.decimal,
        "J": lambda m: m.push(int.from_bytes(m.take(4), "little", signed=True)),
        "K": lambda m: m.push(m.unsigned(1)),
        "M": lambda m: m.push(m.unsigned(2)),
        "\x8a": lambda m: m.long(1),
        "\x8b": lambda m: m.long(4),
        "F": lambda m: m.push(float(m.line(_MAX_DIGITS))),
        "G": lambda m: m.push(struct.unpack(">d", m.take(8))[0]),
        "V": lambda m: m.push(m.line().decode("raw_unicode_escape")),
        "X": lambda m: m.text(4),
        "\x8c": lambda m: m.text(1),
        "\x8d": lambda m: m.text(8),
        "T": lambda m: m.text(4),
        "U": lambda m: m.text(1),
        "B": lambda m: m.bytes(4),
        "C": lambda m: m.bytes(1),
        "\x8e": lambda m: m.bytes(8),
        "(": lambda m: m.push(_MARK),
        ")": lambda m: m.push(()),
        "]": lambda m: m.push([]),
        "}": lambda m: m.push({}),
        "t": lambda m: m.push(tuple(m.group())),
        "l": lambda m: m.push(m.group()),
        "d": _Machine.dictionary,
        "\x85": lambda m: m.tuple_of(1),
        "\x86": lambda m: m.tuple_of(2),
        "\x87": lambda m: m.tuple_of(3),
        "a": lambda m: m.append([m.pop()]),
        "e": lambda m: m.append(m.group()),
        "s": _Machine.set_one,
        "u": _Machine.set_all,
        "p": lambda m: m.keep(int(m.line(_MAX_DIGITS))),
        "q": lambda m: m.keep(m.unsigned(1)),
        "r": lambda m: m.keep(m.unsigned(4)),
        "\x94": lambda m: m.keep(len(m.memo)),
        "g": lambda m: m.recall(int(m.line(_MAX_DIGITS))),
        "h": lambda m: m.recall(m.unsigned(1)),
        "j": lambda m: m.recall(m.unsigned(4)),
        "c": lambda m: m.name(m.line().decode("utf-8"), m.line().decode("utf-8")),
        "\x93": _Machine.stack_global,
        "R": _Machine.call,
        "b": _Machine.build,
        "Q": _Machine.persistent,
    }.items()
}
