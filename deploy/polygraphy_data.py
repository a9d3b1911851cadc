"""Sample inputs and expected outputs in polygraphy's own JSON.

Read by `polygraphy run model.onnx --onnxrt --load-inputs inputs.json --load-outputs outputs.json`. One entry of the
lists is one iteration: one call of the model.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from deploy.onnxrt import Array


def inputs_json(iterations: Sequence[Mapping[str, Array]]) -> bytes:
    """Return what `--load-inputs` reads: a list of {input name: array with the batch axis}."""
    from polygraphy.json import to_json

    return str(to_json([dict(feed) for feed in iterations])).encode()


def outputs_json(iterations: Sequence[Mapping[str, Array]], *, runner: str) -> bytes:
    """Return what `--load-outputs` reads: RunResults of one runner.

    Args:
        iterations: {output name: array}, one for each entry of the inputs.
        runner: the name under which polygraphy shows these outputs.
    """
    from polygraphy.comparator import IterationResult, RunResults

    results = RunResults()
    results.add([IterationResult(outputs=dict(item)) for item in iterations], runner_name=runner)
    return str(results.to_json()).encode()
