"""Recurrent layers as TFLite runs them: one fused operator, or one loop, whatever the number of steps."""

from edgeprune.tflite.recurrent.cell import Cell
from edgeprune.tflite.recurrent.layer import Places, write
from edgeprune.tflite.recurrent.writer import Mode

__all__ = ["Cell", "Mode", "Places", "write"]
