"""ONNX only: read, fold BatchNorm, place, write Q/DQ, lint."""
