"""New constants of a model. Entry: `add_initializer`."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper


def add_initializer(model: onnx.ModelProto, name: str, value: NDArray[Any]) -> None:
    """Store `value` in `model`, in place, under a name that it does not have yet."""
    tensor = numpy_helper.from_array(np.ascontiguousarray(value).reshape(value.shape), name)
    model.graph.initializer.append(tensor)
    if model.ir_version < 4:  # such files list every initializer as an input too
        model.graph.input.append(helper.make_tensor_value_info(name, tensor.data_type, value.shape))
