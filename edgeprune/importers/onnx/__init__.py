"""ONNX files as modules that train: one file a family of operators in ``operators``, each import compared with ONNX Runtime."""
