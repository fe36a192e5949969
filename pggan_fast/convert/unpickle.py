"""Pickles as data: an interpreter of their opcodes that builds plain containers, numbers and arrays and calls nothing.

Python's own unpickler imports and calls what the file names. Here a name is a `Name`, never looked up, and "calling"
one is a look into a table of a few constructors of our own; every other name is refused. So nothing of the file is
executed, whatever it says, and neither TensorFlow nor the classes of the file's networks are needed. Lengths are those
that the file really has, so a small file allocates little.
"""

from __future__ import annotations

import io
import math
import pickletools
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from pggan_fast.convert.errors import ConversionError
from pggan_fast.errors import line

Reduce = Callable[[tuple[Any, ...]], Any]
_MARK = object()
_KEYS = (str, bytes, int, float, bool, type(None))  # hashing nested tuples may take forever
# Protocols 0 to 5, less what extends the interpreter (EXT*) or shares buffers beyond the stream
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_VALUES = frozenset(
    ("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT",
     "STRING", "BINSTRING", "SHORT_BINSTRING", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8",
     "UNICODE", "SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8")
)  # fmt: skip
_EMPTY: Mapping[str, Callable[[], Any]] = {
    "EMPTY_LIST": list,
    "EMPTY_SET": list,
    "EMPTY_DICT": dict,
    "EMPTY_TUPLE": tuple,
}
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


@dataclass(frozen=True)
class Name:
    """A global that the file names; it is not imported."""

    module: str
    name: str

    def __str__(self) -> str:
        return line(f"{self.module}.{self.name}")


@dataclass(repr=False, eq=False)
class Object:
    """An instance of a class that stays a name, with the state that the file gives it."""

    cls: Name
    state: dict[str, Any] = field(default_factory=dict)

    def build(self, state: Any) -> None:
        for part in state if isinstance(state, tuple) else (state,):  # (dict, slots)
            if isinstance(part, dict):
                self.state.update((k, v) for k, v in part.items() if isinstance(k, str))
            elif part is not None:
                self.state["__state__"] = part


@dataclass(repr=False, eq=False)
class Persistent:
    """What a stream keeps outside of itself, by the id that it gives: torch's storages."""

    id: Any


class Array:
    """A numpy array or scalar in the making: `value` is None until its state came."""

    def __init__(self, value: npt.NDArray[Any] | None = None) -> None:
        self.value = value

    def build(self, state: Any) -> None:
        if not (isinstance(state, tuple) and len(state) == 5 and isinstance(state[2], Dtype)):
            raise ConversionError("an array's state is not that of a numpy array")
        _, shape, dtype, fortran, data = state
        self.value = array(data, dtype, shape, "F" if fortran else "C")


class Dtype:
    """A numpy dtype in the making."""

    def __init__(self, code: Any) -> None:
        if not isinstance(code, str) or len(code) > 16:
            raise ConversionError(f"a numpy dtype of {line(code, 40)}, expected its code")
        try:
            self.value = np.dtype(code)
        except (TypeError, ValueError, SyntaxError):
            raise ConversionError(f"no numpy dtype: {line(code)}") from None
        if self.value.kind not in "fiub":
            raise ConversionError(f"an array of {line(code)}, expected numbers")

    def build(self, state: Any) -> None:
        order = state[1] if isinstance(state, tuple) and len(state) > 1 else None
        if order not in ("<", ">", "=", "|"):
            raise ConversionError("a dtype's state is not that of a numpy dtype")
        if order in "<>":
            self.value = self.value.newbyteorder(order)


def array(data: Any, dtype: Any, shape: Any, order: Any = "C") -> npt.NDArray[Any]:
    """An array over bytes of exactly its size. Raises ConversionError."""
    raw = data.encode("latin-1") if isinstance(data, str) else data  # Python 2's strings
    shape = (shape,) if type(shape) is int else shape
    sizes = isinstance(shape, tuple) and len(shape) <= 32 and all(type(n) is int and n >= 0 for n in shape)
    if not (sizes and isinstance(raw, (bytes, bytearray)) and isinstance(dtype, Dtype) and order in ("C", "F")):
        raise ConversionError("an array's state is not that of a numpy array")
    if math.prod(shape) * dtype.value.itemsize != len(raw):
        raise ConversionError(f"an array of shape {line(shape)} and dtype {dtype.value} has {len(raw)} bytes")
    array: np.ndarray = np.frombuffer(raw, dtype.value).reshape(shape, order=order)
    return array


def _scalar(args: tuple[Any, ...]) -> Array:
    dtype, data = args
    return Array(array(data, dtype, ()))


def _frombuffer(args: tuple[Any, ...]) -> Array:
    data, dtype, shape, order = args
    return Array(array(data, dtype, shape, order))


def _encode(args: tuple[Any, ...]) -> bytes:
    text, encoding = args
    if not isinstance(text, str) or not isinstance(encoding, str) or encoding not in ("latin1", "latin-1"):
        raise ConversionError(f"_codecs.encode of {type(text).__name__}, expected text and latin1")
    return text.encode("latin-1")


def _no_bytes(args: tuple[Any, ...]) -> bytes:
    """What protocols 0 to 2 have of empty bytes, as those of an empty array; others they encode."""
    if args:
        raise ConversionError("bytes of something, expected of nothing")
    return b""


def _ordered(args: tuple[Any, ...]) -> OrderedDict[Any, Any]:
    made: OrderedDict[Any, Any] = OrderedDict()
    for pair in args[0] if args else ():
        key, value = pair
        _put(made, key, value)
    return made


# What may be "called": a name's arguments, in the order of the pickle, to a value of our own.
NUMPY: dict[Name, Reduce] = {
    Name("numpy", "dtype"): lambda args: Dtype(args[0]),
    Name("collections", "OrderedDict"): _ordered,
    Name("_codecs", "encode"): _encode,
    Name("builtins", "set"): lambda args: list(args[0]) if args else [],
    Name("__builtin__", "set"): lambda args: list(args[0]) if args else [],
    Name("__builtin__", "bytes"): _no_bytes,
    **{
        Name(f"numpy.{core}.{module}", name): reduce
        for core in ("core", "_core")
        for module, name, reduce in (
            ("multiarray", "_reconstruct", lambda args: Array()),
            ("multiarray", "scalar", _scalar),
            ("numeric", "_frombuffer", _frombuffer),
        )
    },
}
_RECONSTRUCTORS = (Name("copy_reg", "_reconstructor"), Name("copyreg", "_reconstructor"))


class Interpreter:
    """Runs the opcodes of one pickle after the other.

    Args:
        data: the file.
        calls: names that may be called, with what they give.
        classes: whether instances of a class, which stays a name, may be built.
        persistent: what stands for an id of the stream's.
    """

    def __init__(
        self,
        data: io.BytesIO,
        calls: Mapping[Name, Reduce],
        classes: Callable[[Name], bool],
        persistent: Callable[[Any], Any] = Persistent,
    ) -> None:
        self._data, self._calls, self._classes, self._persistent = data, calls, classes, persistent
        self._stack: list[Any] = []
        self._memo: dict[int, Any] = {}
        here = data.tell()
        self._left = 8 * data.seek(0, io.SEEK_END) + 65536  # elements that may be copied: a file may name one often
        data.seek(here)

    def load(self) -> Any:
        """The value of the next pickle; the data stand behind it. Raises ConversionError."""
        self._stack, self._memo = [], {}
        try:
            for opcode, arg, _ in self._opcodes():
                if opcode.name == "STOP":
                    return self._pop()
                self._run(opcode.name, arg)
        except ConversionError:
            raise
        # What a short stack and constructors over odd arguments raise
        except (ValueError, IndexError, KeyError, TypeError, AttributeError, ArithmeticError, MemoryError) as error:
            raise ConversionError(f"not a whole pickle: {type(error).__name__} {line(error)}".rstrip()) from None
        raise ConversionError("not a whole pickle: it has no end")

    def _opcodes(self) -> Iterator[Any]:
        """Those of the next pickle; where the data end in the middle of one, that is the reason."""
        try:
            yield from pickletools.genops(self._data)
        except (ValueError, IndexError, KeyError, TypeError, AttributeError, ArithmeticError, MemoryError) as error:
            at_end = not self._data.read(1)
            raise ConversionError(
                "it looks truncated: the pickle ends early" if at_end else f"not a whole pickle: {line(error)}"
            ) from None

    def _run(self, name: str, arg: Any) -> None:
        stack = self._stack
        if name in _VALUES:
            stack.append(arg)
        elif name in _CONSTANTS:
            stack.append(_CONSTANTS[name])
        elif name in _EMPTY:
            stack.append(_EMPTY[name]())
        elif name in _TUPLES:
            stack[-_TUPLES[name] :] = [tuple(stack[-_TUPLES[name] :])]
        elif name in ("PUT", "BINPUT", "LONG_BINPUT"):
            self._memo[arg] = stack[-1]
        elif name == "MEMOIZE":
            self._memo[len(self._memo)] = stack[-1]
        elif name in ("GET", "BINGET", "LONG_BINGET"):
            stack.append(self._memo[arg])
        elif name not in ("PROTO", "FRAME"):
            method = getattr(self, f"_op_{name.lower()}", None)
            if method is None:
                raise ConversionError(f"a pickle with the opcode {name}, which is refused")
            method(arg)

    def _pop(self) -> Any:
        value = self._stack.pop()
        if value is _MARK:
            raise ConversionError("not a whole pickle: a mark where a value should be")
        return value

    def _marked(self) -> list[Any]:
        """What stands above the last mark, which goes too."""
        for at in range(len(self._stack) - 1, -1, -1):
            if self._stack[at] is _MARK:
                values = self._stack[at + 1 :]
                del self._stack[at:]
                return values
        raise ConversionError("not a whole pickle: a mark is missing")

    def _op_mark(self, arg: Any) -> None:
        self._stack.append(_MARK)

    def _op_pop(self, arg: Any) -> None:
        self._stack.pop()

    def _op_pop_mark(self, arg: Any) -> None:
        self._marked()

    def _op_dup(self, arg: Any) -> None:
        self._stack.append(self._stack[-1])

    def _op_tuple(self, arg: Any) -> None:
        self._stack.append(tuple(self._marked()))

    def _op_list(self, arg: Any) -> None:
        self._stack.append(self._marked())

    def _op_dict(self, arg: Any) -> None:
        made: dict[Any, Any] = {}
        self._fill(made, self._marked())
        self._stack.append(made)

    def _op_append(self, arg: Any) -> None:
        value = self._pop()
        self._extend([value])

    def _op_appends(self, arg: Any) -> None:
        self._extend(self._marked())

    _op_additems = _op_appends  # a set is a list here: hashing may take forever

    def _op_setitem(self, arg: Any) -> None:
        value, key = self._pop(), self._pop()
        self._fill(self._stack[-1], [key, value])

    def _op_setitems(self, arg: Any) -> None:
        items = self._marked()
        self._fill(self._stack[-1], items)

    def _op_global(self, arg: str) -> None:
        module, _, name = arg.partition(" ")
        self._stack.append(Name(module, name))

    def _op_stack_global(self, arg: Any) -> None:
        name, module = self._pop(), self._pop()
        if not isinstance(name, str) or not isinstance(module, str):
            raise ConversionError("a pickle with a name that is no text")
        self._stack.append(Name(module, name))

    def _op_reduce(self, arg: Any) -> None:
        args, callee = self._pop(), self._pop()
        self._spend(args)
        if callee in _RECONSTRUCTORS and isinstance(args, tuple) and args:
            self._stack.append(self._instance(args[0]))
        elif isinstance(callee, Name) and isinstance(args, tuple) and callee in self._calls:
            self._stack.append(self._calls[callee](args))
        else:
            raise self._refused(callee)

    def _op_newobj(self, arg: Any) -> None:
        args, cls = self._pop(), self._pop()
        self._spend(args)
        if isinstance(cls, Name) and cls in self._calls and isinstance(args, tuple):
            self._stack.append(self._calls[cls](args))
        else:
            self._stack.append(self._instance(cls))

    def _op_newobj_ex(self, arg: Any) -> None:
        del self._stack[-1]  # keyword arguments
        self._op_newobj(arg)

    def _op_inst(self, arg: str) -> None:
        module, _, name = arg.partition(" ")
        self._marked()
        self._stack.append(self._instance(Name(module, name)))

    def _op_obj(self, arg: Any) -> None:
        self._stack.append(self._instance(self._marked()[0]))

    def _op_build(self, arg: Any) -> None:
        state, value = self._pop(), self._stack[-1]
        self._spend(state)
        if isinstance(value, (Object, Array, Dtype)):
            value.build(state)
        elif not isinstance(value, OrderedDict):  # whose attributes (_metadata of a state dict) say nothing of tensors
            raise ConversionError(f"a pickle that changes the state of {self._what(value)}, which is refused")

    def _op_persid(self, arg: str) -> None:
        self._stack.append(self._persistent(arg))

    def _op_binpersid(self, arg: Any) -> None:
        self._stack.append(self._persistent(self._pop()))

    def _spend(self, args: Any) -> None:
        parts = (args, *args) if isinstance(args, tuple) else (args,)
        self._left -= sum(len(part) for part in parts if isinstance(part, (str, bytes, bytearray, list, dict, tuple)))
        if self._left < 0:
            raise ConversionError("a pickle that grows far beyond its own size, which is refused")

    def _instance(self, cls: Any) -> Object:
        if not isinstance(cls, Name) or not self._classes(cls):
            raise self._refused(cls)
        return Object(cls)

    def _extend(self, values: list[Any]) -> None:
        target = self._stack[-1]
        if not isinstance(target, list):
            raise ConversionError(f"a pickle that appends to {self._what(target)}, which is refused")
        target.extend(values)

    def _fill(self, target: Any, items: list[Any]) -> None:
        if not isinstance(target, dict):
            raise ConversionError(f"a pickle that sets items of {self._what(target)}, which is refused")
        if len(items) % 2:
            raise ConversionError("not a whole pickle: a key without a value")
        for key, value in zip(items[::2], items[1::2], strict=True):
            _put(target, key, value)

    def _refused(self, what: Any) -> ConversionError:
        return ConversionError(f"it asks for {self._what(what)}, which is refused: nothing of the file is executed")

    def _what(self, value: Any) -> str:
        return str(value) if isinstance(value, Name) else type(value).__name__


def _put(target: dict[Any, Any], key: Any, value: Any) -> None:
    if not isinstance(key, _KEYS):
        raise ConversionError(f"a dictionary with a key of type {type(key).__name__}, which is refused")
    target[key] = value
