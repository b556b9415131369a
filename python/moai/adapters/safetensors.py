"""safetensors: reads files to the devices of a list; moai's tensors are read to the host and moved."""

from __future__ import annotations

import torch


def read_to_moai(module) -> None:
    """``safe_open`` accepts ``device="moai"``, and with it ``safetensors.torch.load_file``."""
    on_host = module.safe_open

    class OpensOthers(type):
        def __instancecheck__(cls, instance) -> bool:
            return type.__instancecheck__(cls, instance) or isinstance(instance, on_host)

    class safe_open(metaclass=OpensOthers):
        """A file whose tensors come as tensors of moai; any other device gives the library's own."""

        def __new__(cls, filename, framework, device="cpu", **options):
            if str(device).partition(":")[0] != "moai":
                return on_host(filename, framework, device, **options)
            opened = super().__new__(cls)
            opened._file = on_host(filename, framework, "cpu", **options)
            return opened

        def __enter__(self):
            self._file.__enter__()
            return self

        def __exit__(self, *exc):
            return self._file.__exit__(*exc)

        def __getattr__(self, name):
            return getattr(self._file, name)

        def get_tensor(self, name: str) -> torch.Tensor:
            return self._file.get_tensor(name).to("moai")

        def get_tensors(self, *args, **options) -> dict[str, torch.Tensor]:
            read = self._file.get_tensors(*args, **options)
            return {name: tensor.to("moai") for name, tensor in read.items()}

        def get_slice(self, name: str):
            return _Slice(self._file.get_slice(name))

    module.safe_open = safe_open


class _Slice:
    def __init__(self, on_host) -> None:
        self._on_host = on_host

    def __getitem__(self, index) -> torch.Tensor:
        return self._on_host[index].to("moai")

    def __getattr__(self, name):
        return getattr(self._on_host, name)
