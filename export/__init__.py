"""Formats: palette TFLite and ONNX, and the loader. Knows no target."""
