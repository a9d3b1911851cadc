"""How large the tensors of a model get on a sample set."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx

from deploy.onnxrt import Session, iterate_batches
from edgeq.core.errors import NumericsError
from edgeq.core.samples import SampleSet


def measure_amax(
    model: onnx.ModelProto, names: Sequence[str], samples: SampleSet, *, count: int
) -> dict[str, float]:
    """Return the largest absolute value of each of the tensors `names` over the first `count` samples.

    Graph inputs among `names` are taken from the samples themselves. Memory does not depend on `count`. Minus infinity,
    which an attention mask adds and FP16 holds as well, does not count.

    Raises:
        NumericsError: if a tensor has NaN or plus infinity.
    """
    inputs = samples.feed(slice(0))
    session = Session(model, outputs=[name for name in names if name not in inputs])
    first = session.run(samples.feed(slice(1)))
    amax = dict.fromkeys(names, 0.0)
    size = sum(y.nbytes for y in first.values())
    for pick in iterate_batches(min(count, len(samples)), bytes_per_sample=size):
        feed = samples.feed(pick)
        values = feed | session.run(feed)
        for name in names:
            numbers = values[name][values[name] != -np.inf]
            amax[name] = max(amax[name], float(np.abs(numbers).max(initial=0)))
    broken = [name for name, value in amax.items() if not np.isfinite(value)]
    if broken:
        raise NumericsError(
            f"'{broken[0]}' has NaN or infinity on the samples",
            why="its range decides whether FP16 can hold it",
            mend="look for NaN, infinity or an overflow in the model's weights and in the sample set",
        )
    return amax
