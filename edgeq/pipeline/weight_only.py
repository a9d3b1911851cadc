"""`edgeq weight-only`: weights of MatMul and Gemm in 4 bits, activations in float; no training and no data.

Entry: `run_weight_only`. The result is a folder with `model.qdq.onnx`, `results.json` and `bundle/`, the kit for the
board.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx

import edgeq
from edgeq.core.errors import BuildError, EdgeqBug, InputError, ModelError
from edgeq.core.files import write_bytes, write_json
from edgeq.core.progress import NoProgress, Progress
from edgeq.core.quantized import PackedMatrix
from edgeq.core.samples import SampleSet
from edgeq.core.specs import GraphFlavour, InputSpec, TargetCard
from edgeq.graph.pack_weights import MatrixSite, Untouched
from edgeq.graph.read import LoadedModel
from edgeq.graph.view import GraphView
from edgeq.pipeline.given_samples import require_fit
from edgeq.pipeline.half import type_model
from edgeq.pipeline.options import BuildOptions
from edgeq.pipeline.packed_result import (
    BUNDLE,
    MODEL,
    RESULTS,
    Matrix,
    PackedResult,
    describe_packing,
    tell_runtime,
    tell_untouched,
)
from edgeq.pipeline.placing import read_model
from edgeq.pipeline.stages import require_no_errors
from edgeq.pipeline.workspace import LEFTOVERS

# Pictures of dead leaves on which the two models are compared, where no sample set is given.
SAMPLES = 64


def run_weight_only(
    options: BuildOptions,
    *,
    method: str,
    block: int,
    samples: Path | None = None,
    progress: Progress | None = None,
) -> PackedResult:
    """Pack the weights of a model, verify the result in ONNX Runtime, and write the results to `options.out`.

    Args:
        options: model, target, flavour, folder, preprocessing, seed and overwrite are read.
        method: a name of `edgeq.quant.weight_only.Method`.
        block: the longest block of inputs with one scale.
        samples: a sample set on which the models are compared; dead leaves if None.
        progress: told of both stages.

    Raises:
        TargetError: if the target has no INT4 weights.
        ModelError: if no weight can be packed; says why of each kind.
        BuildError: if ONNX Runtime does not give the weights that were written, or the lint finds an error.
    """
    from deploy.bundle import write_bundle
    from deploy.cards import Capability, load_card, require_capability
    from edgeq.graph.fit_target import fit_opset
    from edgeq.graph.fold_constants import fold_constants
    from edgeq.graph.infer_ranks import infer_shapes
    from edgeq.graph.pack_weights import find_matrices, newest_packed_opset, pack_weights
    from edgeq.graph.round_half import without_bfloat16
    from edgeq.teacher.proof import require_same

    progress = progress or NoProgress()
    card = load_card(options.target)
    require_capability(card, Capability.INT4_WEIGHTS)
    _require_room(options)
    loaded, reports = read_model(options)
    card = _choose_typing(card, options, loaded)
    specs = [report.spec for report in reports]
    original, loaded = loaded, fit_opset(loaded, card=card, newest=newest_packed_opset(card))
    if loaded is not original:
        before, after = (without_bfloat16(item.model) for item in (original, loaded))
        require_same(before, after, specs, seed=options.seed)
    sample_set = _find_samples(specs, samples, seed=options.seed)
    folded = fold_constants(loaded.model).model
    sites, untouched = find_matrices(infer_shapes(folded), block=block)
    _require_matrices(sites, untouched, card)
    values = {site.tensor: _stored(folded, site) for site in sites}
    packed = _pack(values, sites, method=method, progress=progress)
    written = pack_weights(folded, sites, packed, card=card)
    unpacked = [packed[site.tensor].dequantized() for site in sites]
    stored = [w.T if s.is_transposed else w for s, w in zip(sites, unpacked, strict=True)]
    _require_equal(written.model, written.touched, stored)
    typed = type_model(card, written.model, sample_set)
    results = {
        "schema": 1,
        "edgeq": edgeq.__version__,
        "model": options.model.name,
        "model_sha256": loaded.digest,
        "target": card.name,
        "runtime": card.runtime,
        "bits": "w4a16",
        "method": method,
        "block": block,
        "seed": options.seed,
        "samples": f"{len(sample_set)} samples of {'the set given' if samples else 'dead leaves'}",
        "typing": typed.record,
        "findings": [
            *(*loaded.findings, *written.findings, *typed.findings),
            *(*tell_untouched(untouched), *tell_runtime(card)),
        ],
        **describe_packing(sites, packed, values, untouched),
    }
    results |= _judge(loaded, typed.model, sample_set, card, progress)
    write_bytes(options.out / MODEL, typed.model.SerializeToString(deterministic=True))
    write_bundle(
        options.out / BUNDLE,
        qdq_model=typed.model,
        teacher_model=loaded.model,
        card=card,
        samples=sample_set,
        inputs=specs,
        provenance={
            key: results[key] for key in ("edgeq", "model_sha256", "bits", "method", "seed")
        },
    )
    write_json(options.out / RESULTS, results)
    return PackedResult(folder=options.out, results=results)


def _choose_typing(card: TargetCard, options: BuildOptions, loaded: LoadedModel) -> TargetCard:
    """Return the card with the flavour that was asked for, or FP16-typed where the target takes it.

    TensorRT computes products with INT4 weights in FP16, so FP16 types say what happens, and strong typing keeps it.

    Raises:
        TargetError: if the target cannot take what was asked for.
    """
    from deploy.flavours import choose_flavour, why_not_half

    asked = options.flavour
    if asked is None and why_not_half(card) is None:
        asked = GraphFlavour.FP16_TYPED
    return choose_flavour(card, asked, half_types=loaded.half_types)


def _judge(
    loaded: LoadedModel,
    model: onnx.ModelProto,
    samples: SampleSet,
    card: TargetCard,
    progress: Progress,
) -> dict[str, Any]:
    """Return how the written model keeps the target's rules and compares with the one that came.

    Raises:
        BuildError: if the lint finds an error.
    """
    from deploy.compare import compare_models
    from edgeq.graph.lint import lint
    from edgeq.graph.regions import predict_regions

    lints = lint(model, card)
    require_no_errors(lints, card)
    agreement = compare_models(loaded.model, model, samples, progress=progress)
    return {
        "lint": [{"check": item.check, "node": item.node, "what": item.what} for item in lints],
        "agreement": agreement.to_dict(),
        "regions": [region.to_dict() for region in predict_regions(model, card)],
        "size_bytes": {"before": loaded.size_bytes, "after": model.ByteSize()},
    }


def _require_room(options: BuildOptions) -> None:
    """Raise if the folder holds files of others, or a result that may not be replaced."""
    if not options.out.exists():
        return
    items = options.out.iterdir() if options.out.is_dir() else ()
    names = {item.name for item in items if not any(map(item.match, LEFTOVERS))}
    if names - {MODEL, RESULTS, BUNDLE} or not options.out.is_dir():
        what, mend = "holds files that are not of this verb", "choose another --out"
    elif names and not options.overwrite:
        what, mend = "holds a result", "choose another --out, or pass --overwrite to replace it"
    else:
        return
    raise InputError(
        f"the output folder {what}",
        why="edgeq never mixes its results with other files, and replaces none unasked",
        mend=mend,
        path=options.out,
    )


def _require_matrices(
    sites: Sequence[MatrixSite], untouched: Sequence[Untouched], card: TargetCard
) -> None:
    """Raise if there is nothing to pack; a model of convolutions alone is refused as such."""
    from deploy.cards import Capability, require_capability

    if sites:
        return
    products = [item for item in untouched if item.op_type in {"Gemm", "MatMul"}]
    with_weight = [item for item in products if "no constant" not in item.reason]
    if not with_weight and any(item.op_type.startswith("Conv") for item in untouched):
        require_capability(card, Capability.INT4_CONVOLUTIONS)
    reasons = dict.fromkeys(item.reason for item in with_weight or products)
    raise ModelError(
        f"no weight of the {len(products)} MatMul and Gemm nodes can be packed in 4 bits",
        why="; ".join(reasons)
        or "INT4 weights are those of MatMul and Gemm, and the model has none",
        mend="a smaller --block may help where sizes do not divide; else quantize in INT8: edgeq build --bits w8a8",
    )


def _stored(model: onnx.ModelProto, site: MatrixSite) -> Matrix:
    """Return the weight of a site as [K, N]."""
    value = GraphView(model).constant(site.tensor)
    if value is None:
        msg = f"'{site.tensor}' is no constant"
        raise EdgeqBug(msg)
    matrix = value.astype(np.float32, copy=False)
    return np.ascontiguousarray(matrix.T if site.is_transposed else matrix)


def _pack(
    values: dict[str, Matrix],
    sites: Sequence[MatrixSite],
    *,
    method: str,
    progress: Progress,
) -> dict[str, PackedMatrix]:
    from edgeq.quant.weight_only import Method, pack_matrix

    progress.start("pack", len(sites), "matrices")
    packed = {}
    for site in sites:
        packed[site.tensor] = pack_matrix(
            values[site.tensor], block=site.block, method=Method(method), may_split=site.may_split
        )
        progress.advance()
    progress.finish(f"{len(sites)} matrices in 4 bits, {method}")
    return packed


def _require_equal(
    model: onnx.ModelProto, tensors: Sequence[str], expected: Sequence[Matrix]
) -> None:
    """Raise unless ONNX Runtime unpacks the weights `tensors` to the bits that `core.numerics` gives."""
    from deploy.onnxrt import Session

    view = GraphView(model)
    nodes = [node for name in tensors if (node := view.producer(name)) is not None]
    outputs = [
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, value.shape)
        for name, value in zip(tensors, expected, strict=True)
    ]
    constants = {name: view.initializers[name] for node in nodes for name in node.input}
    alone = onnx.helper.make_model(
        onnx.helper.make_graph(nodes, "weights", [], outputs, list(constants.values())),
        opset_imports=model.opset_import,
        ir_version=model.ir_version,
    )
    found = Session(alone).run({})
    for name, value in zip(tensors, expected, strict=True):
        if not np.array_equal(found[name], value):
            raise BuildError(
                f"ONNX Runtime unpacks the weight '{name}' to other values than edgeq",
                why="the packed weights would mean something else on the target",
                mend="report this, with the versions that `edgeq doctor` tells",
            )


def _find_samples(specs: Sequence[InputSpec], given: Path | None, *, seed: int) -> SampleSet:
    """Return the sample set in the folder `given`, or dead leaves.

    Raises:
        EdgeqError: if the set cannot be read, or does not fit the model; see `given_samples.require_fit`.
    """
    from calib.unoptimised import draw_leaves

    if given is None:
        return draw_leaves(specs, count=SAMPLES, seed=seed)
    found = SampleSet.load(given)
    require_fit(found, specs, given)
    return found
