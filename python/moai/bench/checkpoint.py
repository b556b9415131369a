"""Saves a trainer to a file and restores it, so that a resumed run gives the same losses.

The format is torch's zip file of tensors and plain values; each entry has a checksum, and all of them are
verified before anything is restored.
"""

import os
import re
import zipfile
from collections.abc import Callable
from pathlib import Path

import torch

from .errors import BadInput, RunFailed
from .trainer import Trainer

KEPT = 2
# A resumed run equals an unbroken one only if these are what they were.
MUST_MATCH = ("model", "batch", "seq", "steps", "lr", "seed", "dtype", "optimizer")


def _map_tensors(value: object, function: Callable[[torch.Tensor], torch.Tensor]) -> object:
    if isinstance(value, torch.Tensor):
        return function(value)
    if isinstance(value, dict):
        return {key: _map_tensors(item, function) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_map_tensors(item, function) for item in value)
    return value


def _made_by(trainer: Trainer) -> dict[str, object]:
    made_by = {name: getattr(trainer.settings, name) for name in MUST_MATCH}
    return made_by | {"data": trainer.text.digest}


def state_of(trainer: Trainer) -> dict[str, object]:
    """Return everything that a resumed run needs, with tensors on the host.

    Batches are a function of seed and step, so the step is the position in the data too.
    """
    module = torch.get_device_module(trainer.device)
    rng = {"host": torch.get_rng_state()}
    if trainer.device.type != "cpu" and hasattr(module, "get_rng_state"):
        rng[trainer.device.type] = module.get_rng_state()
    state = {
        "made_by": _made_by(trainer),
        "step": trainer.finished,
        "model": trainer.model.state_dict(),
        "optimizer": trainer.optimizer.state_dict(),
        "schedule": trainer.schedule.state_dict(),
        "rng": rng,
    }
    return _map_tensors(dict(state, model=dict(state["model"])), torch.Tensor.cpu)


def save(folder: str, trainer: Trainer) -> Path:
    """Write a checkpoint of `trainer` into `folder`, keep the newest `KEPT`, and return its path.

    Until the whole file is on the disk it has another name: a name that counts never holds half a file.
    """
    path = Path(folder, f"step-{trainer.finished:08d}.pt")
    temporary = path.with_suffix(f".tmp-{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            torch.save(state_of(trainer), file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        _sync_folder(path.parent)
        for old in _checkpoints(folder)[:-KEPT]:
            old.unlink()
    except (OSError, RuntimeError) as error:
        raise RunFailed(
            f"cannot write checkpoint {path}: {_first_line(error)}; free some room or name another DIR"
        ) from error
    finally:
        temporary.unlink(missing_ok=True)
    return path


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _first_line(error: BaseException) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]


def _checkpoints(folder: str) -> list[Path]:
    """Return the checkpoints in `folder`, the newest last."""
    return sorted(
        path for path in Path(folder).glob("step-*.pt") if re.fullmatch(r"step-\d{8,}\.pt", path.name)
    )


def read(path: Path) -> dict[str, object]:
    """Return the state in `path`; raise BadInput if the file is damaged."""
    try:
        with zipfile.ZipFile(path) as file:
            damaged = file.testzip()
        if damaged is not None:
            raise zipfile.BadZipFile(f"wrong checksum in {damaged}")
        return torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, zipfile.BadZipFile, ValueError) as error:
        older = [other for other in _checkpoints(str(path.parent)) if other < path]
        instead = (
            f"delete it to go on from {older[-1].name}" if older else "delete it and run without --resume"
        )
        raise BadInput(
            f"checkpoint {path} is truncated or damaged ({_first_line(error)}): {instead}"
        ) from error


def resume(folder: str, trainer: Trainer) -> Path:
    """Restore `trainer` from the newest checkpoint in `folder` and return its path.

    Raises BadInput, and leaves `trainer` as it was, if there is none, it is damaged, or it was made by
    another run.
    """
    found = _checkpoints(folder)
    if not found:
        raise BadInput(f"no checkpoint in {folder}: run without --resume to begin one")
    state = read(found[-1])
    _check_same_run(found[-1], state, trainer)
    trainer.model.load_state_dict(state["model"])
    trainer.optimizer.load_state_dict(state["optimizer"])
    trainer.schedule.load_state_dict(state["schedule"])
    trainer.finished = state["step"]
    torch.set_rng_state(state["rng"]["host"])
    own = state["rng"].get(trainer.device.type)
    if own is not None:
        torch.get_device_module(trainer.device).set_rng_state(own)
    return found[-1]


def _check_same_run(path: Path, state: object, trainer: Trainer) -> None:
    if not isinstance(state, dict) or "made_by" not in state:
        raise BadInput(f"{path} is not a checkpoint of moai bench: name another folder")
    for name, now in _made_by(trainer).items():
        then = state["made_by"].get(name)
        if then == now:
            continue
        if name == "data":
            raise BadInput(
                f"checkpoint {path} was made on other text: give the same --data, or another --checkpoint"
            )
        raise BadInput(
            f"checkpoint {path} was made with --{name} {then}, this run has {now}: give --{name} {then}"
        )
