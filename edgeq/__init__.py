"""edgeq: from a trained ONNX file, without its training data, to a low-bit network for an edge GPU."""

__version__ = "0.1.0"
