"""The `torch` engine: a plain reference on any torch device, and the yardstick of accuracy."""

from diptych.engine.torch.engine import TorchEngine

__all__ = ["TorchEngine"]
