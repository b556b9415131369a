"""Run a user's script dry: its ops are recorded, none is executed, and it ends once a step has come twice.

No value on the device exists: what reads one gets zeros, and is listed. Large CPU tensors that factories make (random
initialisation too) have addresses, but no memory: a model of any size is built and moved to the device in seconds.
"""

from __future__ import annotations

import contextlib
import os
import runpy
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode

from .. import _C
from .failures import ScriptFailed, failure, no_step, on_host
from .steps import StepRecorded, Steps

aten = torch.ops.aten
# CPU tensors from this size on have no memory.
VIRTUAL_BYTES = 1 << 20
# What is larger is no batch.
BATCH_BYTES = 1 << 28
# The list is for reading.
MOST_LARGEST = 10
_OURS = (os.path.dirname(torch.__file__) + os.sep, str(Path(__file__).parents[1]) + os.sep, "<frozen")


@dataclass
class RecordedStep:
    """What a script's step is."""

    script: str  # as it was given
    seconds: float  # that recording took
    graph: str  # as text
    parameters: int  # that the optimizer steps
    steps: int  # that the script made until two were alike
    reads: dict[str, int] = field(default_factory=dict)  # user's line -> values read there, zeros
    # The largest values that the script makes: op, shape, bytes, user's line.
    largest: list[dict] = field(default_factory=list)
    line_of_op: dict[str, str] = field(default_factory=dict)  # op -> user's line that called it first
    optimizers: int = 1
    settled: bool = True  # the last two steps were alike
    other_sizes: bool = False  # they were not, but were the same ops
    rounds: int = 1  # of forward and backward over a batch each, whose gradients are added up


def user_line(script: str) -> str:
    """ "file:line" of the innermost frame of the script's folder, else of the innermost that is not torch's or ours."""
    frame, outside = sys._getframe(1), ""
    folder = os.path.dirname(script) + os.sep
    while frame is not None:
        name = frame.f_code.co_filename
        if not name.startswith(_OURS):
            line = f"{os.path.basename(name)}:{frame.f_lineno}"
            if name == script or (name.startswith(folder) and "site-packages" not in name):
                return line
            outside = outside or line
        frame = frame.f_back
    return outside


class DryMode(TorchDispatchMode):
    """Answers reads with zeros, and gives large CPU tensors no memory."""

    def __init__(self, script: str, steps: Steps) -> None:
        super().__init__()
        self.script = script
        self.steps = steps
        self.reads: dict[str, int] = {}
        self.made: dict[tuple, dict] = {}  # by op and shape: the first large one
        self.line_of_op: dict[str, str] = {}
        self._virtual: dict[int, StorageWeakRef] = {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        flat = list(_tensors((args, kwargs)))
        on_device = any(t.device.type == "moai" for t in flat)
        if on_device or _device(kwargs) == "moai":
            return self._on_device(func, args, kwargs)
        return self._on_host(func, flat, args, kwargs)

    # ---- the device

    def _on_device(self, func, args, kwargs):
        packet = func.overloadpacket
        if packet is aten._local_scalar_dense:
            self._read()
            return _zero(args[0].dtype)
        if packet is aten.equal:
            self._read()
            return args[0].shape == args[1].shape
        if packet is aten._to_copy:
            source, target = args[0], _device(kwargs)
            if source.device.type == "moai" and target not in (None, "moai"):
                self._read()
                return self._empty(source, kwargs.get("dtype") or source.dtype)
            if source.device.type == "cpu" and self._is_weight(source):
                return _moved(source, kwargs.get("dtype") or source.dtype)
            self._came(source)
        if packet is aten.copy_ and args[0].device.type == "cpu":
            self._read()
            return args[0] if self._is_virtual(args[0]) else args[0].zero_()
        if packet is aten.copy_ and args[1].device.type == "cpu" and self._is_weight(args[1]):
            return args[0].zero_()
        if packet is aten.copy_:
            self._came(args[1])
        try:
            out = func(*args, **kwargs)
        except RuntimeError as error:
            if "recorded in a dry run" not in str(error):
                raise
            raise ScriptFailed(
                f"{func.name()} at {user_line(self.script)} needs values, and a dry run has none\n"
                "  would work: an op whose result's size does not depend on data (a mask instead of indices)"
            ) from error
        if not func.is_view:
            self._note(func, out)
        return out

    def _note(self, func, out) -> None:
        """Where the script makes what is large, and calls each op first. Backward has no line of the script."""
        op = f"{func.namespace}.{func.overloadpacket.__name__}"
        if op not in self.line_of_op:
            line = user_line(self.script)
            if line:
                self.line_of_op[op] = line
        if _in_place(func):
            return
        for tensor in _tensors(out):
            key = (op, tensor.shape)
            if tensor.device.type != "moai" or tensor.nbytes < VIRTUAL_BYTES or key in self.made:
                continue
            line = user_line(self.script)
            if line:
                self.made[key] = {"op": op, "shape": list(tensor.shape), "bytes": tensor.nbytes, "line": line}

    def _came(self, source: torch.Tensor) -> None:
        """A tensor goes to the device; a number is no part of a batch."""
        if source.device.type == "cpu" and source.dim() > 0:
            self.steps.batches += 1

    def _is_weight(self, source: torch.Tensor) -> bool:
        """Whether a tensor goes to the device without its memory. A batch goes as it is: its zeros are read, so that it
        is an input of the step, and not something that the step makes.
        """
        if not self._is_virtual(source):
            return False
        return isinstance(source, torch.nn.Parameter) or source.nbytes > BATCH_BYTES

    def _read(self) -> None:
        line = user_line(self.script)
        self.reads[line] = self.reads.get(line, 0) + 1

    # ---- the host

    def _on_host(self, func, flat, args, kwargs):
        touched = [t for t in flat if t.device.type == "cpu" and self._is_virtual(t)]
        if not touched:
            return self._fresh(func, args, kwargs) if _is_factory(func, flat) else func(*args, **kwargs)
        if func.is_view or _aliases_only(func):
            return func(*args, **kwargs)
        written = _written(func, args, kwargs)
        if written is not None:
            # What is virtual stays zeros; what is not would become zeros.
            return written if self._is_virtual(written) else written.zero_()
        return self._like_meta(func, args, kwargs)

    def _fresh(self, func, args, kwargs):
        """A tensor that depends on no other: with no memory, where it is large."""
        if _device(kwargs) not in (None, "cpu"):
            return func(*args, **kwargs)
        try:
            meta = func(*args, **{**kwargs, "device": torch.device("meta")})
        except (RuntimeError, NotImplementedError, TypeError):
            return func(*args, **kwargs)
        if not isinstance(meta, torch.Tensor) or meta.nbytes < VIRTUAL_BYTES:
            return func(*args, **kwargs)
        return self._empty(meta, meta.dtype)

    def _like_meta(self, func, args, kwargs):
        def to_meta(value):
            return value.to("meta") if isinstance(value, torch.Tensor) else value

        if func.overloadpacket is aten._local_scalar_dense:
            return _zero(args[0].dtype)
        try:
            made = func(
                *torch.utils._pytree.tree_map(to_meta, args),
                **_on_meta(torch.utils._pytree.tree_map(to_meta, kwargs)),
            )
        except (RuntimeError, NotImplementedError):
            return func(*args, **kwargs)  # its pages are zeros, and reading them takes no memory

        def back(value):
            return self._empty(value, value.dtype) if isinstance(value, torch.Tensor) else value

        return torch.utils._pytree.tree_map(back, made)

    def _empty(self, like: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        """A CPU tensor of zeros; large ones are pages that nobody touches."""
        made = torch.empty_strided(like.shape, like.stride(), dtype=dtype, device="cpu")
        if made.nbytes < VIRTUAL_BYTES:
            return made.zero_()
        storage = made.untyped_storage()
        self._virtual[storage.data_ptr()] = StorageWeakRef(storage)
        return made

    def _is_virtual(self, tensor: torch.Tensor) -> bool:
        if tensor.layout != torch.strided:
            return False
        storage = tensor.untyped_storage()
        known = self._virtual.get(storage.data_ptr())
        if known is None:
            return False
        if known.expired():
            del self._virtual[storage.data_ptr()]
            return False
        return True


def _tensors(value) -> Iterator[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, (list, tuple)):
        for one in value:
            yield from _tensors(one)
    elif isinstance(value, dict):
        for one in value.values():
            yield from _tensors(one)


def _device(kwargs: dict) -> str | None:
    device = kwargs.get("device")
    return None if device is None else torch.device(device).type


def _on_meta(kwargs: dict) -> dict:
    return {**kwargs, "device": torch.device("meta")} if kwargs.get("device") is not None else kwargs


def _zero(dtype: torch.dtype):
    return (
        False
        if dtype is torch.bool
        else complex(0)
        if dtype.is_complex
        else 0.0
        if dtype.is_floating_point
        else 0
    )


def _moved(source: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """A virtual tensor on the device: zeros, recorded, so that it is an input of the steps that follow."""
    return torch.empty_strided(source.shape, source.stride(), dtype=dtype, device="moai").zero_()


def _is_factory(func, flat: list) -> bool:
    return not flat and any(a.name == "device" for a in func._schema.arguments)


def _aliases_only(func) -> bool:
    returns = func._schema.returns
    return bool(returns) and all(r.alias_info is not None and not r.alias_info.is_write for r in returns)


def _in_place(func) -> bool:
    """Whether its result lies in what it was given, so that it makes nothing."""
    # `_unsafe_view` is a view that autograd takes for none, and its schema says nothing.
    return func.overloadpacket is aten._unsafe_view or any(
        r.alias_info is not None for r in func._schema.returns
    )


def _written(func, args, kwargs):
    """The first tensor that the op writes, or None."""
    for i, argument in enumerate(func._schema.arguments):
        if argument.alias_info is not None and argument.alias_info.is_write:
            value = args[i] if i < len(args) else kwargs.get(argument.name)
            if isinstance(value, torch.Tensor):
                return value
    return None


@contextlib.contextmanager
def _refusals(script: str) -> Iterator[None]:
    """Saving a tensor of the device is refused, and printing one reads it."""

    def refuse(value) -> None:
        if any(t.device.type == "moai" for t in _tensors(value)):
            raise ScriptFailed(
                f"the script saves a moai tensor at {user_line(script)}, and in a dry run it has no value\n"
                "  would work: to save after the first two steps, or not in this run"
            )

    save, shown = torch.save, torch.Tensor.__repr__

    def checked_save(obj, *args, **kwargs):
        refuse(obj)
        return save(obj, *args, **kwargs)

    def repr_of(self, *, tensor_contents=None):
        on_host = self.detach().cpu() if self.device.type == "moai" else self
        return shown(on_host, tensor_contents=tensor_contents)

    torch.save, torch.Tensor.__repr__ = checked_save, repr_of
    saves = []
    with contextlib.suppress(ImportError):
        import safetensors.torch

        for name in ("save_file", "save"):
            saves.append((name, getattr(safetensors.torch, name)))

            def checked(tensors, *args, _save=saves[-1][1], **kwargs):
                refuse(tensors)
                return _save(tensors, *args, **kwargs)

            setattr(safetensors.torch, name, checked)
    try:
        yield
    finally:
        torch.save, torch.Tensor.__repr__ = save, shown
        for name, function in saves:
            setattr(safetensors.torch, name, function)


def record_script(path: str, arguments: list[str]) -> RecordedStep:
    """Run a script dry with these arguments, and return its step.

    Raises `ScriptFailed`: it never steps an optimizer on moai, crashes, misses data, saves, or needs a value.
    """
    start = time.perf_counter()
    script = str(Path(path).resolve())
    if not os.path.isfile(script):
        raise ScriptFailed(f"there is no script {path}\n  would work: the path of a Python file")
    steps = Steps()
    mode = DryMode(script, steps)
    argv, folder, modules = sys.argv, sys.path[0], set(sys.modules)
    sys.argv, sys.path[0] = [path, *arguments], os.path.dirname(script)
    status: object = None
    _C.set_dry(True)
    try:
        with _refusals(script), steps.watch(), mode:
            runpy.run_path(script, run_name="__main__")
    except StepRecorded:
        pass
    except ScriptFailed as error:
        raise ScriptFailed(str(error)) from None
    except SystemExit as error:
        status = error.code or 0
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        raise failure(error, script, mode.reads) from error
    finally:
        _C.set_dry(False)
        sys.argv, sys.path[0] = argv, folder
        for name in set(sys.modules) - modules:
            if getattr(sys.modules[name], "__file__", None) == script:
                del sys.modules[name]
    if not steps.steps or not steps.steps[-1].graph:
        if steps.host_steps:
            raise on_host()
        raise no_step(status, mode.reads)
    last = steps.steps[-1]
    return RecordedStep(
        path, time.perf_counter() - start, last.graph, sum(steps.parameters.values()), len(steps.steps), mode.reads,
        sorted(mode.made.values(), key=lambda m: -m["bytes"])[:MOST_LARGEST], mode.line_of_op,
        len(steps.parameters), steps.settled, steps.other_sizes, last.rounds,
    )  # fmt: skip
