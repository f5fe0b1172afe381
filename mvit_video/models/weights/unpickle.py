"""Tensors out of pickles, and nothing else: no class that a pickle names is ever imported or called.

A pickle names functions to call, so reading one of unknown origin runs whatever it names. Here the few names that
arrays and tensors need stand for functions that copy raw bytes into tensors; every other name is refused.
"""

import io
import math
import pickle
from collections.abc import Callable, Mapping
from typing import BinaryIO

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
    """A pickle names something besides arrays and tensors; `name` says what."""

    def __init__(self, name: str) -> None:
        super().__init__(f"GLOBAL {name} is neither an array nor a tensor")
        self.name = name


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
    "collections.OrderedDict": dict,
    "torch._utils._rebuild_tensor_v2": torch._utils._rebuild_tensor_v2,
    "torch._utils._rebuild_parameter": torch._utils._rebuild_parameter,
    "torch.storage._load_from_bytes": _storage,
}


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Callable[..., object]:
        found = _NAMES.get(f"{module}.{name}")
        if found is None:
            raise RefusedPickleError(f"{module}.{name}")
        return found


def unpickle(file: BinaryIO) -> object:
    """The content of a plain pickle of dicts, lists, numbers, text, tensors and arrays (see :func:`as_tensor`).

    Raises:
        RefusedPickleError: it names anything else; nothing has been run.
        Exception: whatever a damaged byte leads the unpickler to.
    """
    return _Unpickler(file, encoding="latin1").load()


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
