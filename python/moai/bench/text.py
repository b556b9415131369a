"""Text as bytes: where it comes from, what is held out, and which bytes make up a batch."""

import hashlib
import os
import random
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from .errors import BadInput

# Of the text, one part in this many is held out: whole files where there are enough of them.
HELD_OUT_ONE_IN = 20
# More is not read: the text stays in memory.
MAX_BYTES = 1 << 30
SKIPPED_FOLDERS = {"__pycache__", "site-packages", "dist-packages"}
SKIPPED_IN_STDLIB = SKIPPED_FOLDERS | {"test", "tests", "idle_test", "idlelib", "lib2to3", "turtledemo"}


@dataclass(frozen=True)
class Text:
    """Bytes to train on and bytes never trained on, resident on the host as ``uint8``."""

    source: str
    files: int
    train: Tensor
    held_out: Tensor
    digest: str


def _files_below(folder: Path, skipped: set[str], suffix: str) -> Iterator[Path]:
    for parent, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if name not in skipped and not name.startswith("."))
        for name in sorted(names):
            if name.endswith(suffix) and not name.startswith("."):
                yield Path(parent, name)


def _read(paths: Iterator[Path], source: str) -> list[bytes]:
    """Return the distinct, non-empty text files of `paths`, `MAX_BYTES` at most."""
    contents: dict[bytes, None] = {}
    room = MAX_BYTES
    for path in paths:
        try:
            with path.open("rb") as file:
                content = file.read(room)
        except OSError as error:
            raise BadInput(
                f"cannot read {path}: {error.strerror}; give --data a file or folder of text"
            ) from error
        if content and b"\0" not in content and content not in contents:
            contents[content] = None
            room -= len(content)
        if room == 0:
            break
    if not contents:
        raise BadInput(f"no text in {source}: give --data a file or folder that holds some")
    return list(contents)


def _tensor(content: bytes) -> Tensor:
    return (
        torch.frombuffer(bytearray(content), dtype=torch.uint8)
        if content
        else torch.empty(0, dtype=torch.uint8)
    )


def read_text(data: str | None = None) -> Text:
    """Return the text of `data`, a file or folder; of Python's standard library if there is none.

    With enough files every 20th is held out whole; otherwise the last twentieth of the bytes is.
    Folders are read in order of their paths, so that every host makes the same split.
    """
    if data is None:
        folder = Path(sysconfig.get_path("stdlib"))
        source = f"Python {sysconfig.get_python_version()} standard library"
        contents = _read(_files_below(folder, SKIPPED_IN_STDLIB, ".py"), f"{source} ({folder})")
    elif Path(data).is_dir():
        source = data
        contents = _read(_files_below(Path(data), SKIPPED_FOLDERS, ""), source)
    elif Path(data).exists():
        source = data
        contents = _read(iter([Path(data)]), source)
    else:
        raise BadInput(f"no such file or folder: {data}; give --data one that exists, or leave it out")

    if len(contents) >= HELD_OUT_ONE_IN:
        held_out = b"".join(contents[HELD_OUT_ONE_IN - 1 :: HELD_OUT_ONE_IN])
        train = b"".join(text for i, text in enumerate(contents, 1) if i % HELD_OUT_ONE_IN)
    else:
        whole = b"".join(contents)
        cut = len(whole) - len(whole) // HELD_OUT_ONE_IN
        train, held_out = whole[:cut], whole[cut:]
    digest = hashlib.blake2b(train + b"\0" + held_out, digest_size=16).hexdigest()
    return Text(source, len(contents), _tensor(train), _tensor(held_out), digest)


def check_size(text: Text, batch: int, seq: int) -> None:
    """Refuse text that has less than one batch to train on, or less than one sequence held out."""
    train, held_out = len(text.train), len(text.held_out)
    needed = batch * (seq + 1)
    if train < needed:
        fits = f"--batch {train // (seq + 1)}" if train > seq else f"--seq {max(1, train // batch - 1)}"
        raise BadInput(
            f"{text.source} is shorter than one batch: {train:,} bytes to train on, --batch {batch} of --seq"
            f" {seq} needs {needed:,}; give --data more text, or {fits}"
        )
    if held_out < seq + 1:
        raise BadInput(
            f"{text.source} is too short: {held_out:,} bytes are held out, --seq {seq} needs {seq + 1:,};"
            f" give --data more text, or --seq {max(1, held_out - 1)}"
        )


def batch_at(part: Tensor, step: int, batch: int, seq: int, seed: int) -> tuple[Tensor, Tensor]:
    """Return step's inputs and targets, each ``[batch, seq]`` token ids on the host.

    A function of its arguments alone: every device sees the same batches, and a resumed run goes on
    where the first one stopped.
    """
    places = random.Random(f"{seed}/{step}")
    starts = torch.tensor([places.randrange(len(part) - seq) for _ in range(batch)])
    block = part[starts[:, None] + torch.arange(seq + 1)].long()
    return block[:, :-1].contiguous(), block[:, 1:].contiguous()
