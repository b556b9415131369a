"""One model being trained on one device: the training step, written as any PyTorch script writes it."""

import contextlib
import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .models import create
from .options import Settings
from .text import Text, batch_at

CLIP_NORM = 1.0
WEIGHT_DECAY = 0.1
EVAL_BATCHES = 8
# Seeds of held-out batches are this far from those of training.
EVAL_SEED = 1_000_000_007


def next_byte_loss(model: nn.Module, tokens: Tensor, targets: Tensor) -> Tensor:
    """Return the mean cross-entropy of each next byte, in nats."""
    logits = model(tokens)
    return F.cross_entropy(logits.float().flatten(0, 1), targets.flatten())


def learning_rate(settings: Settings) -> Callable[[int], float]:
    """Return the factor of --lr by step: linear warm-up over a tenth, then a cosine down to a tenth."""
    warmup = max(1, min(100, settings.steps // 10))

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / warmup
        progress = (step - warmup) / max(1, settings.steps - warmup)
        return 0.1 + 0.45 * (1 + math.cos(math.pi * min(1.0, progress)))

    return factor


def make_optimizer(model: nn.Module, settings: Settings) -> torch.optim.AdamW:
    """Return AdamW over `model`; only matrices decay."""
    decays = [p for p in model.parameters() if p.dim() >= 2]
    others = [p for p in model.parameters() if p.dim() < 2]
    kind = {} if settings.optimizer == "default" else {settings.optimizer: True}
    groups = [{"params": decays, "weight_decay": WEIGHT_DECAY}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=settings.lr, betas=(0.9, 0.95), **kind)


class Trainer:
    """A model, its optimizer and its schedule on `device`, and how many steps they have taken."""

    def __init__(self, settings: Settings, text: Text, device: str, compiled: bool = False) -> None:
        self.settings = settings
        self.text = text
        self.device = torch.device(device)
        self.model = create(settings.model, self.device, settings.seed, on_host=bool(settings.peers))
        self.optimizer = make_optimizer(self.model, settings)
        self.schedule = torch.optim.lr_scheduler.LambdaLR(self.optimizer, learning_rate(settings))
        self.loss = torch.compile(next_byte_loss, dynamic=False) if compiled else next_byte_loss
        self.finished = 0

    def _precision(self) -> contextlib.AbstractContextManager:
        if self.settings.dtype == "bf16":
            return torch.autocast(self.device.type, dtype=torch.bfloat16)
        return contextlib.nullcontext()

    def _batch(self, part: Tensor, step: int, seed: int) -> tuple[Tensor, Tensor]:
        tokens, targets = batch_at(part, step, self.settings.batch, self.settings.seq, seed)
        return tokens.to(self.device), targets.to(self.device)

    def step(self) -> Tensor:
        """Take one optimizer step and return its loss, still on the device."""
        tokens, targets = self._batch(self.text.train, self.finished, self.settings.seed)
        with self._precision():
            loss = self.loss(self.model, tokens, targets)
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), CLIP_NORM)
        self.optimizer.step()
        self.schedule.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.finished += 1
        return loss.detach()

    @torch.no_grad()
    def held_out_loss(self) -> float:
        """Return the mean loss over fixed batches of the text that is never trained on."""
        self.model.eval()
        total = torch.zeros((), device=self.device)
        for number in range(EVAL_BATCHES):
            tokens, targets = self._batch(self.text.held_out, number, self.settings.seed + EVAL_SEED)
            with self._precision():
                total += next_byte_loss(self.model, tokens, targets)
        self.model.train()
        return total.item() / EVAL_BATCHES
