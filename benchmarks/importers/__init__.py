"""ONNX files of many origins: imported, compared, analysed and cut; ``python -m benchmarks.importers`` writes docs/importers-table.md."""
