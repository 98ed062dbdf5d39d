"""What a model file is: its contract, read without ONNX Runtime or PyTorch."""
