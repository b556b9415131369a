"""DLPack: moai's tensors have no address that others could read, so what is exported is a copy on the host."""

from __future__ import annotations

import functools

import torch


def install() -> None:
    """Have ``Tensor.__dlpack__`` and ``__dlpack_device__`` of moai's tensors speak for that copy."""
    export, device = torch.Tensor.__dlpack__, torch.Tensor.__dlpack_device__

    @functools.wraps(export)
    def __dlpack__(self, *, copy=None, **options):
        if self.device.type != "moai":
            return export(self, copy=copy, **options)
        if copy is False:
            raise BufferError(
                "moai's memory cannot be shared: copy=None or copy=True exports a copy on the host"
            )
        if self.requires_grad:
            raise BufferError("Can't export tensors that require gradient, use tensor.detach()")
        return export(self.cpu(), **options)

    @functools.wraps(device)
    def __dlpack_device__(self):
        if self.device.type != "moai":
            return device(self)
        return torch.utils.dlpack.DLDeviceType.kDLCPU, 0

    torch.Tensor.__dlpack__, torch.Tensor.__dlpack_device__ = __dlpack__, __dlpack_device__
