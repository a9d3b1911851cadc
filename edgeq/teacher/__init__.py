"""ONNX to torch.fx, one converter an operator. Importing the package fills the table of converters."""

from edgeq.teacher import (
    convolutions,
    elementwise,
    normalisation,
    pooling,
    reductions,
    reshaping,
    shapes,
)

__all__ = [
    "convolutions",
    "elementwise",
    "normalisation",
    "pooling",
    "reductions",
    "reshaping",
    "shapes",
]
