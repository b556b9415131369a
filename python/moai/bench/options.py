"""The options of ``moai bench``: one table, from which the command line and the defaults come."""

import argparse
import dataclasses
import os
from dataclasses import dataclass

from .errors import BadInput
from .models import MODELS, named

DTYPES = ("fp32", "bf16")
OPTIMIZERS = ("fused", "foreach", "default")
PEERS = ("eager", "compile")

# Runs ready made: what each sets where the command line is silent.
_STORY = {"model": "mini", "steps": 9, "log_every": 1, "sample_bytes": 0}
PRESETS = {
    "demo": {"model": "mini", "eval_every": 200, "sample_bytes": 480},
    "story-16x4": _STORY | {"batch": 16, "devices": "4"},
    "story-64x16": _STORY | {"batch": 64, "devices": "16"},
    "story-512x16": _STORY | {"batch": 512, "devices": "16", "device_memory": "64MiB", "steps": 6},
    "story": {},  # the three above, in turn
}
STORY = tuple(name for name in PRESETS if name.startswith("story-"))

# Of the main job on moai, where neither the command line nor MOAI_DEVICES names another number.
DEVICES = 4


# The headings of --help, each with the first option below it.
HEADINGS = {
    "preset": "what to run",
    "batch": "training",
    "log_every": "what to say",
    "checkpoint": "checkpoints",
}


def _option(default: object, text: str, metavar: str | None = None, **more: object) -> dataclasses.Field:
    return dataclasses.field(default=default, metadata={"help": text, "metavar": metavar, **more})


@dataclass(frozen=True)
class Settings:
    """What one run does. A field that is None takes the model's own value, see :func:`resolve`."""

    preset: str | None = _option(
        None,
        "a run ready made. demo: two minutes on two CPU cores; story: a batch that outgrows its devices, three runs "
        "in turn",
        choices=tuple(PRESETS),
    )
    model: str = _option("mini", f"one of {', '.join(MODELS)}", "NAME")
    device: str = _option("moai", "device to train on", "DEVICE")
    devices: str | None = _option(
        None,
        f"virtual devices to train on (default: MOAI_DEVICES, or else {DEVICES}); of several numbers, each in turn, to "
        "compare",
        "N[,N...]",
    )
    device_memory: str | None = _option(
        None, "most memory that each device may hold, as 64MiB (default: MOAI_DEVICE_MEMORY)", "SIZE"
    )
    threads: int | None = _option(None, "CPU threads (default: torch's own choice)", "N", type=int)
    compare: str | None = _option(
        None, "also run the same steps in plain PyTorch on cpu: eager, compile or both", "eager,compile"
    )
    batch: int | None = _option(None, "sequences in a batch (default: the model's own)", "N", type=int)
    seq: int | None = _option(None, "bytes in a sequence (default: the model's own)", "N", type=int)
    steps: int | None = _option(None, "optimizer steps (default: the model's own)", "N", type=int)
    lr: float | None = _option(None, "highest learning rate (default: the model's own)", "RATE", type=float)
    seed: int = _option(0, "seed of weights, batches and the sample", "N", type=int)
    dtype: str = _option("fp32", "fp32, or bf16 under autocast", choices=DTYPES)
    optimizer: str = _option("fused", "AdamW implementation", choices=OPTIMIZERS)
    data: str | None = _option(None, "text to train on (default: Python's standard library)", "PATH")
    log_every: int | None = _option(
        None, "steps to a log line (default: for some 40 lines, 50 at most)", "N", type=int
    )
    eval_every: int = _option(0, "steps to a held-out loss; 0: only at the end", "N", type=int)
    sample_bytes: int = _option(240, "bytes of text to write at the end; 0: none", "N", type=int)
    json: str | None = _option(None, "write the results to this file", "FILE")
    checkpoint: str | None = _option(None, "folder for checkpoints", "DIR")
    checkpoint_every: int = _option(0, "steps to a checkpoint; 0: only at the end", "N", type=int)
    resume: bool = _option(False, "go on from the newest checkpoint in --checkpoint")

    @property
    def tokens_per_step(self) -> int:
        """Bytes that one optimizer step learns from."""
        return self.batch * self.seq

    @property
    def peers(self) -> list[str]:
        """Names of the sides that --compare asks for."""
        return [name.strip() for name in self.compare.split(",")] if self.compare else []


def flag(field: dataclasses.Field) -> str:
    """Return the command line's name of a field of :class:`Settings`."""
    return "--" + field.name.replace("_", "-")


def add_options(parser: argparse.ArgumentParser) -> None:
    """Give `parser` every option of :class:`Settings`."""
    for field in dataclasses.fields(Settings):
        if field.name in HEADINGS:
            group = parser.add_argument_group(HEADINGS[field.name])
        if field.type is bool:
            group.add_argument(flag(field), action="store_true", help=field.metadata["help"])
            continue
        text = field.metadata["help"]
        if isinstance(field.default, str) or (field.default and "default" not in text):
            text += f" (default: {field.default})"
        more = {k: v for k, v in field.metadata.items() if k != "help" and v is not None}
        group.add_argument(flag(field), default=field.default, help=text, **more)


def settings_from(arguments: argparse.Namespace) -> Settings:
    """Return the settings that parsed `arguments` hold, the rest as their --preset has it."""
    given = {field.name: getattr(arguments, field.name) for field in dataclasses.fields(Settings)}
    defaults = dataclasses.asdict(Settings())
    for name, value in PRESETS.get(arguments.preset, {}).items():
        if given[name] == defaults[name]:
            given[name] = value
    return Settings(**given)


def _log_period(steps: int) -> int:
    """Return a round number of steps that makes some 40 lines, or more in a long run."""
    return max(period for period in (1, 2, 5, 10, 20, 50) if period == 1 or period <= steps / 30)


def resolve(settings: Settings) -> Settings:
    """Return `settings` with the model's own values filled in; raise BadInput for what cannot run."""
    own = named(settings.model)
    filled = {name: getattr(own, name) for name in ("batch", "seq", "steps", "lr")}
    filled = {name: value for name, value in filled.items() if getattr(settings, name) is None}
    settings = dataclasses.replace(settings, **filled)
    if settings.log_every is None:
        settings = dataclasses.replace(settings, log_every=_log_period(settings.steps))

    for name in ("batch", "seq", "steps", "log_every", "threads"):
        value = getattr(settings, name)
        if value is not None and value < 1:
            raise BadInput(f"--{name.replace('_', '-')} is {value}: give 1 or more")
    for name in ("eval_every", "checkpoint_every", "sample_bytes"):
        if getattr(settings, name) < 0:
            raise BadInput(f"--{name.replace('_', '-')} is {getattr(settings, name)}: give 0 or more")
    if not 0 < settings.lr < float("inf"):
        raise BadInput(f"--lr is {settings.lr}: give a number above 0, such as {own.lr}")
    if settings.seq > own.config.max_seq:
        raise BadInput(
            f"--seq {settings.seq}: {settings.model} has {own.config.max_seq} positions; give no more"
        )
    _check_files(settings)
    _check_compare(settings)
    return settings


def _check_files(settings: Settings) -> None:
    if settings.checkpoint is None and (settings.resume or settings.checkpoint_every):
        given = "--resume" if settings.resume else "--checkpoint-every"
        raise BadInput(f"{given} needs a folder: give --checkpoint DIR too")
    if settings.json is not None:
        folder = os.path.dirname(settings.json) or "."
        if not os.path.isdir(folder):
            raise BadInput(
                f"--json {settings.json}: there is no folder {folder}; make it, or name another file"
            )
        if os.path.isdir(settings.json):
            raise BadInput(f"--json {settings.json} is a folder: name a file")


def _check_compare(settings: Settings) -> None:
    for name in settings.peers:
        if name not in PEERS:
            raise BadInput(f"--compare has no side '{name}': choose from {', '.join(PEERS)}")
    if len(set(settings.peers)) != len(settings.peers):
        raise BadInput(f"--compare {settings.compare} names a side twice: name each once")
    if settings.peers and settings.checkpoint is not None:
        raise BadInput("--compare and --checkpoint do not go together: run them one after the other")
