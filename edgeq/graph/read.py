"""Reading a user's ONNX file: everything that can be wrong with it is found here, before anything is computed.

Entry: `load_model`. The file is not trusted: whatever it holds, the outcome is a `LoadedModel` or one `EdgeqError`.
The checks are in `structure` (names, operators), `storage` (sizes, external data) and `values` (NaN, variances, sizes).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

from edgeq.core.collector import collector_paused
from edgeq.core.errors import InputError, ModelError
from edgeq.core.files import digest_file
from edgeq.graph.as_float32 import as_float32
from edgeq.graph.findings import require_none
from edgeq.graph.fold_constants import fold_bounds
from edgeq.graph.inline_branches import inline_branches
from edgeq.graph.inline_functions import inline_functions
from edgeq.graph.inline_sequences import inline_sequences
from edgeq.graph.restate_shapes import restate_shapes
from edgeq.graph.sort_nodes import sort_nodes
from edgeq.graph.storage import BYTES_MAX, check_sizes, load_external, plan_external
from edgeq.graph.store_axes import store_axes
from edgeq.graph.structure import FOREIGN_ERRORS, check_structure
from edgeq.graph.values import check_extents, check_values

# What people pass in place of an ONNX file: offset, first bytes, what it is.
_KNOWN_FORMATS = (
    (0, b"PK\x03\x04", "a zip archive, as PyTorch checkpoints (.pt, .pth) are"),
    (0, b"\x80\x02", "a Python pickle, as old PyTorch checkpoints (.pth) are"),
    (0, b"\x80\x03", "a Python pickle"),
    (0, b"\x80\x04", "a Python pickle"),
    (0, b"\x80\x05", "a Python pickle"),
    (0, b"\x89PNG", "a PNG picture"),
    (0, b"\xff\xd8\xff", "a JPEG picture"),
    (0, b"\x89HDF", "an HDF5 file, as Keras writes"),
    (4, b"TFL3", "a TensorFlow Lite model"),
    (4, b"ORTM", "an ONNX Runtime model (.ort)"),
    (0, b"ftrt", "a TensorRT engine"),
    (8, b'{"', "a safetensors file"),
    (0, b"\x1f\x8b", "a gzip archive"),
    (0, b"version https://git-lfs", "a Git LFS pointer; `git lfs pull` fetches the file itself"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedModel:
    """A model that passed every check.

    Attributes:
        model: as in the file, with external data read into it, calls of its own functions replaced by their bodies, and
            every If of known condition by the branch that is taken, sequences of tensors by the tensors, axes that
            shapes decide and bounds of a Slice that constants decide by constants, half precision inside by
            float32, and noted shapes that the graph contradicts by its own, in running order; nothing else is added or
            changed.
        inferred: a copy with the shapes that could be inferred as value_info; for questions, not for writing.
        digest: SHA-256, 64 hex digits: of the file, or of its digest and those of its external files.
        path: the file.
        size_bytes: the file and its external files.
        findings: what the user should know of it, one sentence each.
        half_types: "float16", "bfloat16": those that the file has.
    """

    model: onnx.ModelProto
    inferred: onnx.ModelProto
    digest: str
    path: Path
    size_bytes: int
    findings: tuple[str, ...] = ()
    half_types: tuple[str, ...] = ()


@collector_paused()
def load_model(path: Path) -> LoadedModel:
    """Read and check an ONNX file, with its external data.

    Raises:
        InputError: if there is no such file, or it cannot be read.
        ModelError: if it is no ONNX file, is damaged, or holds what edgeq cannot work on.
    """
    data = _read_file(path)
    model = _decode(data, path)
    late = sort_nodes(model.graph)
    check_structure(model, path)
    check_sizes(model, path)
    refs = plan_external(model, path)
    load_external(refs, model, path)
    inlined = inline_functions(model, path)
    if inlined is not model:
        check_structure(inlined, path)
    restated = restate_shapes(inlined)
    model, inferred = _settle(restated.model, path)
    check_extents(inferred, path)
    check_values(model, path)
    wide = as_float32(model)
    if wide.changed:
        model, inferred = wide.model, _infer(wide.model, path)
    files = sorted({ref.file for ref in refs})
    return LoadedModel(
        model=model,
        inferred=inferred,
        digest=_digest(data, files),
        path=path,
        size_bytes=len(data) + sum(file.stat().st_size for file in files),
        findings=(*wide.findings, *_tell_sorted(late), *restated.findings),
        half_types=wide.touched,
    )


def load_any_model(path: Path) -> onnx.ModelProto:
    """Read an ONNX file of any tool, quantized or not, with its external data, as safely as `load_model`.

    Calls of the file's own functions are replaced by their bodies. Which operators and opsets it has is for a lint to
    judge; what it means to a teacher (If, values, sizes) is not looked at.

    Raises:
        InputError: if there is no such file, or it cannot be read.
        ModelError: if it is no ONNX file, is damaged, or is not valid ONNX.
    """
    model = read_model(path)
    sort_nodes(model.graph)
    check_structure(model, path, any_operator=True)
    inlined = inline_functions(model, path)
    if inlined is not model:
        check_structure(inlined, path, any_operator=True)
    _check_valid(inlined, path)
    return inlined


def read_model(path: Path, *, with_external: bool = True) -> onnx.ModelProto:
    """Read an ONNX file of any tool as it is; its graph is for a runtime to judge.

    Unlike `onnx.load` it takes no other format for a suffix of ".json" or ".pbtxt".

    Args:
        path: the file.
        with_external: read its external data into the model; that all of it is there is looked at in any case.

    Raises:
        InputError: if there is no such file, or it cannot be read.
        ModelError: if it is no ONNX file or is damaged, or if its external data is missing, cut short or astray.
    """
    model = _decode(_read_file(path), path)
    check_sizes(model, path, quantized=True)
    refs = plan_external(model, path)
    if with_external:
        load_external(refs, model, path)
    return model


def has_qdq(path: Path) -> bool:
    """Return true if the ONNX file `path` has DequantizeLinear nodes: a quantized model.

    Raises:
        InputError: if there is no such file, or it cannot be read.
        ModelError: if it is no ONNX file.
    """
    model = _decode(_read_file(path), path)
    bodies = [model.graph.node, *(function.node for function in model.functions)]
    return any(node.op_type == "DequantizeLinear" for body in bodies for node in body)


def _tell_sorted(late: int) -> tuple[str, ...]:
    if not late:
        return ()
    return (
        f"the file's nodes were in no running order: {late} stood behind one that reads what they make",
    )


def _read_file(path: Path) -> bytes:
    try:
        if not path.exists():
            what, why = "there is no such model", "the path leads nowhere"
        elif path.is_dir():
            what, why = "the model is a folder", "one .onnx file is expected"
        elif not path.is_file():
            what, why = "the model is no ordinary file", "one .onnx file is expected"
        elif path.stat().st_size > BYTES_MAX:
            size = path.stat().st_size
            what = f"the model file has {size / 1e9:.1f} GB"
            why = "an ONNX file has 2 GB at most; larger models keep their weights beside it"
        else:
            return path.read_bytes()
    except (OSError, ValueError) as error:
        what, why = f"the model cannot be read: {error}", "it has to be opened to be worked on"
        raise InputError(
            what, why=why, mend="mend its permissions, or copy it elsewhere", path=path
        ) from error
    raise InputError(what, why=why, mend="pass the path of the .onnx file", path=path)


def _decode(data: bytes, path: Path) -> onnx.ModelProto:
    """Return the message in `data`; the file's first bytes tell what it is if there is none."""
    if not data:
        raise _not_onnx("the model file is empty", path)
    for offset, magic, kind in _KNOWN_FORMATS:
        if data.startswith(magic, offset):
            raise _not_onnx(f"this is no ONNX model, but {kind}", path)
    try:
        model: onnx.ModelProto = onnx.ModelProto.FromString(data)
    except (DecodeError, ValueError) as error:
        # Exporters write field 1, ir_version, first: tag 8, then a small number.
        if data[0] == 8 and data[1:2] < b"\x20":
            raise ModelError(
                "the ONNX file is cut short or damaged",
                why=f"it begins as one, but its {len(data)} bytes do not decode: {error}",
                mend="copy or download it again, or export the model again",
                path=path,
            ) from error
        raise _not_onnx(f"this is no ONNX model, but {_guess(data)}", path) from error
    if not model.ir_version or not model.HasField("graph"):
        raise _not_onnx(
            "this is no ONNX model, or one that was cut short: it has no IR version or no graph",
            path,
        )
    require_none(
        sorted(set(_broken_text(model))),
        "fields whose text is not UTF-8",
        why="names must be text; the file is damaged",
        mend="copy or download it again, or export the model again",
        path=path,
    )
    return model


def _guess(data: bytes) -> str:
    start = data[:512]
    is_text = not set(start) & (set(range(32)) - set(b"\t\n\r\f"))
    return "a text file" if is_text else "a file of another kind"


def _not_onnx(what: str, path: Path) -> ModelError:
    return ModelError(
        what,
        why="edgeq works on ONNX files",
        mend="pass a .onnx file; a PyTorch model becomes one with torch.onnx.export",
        path=path,
    )


def _broken_text(message: Any) -> Iterator[str]:
    """Yield the kinds of string fields that protobuf could only return as bytes."""
    for field, value in message.ListFields():
        if field.type == field.TYPE_STRING:
            values = [value] if isinstance(value, str | bytes) else value
            if any(isinstance(item, bytes) for item in values):
                yield field.full_name
        elif field.type == field.TYPE_MESSAGE:
            for item in [value] if hasattr(value, "ListFields") else value:
                yield from _broken_text(item)


def _infer(model: onnx.ModelProto, path: Path) -> onnx.ModelProto:
    """Return a copy of `model` with inferred shapes, after ONNX's own check of it."""
    _check_valid(model, path)
    try:
        return onnx.shape_inference.infer_shapes(model, strict_mode=False, data_prop=True)
    except FOREIGN_ERRORS as error:
        raise _refused(error, path) from error


def _check_valid(model: onnx.ModelProto, path: Path) -> None:
    try:
        onnx.checker.check_model(model)
    except FOREIGN_ERRORS as error:
        raise _refused(error, path) from error


def _refused(error: Exception, path: Path) -> ModelError:
    return ModelError(
        f"ONNX's checker refuses the model: {' '.join(str(error).split())}",
        why="it is not valid ONNX, so runtimes would refuse it or disagree on it",
        mend="export the model again, with another version of the exporter or another opset",
        path=path,
    )


def _settle(model: onnx.ModelProto, path: Path) -> tuple[onnx.ModelProto, onnx.ModelProto]:
    """Return `model` with what known shapes and constants decide written down, and a copy with inferred shapes.

    One rewrite makes shapes known that the next needs, so they are repeated until none finds anything.
    """
    while True:
        model = fold_bounds(model).model
        inferred = _infer(model, path)
        for rewrite in (inline_branches, inline_sequences, store_axes):
            found = rewrite(inferred, model)
            if found is not model:
                break
        else:
            return model, inferred
        model = found


def _digest(data: bytes, files: list[Path]) -> str:
    own = hashlib.sha256(data).hexdigest()
    if not files:
        return own
    return hashlib.sha256("\n".join([own, *map(digest_file, files)]).encode()).hexdigest()
