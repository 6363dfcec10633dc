"""Steps as ONNX files, run by onnxruntime; needs ``retentive[onnx]``."""
