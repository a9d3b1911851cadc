"""The bytes behind a model's tensors: are they all there, do they fit, do they lie inside the model's folder.

Entries: `plan_external` (looks, opens nothing), `load_external` (reads), `check_sizes`. A model file is not trusted:
nothing is read or allocated because of a size or a path that it merely claims.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath

import onnx
from onnx import TensorProto

from edgeq.core.errors import ModelError
from edgeq.graph.findings import require_none
from edgeq.graph.structure import subgraphs
from edgeq.graph.view import node_id

BYTES_MAX = 2**31 - 1  # a protobuf message can hold no more

# Element types that may be stored, and the bytes of one element. Types of 8 bits and fewer that are no integers, and
# packed ones, belong to quantized models.
_ITEM_BYTES: dict[int, int] = {
    TensorProto.FLOAT: 4,
    TensorProto.DOUBLE: 8,
    TensorProto.FLOAT16: 2,
    TensorProto.BFLOAT16: 2,
    TensorProto.INT8: 1,
    TensorProto.INT16: 2,
    TensorProto.INT32: 4,
    TensorProto.INT64: 8,
    TensorProto.UINT8: 1,
    TensorProto.UINT16: 2,
    TensorProto.UINT32: 4,
    TensorProto.UINT64: 8,
    TensorProto.BOOL: 1,
    TensorProto.COMPLEX64: 8,
    TensorProto.COMPLEX128: 16,
}
_BITS_OF_QUANTIZED = (
    ("FLOAT8", 8),
    ("INT4", 4),
    ("UINT4", 4),
    ("FLOAT4", 4),
    ("INT2", 2),
    ("UINT2", 2),
)
# Bits of one element of the types that only quantized models hold, as far as the installed onnx knows them.
_QUANTIZED_BITS = {
    number: bits
    for name, number in TensorProto.DataType.items()
    for prefix, bits in _BITS_OF_QUANTIZED
    if name.startswith(prefix)
}
_TWO_PARTS = (TensorProto.COMPLEX64, TensorProto.COMPLEX128)


@dataclass(frozen=True, slots=True, kw_only=True)
class ExternalRef:
    """One tensor whose values lie in another file: where, and how many bytes."""

    tensor: onnx.TensorProto
    file: Path
    offset: int
    length: int


def walk_tensors(model: onnx.ModelProto) -> Iterator[tuple[str, onnx.TensorProto]]:
    """Yield (name, tensor) for every stored tensor: initializers and attributes, in subgraphs and functions too.

    A tensor in an attribute goes by the name of its node.
    """
    yield from walk_graph_tensors(model.graph)
    for function in model.functions:
        for node in function.node:
            yield from _walk_node_tensors(node)


def walk_graph_tensors(graph: onnx.GraphProto) -> Iterator[tuple[str, onnx.TensorProto]]:
    """Yield (name, tensor) as `walk_tensors`, for one graph and those inside it."""
    for item in graph.initializer:
        yield item.name, item
    for sparse in graph.sparse_initializer:
        yield sparse.values.name, sparse.values
        yield sparse.values.name, sparse.indices
    for node in graph.node:
        yield from _walk_node_tensors(node)


def _walk_node_tensors(node: onnx.NodeProto) -> Iterator[tuple[str, onnx.TensorProto]]:
    for item in node.attribute:
        tensors = [*([item.t] if item.HasField("t") else []), *item.tensors]
        sparse = [*([item.sparse_tensor] if item.HasField("sparse_tensor") else [])]
        for one in [*sparse, *item.sparse_tensors]:
            tensors += [one.values, one.indices]
        for tensor in tensors:
            yield node_id(node), tensor
    for inner in subgraphs(node):
        yield from walk_graph_tensors(inner)


def is_external(tensor: onnx.TensorProto) -> bool:
    """Return true if the values lie in another file."""
    return bool(tensor.data_location == TensorProto.EXTERNAL)


def check_sizes(model: onnx.ModelProto, path: Path, *, quantized: bool = False) -> None:
    """Raise unless every tensor inside the file has exactly the values that its type and shape declare.

    Args:
        model: as decoded.
        path: its file, for the message.
        quantized: if true, types of 8 bits and fewer that are no integers, and packed ones, pass.

    Raises:
        ModelError: with all tensors that do not.
    """
    require_none(
        [
            fault
            for name, tensor in walk_tensors(model)
            if (fault := _size_fault(name, tensor, quantized=quantized)) is not None
        ],
        "tensors whose stored values do not fit their declared type and shape",
        why="the file is damaged, or was written by a faulty tool",
        mend="export the model again",
        path=path,
    )


def type_name(element_type: int) -> str:
    """Return ONNX's name of an element type, or its number where ONNX has none."""
    known = element_type in TensorProto.DataType.values()
    return TensorProto.DataType.Name(element_type) if known else f"type {element_type}"


def _describe(name: str, tensor: onnx.TensorProto) -> str:
    return f"'{name}' {type_name(tensor.data_type)} {list(tensor.dims)}"


def _size_fault(name: str, tensor: onnx.TensorProto, *, quantized: bool) -> str | None:
    what = _describe(name, tensor)
    if any(size < 0 for size in tensor.dims):
        return f"{what} has a negative size"
    count = math.prod(tensor.dims)
    if tensor.data_type == TensorProto.STRING:
        need, have, unit = count, len(tensor.string_data), "strings"
        if is_external(tensor):
            return f"{what} holds text in another file"
    elif tensor.data_type not in _ITEM_BYTES and not (
        quantized and tensor.data_type in _QUANTIZED_BITS
    ):
        return f"{what} is of a type that edgeq does not read"
    elif is_external(tensor):
        return None
    elif tensor.HasField("raw_data"):
        need, have, unit = _bytes_needed(tensor), len(tensor.raw_data), "bytes"
    else:
        stored = getattr(tensor, onnx.helper.tensor_dtype_to_field(tensor.data_type))
        # A packed type has one stored value a byte.
        values = _bytes_needed(tensor) if tensor.data_type in _QUANTIZED_BITS else count
        need, have, unit = values * (1 + (tensor.data_type in _TWO_PARTS)), len(stored), "values"
    return None if need == have else f"{what} needs {need} {unit} and has {have}"


def _bytes_needed(tensor: onnx.TensorProto) -> int:
    """Return the bytes that the values of `tensor` take; those of a packed type are rounded up to whole bytes."""
    count = math.prod(int(size) for size in tensor.dims)
    if tensor.data_type in _QUANTIZED_BITS:
        return (count * _QUANTIZED_BITS[tensor.data_type] + 7) // 8
    return count * _ITEM_BYTES[tensor.data_type]


def plan_external(model: onnx.ModelProto, path: Path) -> tuple[ExternalRef, ...]:
    """Return where the values outside the file lie, after checking that they may be read and are all there.

    Args:
        model: as decoded; `check_sizes` has passed.
        path: the model's file; external files must lie in its folder or below.

    Raises:
        ModelError: for a path that leaves the folder, a missing file, or a region that does not fit its file or its
            tensor; each kind with all tensors of that kind.
    """
    folder = path.parent.resolve()
    astray, missing, unfit, refs = [], [], [], []
    for name, tensor in walk_tensors(model):
        if not is_external(tensor):
            continue
        entries = {item.key: item.value for item in tensor.external_data}
        location = entries.get("location", "")
        file = _inside(folder, location)
        if file is None:
            astray.append(f"'{name}' ({location!r})")
        elif not _is_file(file):
            missing.append(f"'{name}' ({location})")
        else:
            found = _region(tensor, entries, file)
            if isinstance(found, str):
                unfit.append(f"{_describe(name, tensor)} in {location}: {found}")
            else:
                refs.append(found)
    _require_loadable(astray, missing, unfit, path)
    return tuple(refs)


def _require_loadable(
    astray: Sequence[str], missing: Sequence[str], unfit: Sequence[str], path: Path
) -> None:
    require_none(
        astray,
        "external data outside the model's folder",
        why="a model may only read files beside itself: no absolute path, no '..', no link that leads out",
        mend="copy the data into the model's folder and store relative paths, or do not use this file",
        path=path,
    )
    require_none(
        missing,
        "external data files that are missing",
        why="the weights lie in files beside the model, and those were not found",
        mend="copy them beside the model, under the names it was exported with",
        path=path,
    )
    require_none(
        unfit,
        "external data that does not fit",
        why="the data file is cut short or belongs to another model",
        mend="copy the model and its data file again, both from the same export",
        path=path,
    )


def _inside(folder: Path, location: str) -> Path | None:
    """Return the real path of `location`, or None where it is no path inside `folder`, links followed."""
    windows, posix = PureWindowsPath(location), PurePosixPath(location)
    if not location or windows.drive or windows.root or posix.root or ".." in windows.parts:
        return None
    try:
        file = (folder / location).resolve()
    except (OSError, RuntimeError, ValueError):  # a loop of links, a zero byte
        return None
    return file if file.is_relative_to(folder) else None


def _is_file(file: Path) -> bool:
    try:
        return file.is_file()
    except OSError:  # for instance a name that is too long
        return False


def _region(tensor: onnx.TensorProto, entries: dict[str, str], file: Path) -> ExternalRef | str:
    """Return the region of `file` that holds `tensor`, or what is wrong with it."""
    need = _bytes_needed(tensor)
    numbers = [entries.get("offset", "0"), entries.get("length", str(need))]
    # ONNX stores both as decimal text; more than 18 digits is past any file and past int64.
    if not all(text.isascii() and text.isdigit() and len(text) <= 18 for text in numbers):
        return f"offset {numbers[0][:20]!r} and length {numbers[1][:20]!r} are no sizes"
    offset, length = map(int, numbers)
    size = file.stat().st_size
    if length != need:
        return f"length {length}, but its type and shape need {need} bytes"
    if offset + length > size:
        return f"bytes {offset} to {offset + length}, but the file ends at {size}"
    return ExternalRef(tensor=tensor, file=file, offset=offset, length=length)


def load_external(refs: Sequence[ExternalRef], model: onnx.ModelProto, path: Path) -> None:
    """Read the values of `refs` into their tensors in `model`, which become ordinary inline ones.

    Raises:
        ModelError: if a file cannot be read, or the model would be too large with them.
    """
    total = sum(ref.length for ref in refs) + model.ByteSize()
    if total > BYTES_MAX:
        raise ModelError(
            f"the model and its external data have {total / 1e9:.1f} GB",
            why="edgeq works on the model in one protobuf message, which holds 2 GB at most",
            mend="split the model, or store its weights in a smaller type",
            path=path,
        )
    for ref in refs:
        try:
            with ref.file.open("rb") as file:
                file.seek(ref.offset)
                data = file.read(ref.length)
        except OSError as error:
            raise ModelError(
                f"cannot read the external data {ref.file.name}: {error.strerror}",
                why="the weights lie in that file",
                mend="mend its permissions, or copy it again",
                path=path,
            ) from error
        ref.tensor.raw_data = data
        ref.tensor.ClearField("data_location")
        ref.tensor.ClearField("external_data")
