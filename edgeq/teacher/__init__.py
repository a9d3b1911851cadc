"""ONNX to torch.fx, one converter an operator. Importing the package fills the table of converters."""

from edgeq.teacher import (
    activations,
    attention,
    convolutions,
    elementwise,
    indexing,
    normalisation,
    pooling,
    reductions,
    reshaping,
    resize,
    shapes,
)

__all__ = [
    "activations",
    "attention",
    "convolutions",
    "elementwise",
    "indexing",
    "normalisation",
    "pooling",
    "reductions",
    "reshaping",
    "resize",
    "shapes",
]
