"""ONNX to torch.fx, one converter an operator."""
