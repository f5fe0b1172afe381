"""Tensors out of pickles, and nothing else: no class that a pickle names is ever imported or called.

A pickle names functions to call, so reading one of unknown origin runs whatever it names. Here the few names that
arrays and tensors need stand for functions that copy raw bytes into tensors. Every other name stands for an empty
object that swallows what is put into it: options, histories and the like beside the weights are left unread. Names
that no training code has a reason to write, and that an attack needs, refuse the whole file.
"""

import io
import math
import pickle
from collections import OrderedDict
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import IO, Any, BinaryIO, ClassVar

import torch
from torch import Tensor

_DTYPES: dict[str, torch.dtype] = {
    "f2": torch.float16,
    "f4": torch.float32,
    "f8": torch.float64,
    "i1": torch.int8,
    "i2": torch.int16,
    "i4": torch.int32,
    "i8": torch.int64,
    "u1": torch.uint8,
    "b1": torch.bool,
}


class RefusedPickleError(pickle.UnpicklingError):
    """A pickle names something that only code to be run needs; `name` says what."""

    def __init__(self, name: str) -> None:
        super().__init__(f"GLOBAL {name} is a function that runs code")
        self.name = name


class Unread:
    """Stands for an object of any class: takes what a pickle puts into it, and keeps none of it."""

    pickled_as: ClassVar[str] = ""
    """Module and name of the class, as the file has them."""

    def __new__(cls, *arguments: object, **named: object) -> "Unread":
        return super().__new__(cls)

    def __init__(self, *arguments: object, **named: object) -> None: ...
    def __setstate__(self, state: object) -> None: ...
    def __setitem__(self, key: object, value: object) -> None: ...
    def append(self, item: object) -> None: ...
    def extend(self, items: object) -> None: ...
    def add(self, item: object) -> None: ...


class ArrayType:
    """Stands for numpy.dtype: the type of an array's items, little-endian."""

    def __init__(self, code: str, align: object = False, copy: object = False) -> None:
        if code not in _DTYPES:
            raise pickle.UnpicklingError(f"arrays of type {code!r} are not read")
        self.dtype = _DTYPES[code]

    def __setstate__(self, state: tuple[object, ...]) -> None:
        if state[1] not in ("<", "=", "|"):
            raise pickle.UnpicklingError("arrays of big-endian numbers are not read")


class ArrayData:
    """Stands for numpy.ndarray: bytes, shape and type, made a tensor by :meth:`tensor`."""

    def __init__(self) -> None:
        self.shape: tuple[int, ...] = ()
        self.dtype = torch.float32
        self.column_major = False
        self.raw = b""

    def __setstate__(self, state: tuple[object, ...]) -> None:
        _, shape, array_type, column_major, raw = state
        self.fill(raw, array_type, shape, column_major=bool(column_major))

    def fill(self, raw: object, array_type: object, shape: object, *, column_major: bool) -> None:
        """Take the content of the array.

        Raises:
            pickle.UnpicklingError: it is none.
        """
        raw = raw.encode("latin1") if isinstance(raw, str) else raw  # Python 2 wrote text
        if not isinstance(raw, bytes | bytearray | memoryview) or not isinstance(array_type, ArrayType):
            raise pickle.UnpicklingError("an array without plain numbers")
        if not isinstance(shape, tuple) or not all(isinstance(size, int) and size >= 0 for size in shape):
            raise pickle.UnpicklingError(f"an array of shape {shape!r}")
        self.raw, self.dtype, self.shape, self.column_major = bytes(raw), array_type.dtype, shape, column_major
        if math.prod(shape) * self.dtype.itemsize != len(self.raw):
            raise pickle.UnpicklingError(f"an array of shape {shape} with {len(self.raw)} bytes")

    def tensor(self) -> Tensor:
        """The array as a tensor with its own memory."""
        if not self.raw:
            return torch.empty(self.shape, dtype=self.dtype)
        flat = torch.frombuffer(bytearray(self.raw), dtype=self.dtype)
        if not self.column_major:
            return flat.view(self.shape)
        return flat.view(self.shape[::-1]).permute(*reversed(range(len(self.shape)))).contiguous()


def _reconstruct(kind: object, shape: object, code: object) -> ArrayData:
    """An empty array that the pickle fills next."""
    return ArrayData()


def _frombuffer(raw: object, array_type: object, shape: object, order: object) -> ArrayData:
    array = ArrayData()
    array.fill(raw, array_type, shape, column_major=order == "F")
    return array


def _scalar(array_type: object, raw: object) -> float | int | bool:
    array = ArrayData()
    array.fill(raw, array_type, (), column_major=False)
    return array.tensor().item()


def _encode(text: object, encoding: object) -> bytes:
    """How protocol 2 writes bytes."""
    if not isinstance(text, str) or encoding != "latin1":
        raise pickle.UnpicklingError("text that stands for no bytes")
    return text.encode("latin1")


def _no_bytes() -> bytes:
    """How protocol 2 writes no bytes."""
    return b""


def _storage(raw: object) -> object:
    if not isinstance(raw, bytes):
        raise pickle.UnpicklingError("a tensor without bytes")
    return torch.load(io.BytesIO(raw), map_location="cpu", weights_only=True)


ARRAYS: dict[str, Callable[..., object]] = {
    "numpy.dtype": ArrayType,
    "numpy.ndarray": ArrayData,
    **{f"numpy.{core}.multiarray._reconstruct": _reconstruct for core in ("core", "_core")},
    **{f"numpy.{core}.multiarray.scalar": _scalar for core in ("core", "_core")},
    **{f"numpy.{core}.numeric._frombuffer": _frombuffer for core in ("core", "_core")},
}
"""What stands for NumPy's names, in PyTorch's files too (as in `torch.serialization.safe_globals`)."""

_NAMES: dict[str, Callable[..., object]] = {
    **ARRAYS,
    "_codecs.encode": _encode,
    "__builtin__.bytes": _no_bytes,
    "builtins.bytes": _no_bytes,
    "collections.OrderedDict": OrderedDict,
    "torch._utils._rebuild_tensor_v2": torch._utils._rebuild_tensor_v2,
    "torch._utils._rebuild_parameter": torch._utils._rebuild_parameter,
    "torch.storage._load_from_bytes": _storage,
}


# Under their names of Python 2, too, which is what protocol 2 writes.
_CODE_MODULES = frozenset(
    {"os", "posix", "nt", "sys", "subprocess", "commands", "shutil", "socket", "runpy", "pty", "importlib"}
)
_CODE_BUILTINS = frozenset({"eval", "exec", "execfile", "compile", "__import__", "open", "input", "breakpoint"})


class Unpickler(pickle.Unpickler):
    """An unpickler that knows tensors, arrays and plain values, and remembers the names of everything else.

    Args:
        file: the pickle.
        unread: receives the names of the classes and functions whose objects were left unread.
        encoding: of text that Python 2 wrote.
    """

    def __init__(self, file: IO[bytes], *, unread: set[str], encoding: str = "latin1") -> None:
        super().__init__(file, encoding=encoding)
        self._unread = unread

    def find_class(self, module: str, name: str) -> Callable[..., object]:
        full = f"{module}.{name}"
        found = _NAMES.get(full)
        if isinstance(found, type):
            return found
        if found is not None:
            return partial(found)  # a fresh object: what a file sets on it does not reach the function
        is_builtin = module in ("builtins", "__builtin__")
        if module.partition(".")[0] in _CODE_MODULES or (is_builtin and name in _CODE_BUILTINS):
            raise RefusedPickleError(full)
        self._unread.add(full)
        return type("Unread", (Unread,), {"pickled_as": full})


class _PickleModule:
    """What torch.load reads and calls of its `pickle_module`."""

    __name__ = "restricted_pickle"

    def __init__(self, unread: set[str]) -> None:
        class Bound(Unpickler):
            def __init__(self, file: IO[bytes], **options: Any) -> None:
                super().__init__(file, unread=unread, encoding=options.get("encoding", "latin1"))

        self.Unpickler = Bound

    def load(self, file: IO[bytes], **options: Any) -> object:
        return self.Unpickler(file, **options).load()


def unpickle(file: BinaryIO) -> tuple[object, set[str]]:
    """The content of a plain pickle of dicts, lists, numbers, text, tensors and arrays (see :func:`as_tensor`).

    Returns:
        The content, with :class:`Unread` for every other object, and the names of their classes.

    Raises:
        RefusedPickleError: it names a function that runs code; nothing has been run.
        Exception: whatever a damaged byte leads the unpickler to.
    """
    unread: set[str] = set()
    return Unpickler(file, unread=unread).load(), unread


def read_torch_file(path: Path) -> tuple[object, set[str]]:
    """The same for a file of torch.save, of either format, that torch.load(weights_only=True) refuses."""
    unread: set[str] = set()
    # Not weights_only: the unpickler given here is the restricted one. TorchScript never comes here: it is no pickle,
    # and refused before.
    content = torch.load(path, map_location="cpu", weights_only=False, pickle_module=_PickleModule(unread))
    return content, unread


def as_tensor(value: object) -> Tensor | None:
    """The tensor that a value read from a file is or holds; None for anything else."""
    if isinstance(value, ArrayData):
        return value.tensor()
    return value if isinstance(value, Tensor) else None


def all_tensors(values: Mapping[object, object]) -> dict[str, Tensor] | None:
    """A dict of tensors by name; None where the mapping is empty or holds anything else."""
    tensors = {str(name): as_tensor(value) for name, value in values.items()}
    found = {name: value for name, value in tensors.items() if value is not None}
    return found if found and len(found) == len(values) else None
