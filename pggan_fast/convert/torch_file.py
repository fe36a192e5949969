"""Files of `torch.save` as data: both formats, whole pickled modules too, with nothing imported or called.

`torch.load(weights_only=True)` refuses a pickled module and the configuration objects that some programs save beside
their weights; here classes stay names (see `unpickle`), so that a module is its state.

Zip (torch >= 1.6): `NAME/data.pkl` and storages `NAME/data/KEY`. Older: a magic number, a version and a description of
the system as pickles, the object, the keys of its storages, then each storage's length (8 bytes) and bytes.
"""

from __future__ import annotations

import io
import math
import struct
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pggan_fast.convert.errors import ConversionError
from pggan_fast.convert.unpickle import NUMPY, Interpreter, Name, Object, Persistent, Reduce
from pggan_fast.errors import few, line

MAGIC = 0x1950A86A20F9469CFC6C  # of the older format
_VERSION = 1001
_MOST_MODULES = 10_000
_STORAGES = {
    "FloatStorage": torch.float32, "DoubleStorage": torch.float64, "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16, "LongStorage": torch.int64, "IntStorage": torch.int32,
    "ShortStorage": torch.int16, "CharStorage": torch.int8, "ByteStorage": torch.uint8, "BoolStorage": torch.bool,
}  # fmt: skip
# Classes that may be instances in such a file. They are never imported: the list keeps files of another kind out
_CLASSES = (
    "torch.nn.", "torch.optim.", "__main__.", "model.", "models.", "network.", "networks.", "custom_layers.", "config.",
    "utils.", "progan.", "stylegan.", "resnetgan.", "argparse.Namespace", "_int.", "pro_gan_pytorch.", "gan_lab.",
)  # fmt: skip


@dataclass(eq=False)
class Stored:
    """A tensor whose storage is not read yet."""

    key: str
    dtype: torch.dtype
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]


def is_torch_file(data: bytes) -> bool:
    if data[:4] == b"PK\x03\x04":
        return True
    try:
        same: bool = Interpreter(io.BytesIO(data[:64]), {}, lambda cls: False).load() == MAGIC
        return same
    except ConversionError:
        return False


def load(data: bytes) -> Any:
    """The saved object: containers, numbers, tensors, and `Object`s. Raises ConversionError."""
    if data[:4] == b"PK\x03\x04":
        return _load_zip(data)
    stream = io.BytesIO(data)
    reader = _interpreter(stream)
    magic, version, system = reader.load(), reader.load(), reader.load()
    if magic != MAGIC or version != _VERSION:
        raise ConversionError("not a file of torch.save")
    if isinstance(system, dict) and system.get("little_endian") is False:
        raise ConversionError("a file of a big-endian machine")
    value, keys = reader.load(), reader.load()
    return _resolved(value, _old_storages(data, stream.tell(), value, keys))


def tensors(value: Any) -> dict[str, Tensor] | None:
    """The tensors of a state dict or of a pickled module by their names; None where it is neither."""
    if isinstance(value, Object):
        found: dict[str, Tensor] = {}
        return found if _module_tensors(value, "", found, [_MOST_MODULES]) and found else None
    if not isinstance(value, dict) or not value or not all(isinstance(key, str) for key in value):
        return None
    found = {key: t for key, t in value.items() if isinstance(t, Tensor)}
    return found if len(found) == len(value) else None


def _module_tensors(module: Object, prefix: str, found: dict[str, Tensor], left: list[int]) -> bool:
    """Whether it is a module; one may hold itself, or hold one many times."""
    parts = [module.state.get(key) for key in ("_parameters", "_buffers", "_modules")]
    left[0] -= 1
    if left[0] < 0 or len(prefix) > 1000:
        raise ConversionError("a module within a module without end")
    if not all(isinstance(part, dict) for part in parts):
        return False
    parameters, buffers, children = parts
    for key, value in [*parameters.items(), *buffers.items()]:  # type: ignore[union-attr]
        if isinstance(value, Tensor):
            found[f"{prefix}{line(key)}"] = value
    items = children.items()  # type: ignore[union-attr]
    return all(
        child is None or (isinstance(child, Object) and _module_tensors(child, f"{prefix}{line(key)}.", found, left))
        for key, child in items
    )


def _interpreter(stream: io.BytesIO) -> Interpreter:
    return Interpreter(stream, _CALLS, _may_stay_a_name, _persistent)


def _may_stay_a_name(cls: Name) -> bool:
    if not str(cls).startswith(_CLASSES):
        raise ConversionError(
            f"it holds an object of the class {cls}, which is not loaded, as that would run its author's code; if it "
            "is a whole module (torch.save(net)), save its weights instead: torch.save(net.state_dict(), ...)"
        )
    return True


def _persistent(held: Any) -> Any:
    """A storage, or a module's class with its source, which old files keep beside it."""
    of_class = isinstance(held, tuple) and len(held) > 1 and held[0] == "module" and isinstance(held[1], Name)
    return held[1] if of_class else Persistent(held)


def _load_zip(data: bytes) -> Any:
    try:
        if b"PK\x05\x06" not in data[-(1 << 16) - 22 :]:
            raise ConversionError(
                f"it looks truncated: the end of the ZIP that torch.save writes is missing (it has {len(data)} bytes); "
                "copy it again"
            )
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            members = {info.filename: info for info in archive.infolist()}
            pickles = [member for member in members if member.endswith("/data.pkl")]
            if len(pickles) != 1:
                raise ConversionError(f"a ZIP file, but none of torch.save: it has {few(members) or 'no files'}")
            root = pickles[0].removesuffix("data.pkl")
            if (order := members.get(f"{root}byteorder")) and _member(archive, order) != b"little":
                raise ConversionError("a file of a big-endian machine")
            value = _interpreter(io.BytesIO(_member(archive, members[pickles[0]]))).load()
            left = [len(data)]  # members may overlap: no more is read than the file has

            def storage(key: str, dtype: torch.dtype) -> bytes:
                info = members.get(f"{root}data/{key}")
                if info is None:
                    raise ConversionError(f"the storage {line(key)} is missing")
                left[0] -= info.file_size
                if left[0] < 0:
                    raise ConversionError("storages that are larger than the file")
                return _member(archive, info)

            return _resolved(value, storage)
    except (zipfile.BadZipFile, struct.error, EOFError, RuntimeError, ValueError, LookupError, OSError) as error:
        if isinstance(error, ConversionError):
            raise
        raise ConversionError(f"a damaged ZIP file: {line(error) or type(error).__name__}") from None


def _member(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> bytes:
    if info.compress_type != zipfile.ZIP_STORED:
        raise ConversionError(f"{line(info.filename)} is compressed, which torch.save never does")
    return archive.read(info)


def _old_storages(data: bytes, at: int, value: Any, keys: Any) -> Callable[[str, torch.dtype], bytes]:
    """Where the storages behind the object lie. Their lengths are in elements, so the tensors' dtypes are needed."""
    dtypes: dict[str, torch.dtype] = {}
    _walk(value, lambda t: dtypes.setdefault(t.key, t.dtype))
    places: dict[str, bytes] = {}
    if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys):
        raise ConversionError("not a whole file of torch.save: the keys of its storages are missing")
    for key in keys:
        if key not in dtypes:
            raise ConversionError(f"the storage {line(key)} belongs to no tensor")
        size = int.from_bytes(data[at : at + 8], "little") * dtypes[key].itemsize
        if len(data) - at < 8 + size:
            raise ConversionError(f"it looks truncated: the storage {line(key)} ends early; copy it again")
        places[key] = data[at + 8 : at + 8 + size]
        at += 8 + size

    def storage(key: str, dtype: torch.dtype) -> bytes:
        if key not in places:
            raise ConversionError(f"the storage {line(key)} is missing")
        return places[key]

    return storage


def _walk(value: Any, visit: Callable[[Stored], Any]) -> None:
    """Every tensor, each container once: it may hold itself."""
    seen: set[int] = set()
    stack = [value]
    while stack:
        item = stack.pop()
        if isinstance(item, Stored):
            visit(item)
        elif isinstance(item, (dict, list, tuple, Object)) and id(item) not in seen:
            seen.add(id(item))
            stack += (
                item.state.values() if isinstance(item, Object) else item.values() if isinstance(item, dict) else item
            )


def _resolved(value: Any, storage: Callable[[str, torch.dtype], bytes]) -> Any:
    """The value with tensors in place of `Stored`, in its dictionaries and objects."""
    storages: dict[str, bytes] = {}
    made: dict[int, Tensor] = {}

    def tensor(t: Stored) -> Tensor:
        if t.key not in storages:
            storages[t.key] = storage(t.key, t.dtype)
        if id(t) not in made:
            made[id(t)] = _tensor(t, storages[t.key])
        return made[id(t)]

    seen: set[int] = set()
    stack = [value]
    while stack:
        item = stack.pop()
        if id(item) in seen or not isinstance(item, (dict, list, tuple, Object)):
            continue
        seen.add(id(item))
        mapping = item.state if isinstance(item, Object) else item
        if isinstance(mapping, dict):
            for key, part in mapping.items():
                if isinstance(part, Stored):
                    mapping[key] = tensor(part)
        stack += mapping.values() if isinstance(mapping, dict) else mapping
    return value


def _tensor(t: Stored, raw: bytes) -> Tensor:
    elements = len(raw) // t.dtype.itemsize
    last = t.offset + sum((n - 1) * stride for n, stride in zip(t.size, t.stride, strict=True))
    count = math.prod(t.size)
    if count and (last >= elements or count > elements):
        raise ConversionError(
            f"a tensor of {count} elements up to element {last} of the storage {line(t.key)}, which has {elements}"
        )
    if not count:
        return torch.empty(t.size, dtype=t.dtype)
    flat = torch.frombuffer(bytearray(raw), dtype=t.dtype, count=elements)
    return flat.as_strided(t.size, t.stride, t.offset).clone()


def _rebuilt(args: tuple[Any, ...]) -> Stored:
    """Of `_rebuild_tensor[_v2]`: (storage, offset, size, stride, ...)."""
    held, offset, size, stride = args[:4]
    parts = held.id if isinstance(held, Persistent) else None
    if not (isinstance(parts, tuple) and len(parts) >= 5 and parts[0] == "storage" and isinstance(parts[2], str)):
        raise ConversionError("a tensor without a storage")
    kind = parts[1]
    if not isinstance(kind, Name) or kind.module not in ("torch", "torch.storage") or kind.name not in _STORAGES:
        raise ConversionError(f"a storage of {line(kind)}, expected numbers")
    if len(parts) > 5 and parts[5] is not None:
        offset = _view_offset(parts[5], offset)
    sizes = [offset, *size, *stride] if isinstance(size, tuple) and isinstance(stride, tuple) else [-1]
    if len(size) != len(stride) or len(size) > 16 or not all(type(n) is int and 0 <= n < 1 << 48 for n in sizes):
        raise ConversionError("a tensor of impossible size, stride or offset")
    return Stored(parts[2], _STORAGES[kind.name], offset, size, stride)


def _view_offset(view: Any, offset: Any) -> int:
    """Old files: a storage may be a part of another, (key, offset, size)."""
    if not (isinstance(view, tuple) and len(view) == 3 and type(view[1]) is int and type(offset) is int):
        raise ConversionError("a storage of an impossible part")
    return offset + view[1]


def _parameter(args: tuple[Any, ...]) -> Any:
    if not args or not isinstance(args[0], Stored):
        raise ConversionError("a parameter that is no tensor")
    return args[0]


def _inert(name: str) -> Reduce:
    return lambda args: Object(Name("", name), {"args": args})


_CALLS: Mapping[Name, Reduce] = {
    **NUMPY,
    Name("torch._utils", "_rebuild_tensor_v2"): _rebuilt,
    Name("torch._utils", "_rebuild_tensor"): _rebuilt,
    Name("torch._utils", "_rebuild_parameter"): _parameter,
    Name("torch.nn.parameter", "Parameter"): _parameter,
    Name("torch", "Size"): lambda args: args[0] if args else (),
    Name("torch", "device"): _inert("torch.device"),
    **{
        Name(module, name): _inert(f"pathlib.{name}")
        for module in ("pathlib", "pathlib._local")  # where Python 3.13 says that they are
        for name in ("PosixPath", "WindowsPath")
    },
}
