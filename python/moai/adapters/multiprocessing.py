"""torch.multiprocessing: a moai tensor that is sent to another process is refused, with what to do."""

from __future__ import annotations

import functools

import torch


def refuse_to_share(module) -> None:
    """Memory of the device cannot be shared, and a copy would hide that from whoever writes to it."""
    reduce = module.reduce_storage

    @functools.wraps(reduce)
    def reduce_storage(storage):
        if storage.device.type == "moai":
            raise RuntimeError(
                "a moai tensor cannot be shared with another process: send tensor.cpu(), and move it there"
                ' with .to("moai")'
            )
        return reduce(storage)

    module.reduce_storage = reduce_storage
    module.reduction.register(torch.UntypedStorage, reduce_storage)
