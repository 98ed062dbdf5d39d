"""Runs to self-contained ONNX files, proven to say what PyTorch says. `fer_deploy.export.verify` needs no torch."""
