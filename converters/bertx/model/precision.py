"""Whether a computation that is meant to be float64 is so all the way: some models keep parts in float32."""

from __future__ import annotations

from typing import Any


def precision() -> Any:
    """A context that watches every operator; its `pure` is False once one gave numbers narrower than float64."""
    import torch
    from torch.utils._python_dispatch import TorchDispatchMode

    class Watch(TorchDispatchMode):
        pure = True

        def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            made = function(*args, **(kwargs or {}))
            narrow = (torch.float32, torch.float16, torch.bfloat16)
            if isinstance(made, torch.Tensor) and made.numel() > 1 and made.dtype in narrow:
                self.pure = False
            return made

    return Watch()
