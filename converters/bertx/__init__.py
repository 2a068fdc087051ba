"""bertx exports encoder checkpoints and proves that each file computes what eager PyTorch computes.

Importing this package loads nothing heavy: the names below are resolved on first use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

__version__ = "0.1.0"
