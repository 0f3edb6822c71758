"""Replay: the exact derivative of an output through the recorded training run, by example and by word."""

from proponent.replay.derivative import Derivative, Smoothness
from proponent.replay.engine import Query, Replay

__all__ = ["Derivative", "Query", "Replay", "Smoothness"]
