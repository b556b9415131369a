"""moai: a PyTorch device behind which a whole cluster looks like one.

>>> import torch, moai
>>> model = torch.nn.Linear(4, 2).to("moai")
>>> model(torch.ones(3, 4, device="moai")).shape
torch.Size([3, 2])
"""

from __future__ import annotations

import atexit
import contextlib
import importlib.metadata
import os

import torch

__version__ = importlib.metadata.version("moai")

if not torch.__version__.startswith("2.11."):
    raise ImportError(
        f"moai {__version__} works with torch 2.11.x, and this is torch {torch.__version__}: pip install 'torch==2.11.*'"
    )

from moai import _C  # noqa: E402


def sync() -> None:
    """Run everything that is recorded, and wait for it."""
    _C.synchronize()


def configure(
    *,
    devices: str | None = None,
    device_memory: str | None = None,
    plan: str | None = None,
    cache: str | None = None,
    chunk: str | None = None,
) -> None:
    """Change what ``MOAI_DEVICES``, ``MOAI_DEVICE_MEMORY``, ``MOAI_PLAN``, ``MOAI_CACHE`` and ``MOAI_CHUNK`` said.

    What is left out stays.

    Runs what is recorded first; where that fails, its error is raised when the change is made. Values keep what they
    hold.

    >>> moai.configure(devices="cpu:4", plan="dp=2,tp=2")

    Raises ValueError that names what is wrong with the arguments, and then changes nothing.
    """
    from moai import options

    changed = {
        "devices": devices,
        "device_memory": device_memory,
        "plan": plan,
        "cache": cache,
        "chunk": chunk,
    }
    chosen = {name: text for name, text in changed.items() if text is not None}
    parsed = options.parse_engine(chosen)
    kind, count, indices, _, planned, _, _, reached, _ = parsed
    if kind == "cpu" or indices:  # else who looks for GPUs will know how many there are
        _C.check_plan(len(indices) or count, indices, planned, reached)
    failed = None
    try:
        _C.synchronize()
    except Exception as error:  # the script's own; the change is made all the same
        failed = error
    _C.shut_down()
    _C.configure_devices(*parsed, _build())
    options.override(chosen)
    if failed is not None:
        raise failed


def stats() -> dict:
    """Counts and times since the process began or :func:`reset_stats`."""
    return _C.stats()


def reset_stats() -> None:
    """Set every count and time of :func:`stats` to zero."""
    _C.reset_stats()


def count_tokens(count: int) -> None:
    """Tell ``moai smi`` that the script has learnt from so many tokens more; nothing else depends on it.

    >>> moai.count_tokens(batch * length)
    """
    _C.count_tokens(count)


def hint(tensor: torch.Tensor, cut: dict[str, int | None]) -> None:
    """Say how the planner should lay a parameter, a buffer or an input over several devices: never needed.

    `cut` names kinds of parallelism ("data", "sequence", "tensor", "expert") and for each the dim of `tensor` that
    its devices divide between them, or None where each is to have all of it. It binds from the next step on
    wherever the tensor is an input of one, on meshes that have such an axis no longer than the dim; an empty
    `cut` forgets what was said. Numbers are the same either way.

    >>> moai.hint(model.head.weight, {"tensor": 0, "data": None})

    Raises ValueError for another name, a tensor of another device or a part of one; IndexError for a dim
    that there is not. The step itself raises where no op splits that dim.
    """
    dims = []
    for axis, dim in cut.items():
        if axis not in ("data", "sequence", "tensor", "expert"):
            raise ValueError(f"moai.hint knows no {axis!r}: data, sequence, tensor or expert")
        if dim is not None and not -tensor.dim() <= dim < tensor.dim():
            raise IndexError(f"moai.hint: dim {dim} of a tensor of {tensor.dim()} dims")
        dims.append((axis, -1 if dim is None else dim % tensor.dim()))
    _C.set_hint(tensor, sorted(dims))


def explain() -> str:
    """How several devices share the last planned training step: predicted against measured, in a few lines.

    Empty where there is one device or no training step has run yet.
    """
    from .explaining import explanation

    return explanation(_C.explained(), _C.stats()["devices"])


def dump() -> str:
    """The graph and the program that ran last, as text; empty before the first."""
    return _C.dump()


def plan(*args, **kwargs) -> dict:
    """Predict a training step on a cluster that is not here: see :func:`moai.planning.plan`."""
    from .planning import plan as predict

    return predict(*args, **kwargs)


@contextlib.contextmanager
def trace(path: str):
    """Write what host and device do meanwhile to `path`, for chrome://tracing or ui.perfetto.dev.

    >>> with moai.trace("step.json"):
    ...     train_step()
    """
    _C.start_trace()
    try:
        yield
    finally:
        _C.stop_trace(str(path))


@contextlib.contextmanager
def dry_run():
    """Record without running: shapes are right, values do not exist and cannot be read.

    For steps of models that no machine at hand could hold.

    >>> with moai.dry_run():
    ...     loss = torch.ones(2, device="moai").sum()
    """
    _C.set_dry(True)
    try:
        yield
    finally:
        _C.set_dry(False)


def _build() -> str:
    """What tells this library from another of the same version, whose planner may be another."""
    library = os.stat(_C.__file__)
    return f"moai {__version__}, {library.st_size} bytes of {library.st_mtime_ns}"


# Not while a script is run dry for a plan: several optimizers may step in one of its steps.
_optimizers_end_steps = True


def _after_optimizer_step(optimizer, args, kwargs) -> None:
    if _optimizers_end_steps and any(
        p.is_moai for group in optimizer.param_groups for p in group["params"][:1]
    ):
        _C.mark_step(True)


def _register() -> None:
    from torch.optim.optimizer import register_optimizer_step_post_hook

    from moai import adapters, device, dlpack, options

    options.check()
    _C.configure_log(options.value("log"))
    _C.configure_devices(*options.parse_engine({}), _build())
    _C.register_device()
    torch._register_device_module("moai", device)
    torch.utils.generate_methods_for_privateuse1_backend(for_storage=True)
    register_optimizer_step_post_hook(_after_optimizer_step)
    dlpack.install()
    adapters.install()
    atexit.register(_C.shut_down)


_register()
