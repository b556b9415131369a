"""Writes text with a trained model, one byte at a time."""

import torch
from torch import Tensor, nn

# Lower, and a small model loses itself in indentation: spaces predict spaces.
TEMPERATURE = 0.9
SHORTEST_WINDOW = 32


def window_length(length: int, seq: int) -> int:
    """Return the size that `length` bytes are padded to: a power of two, or `seq` at most.

    A growing text thus shows the device a handful of shapes, not one for each length.
    """
    window = SHORTEST_WINDOW
    while window < length:
        window *= 2
    return min(window, seq)


@torch.no_grad()
def generate(model: nn.Module, prompt: bytes, count: int, seq: int, device: torch.device, seed: int) -> bytes:
    """Return `count` bytes that continue `prompt`, drawn on the host so that devices agree."""
    model.eval()
    generator = torch.Generator().manual_seed(seed)
    written = list(prompt or b"\n")
    for _ in range(count):
        recent = written[-seq:]
        window = torch.zeros(1, window_length(len(recent), seq), dtype=torch.long)
        window[0, : len(recent)] = torch.tensor(recent)
        # Attention is causal, so the padding to the right of the last byte changes nothing before it.
        last = torch.tensor([len(recent) - 1])
        logits: Tensor = model(window.to(device))[0].index_select(0, last.to(device))
        chances = torch.softmax(logits[0].cpu().float()[:256] / TEMPERATURE, dim=-1)
        written.append(int(torch.multinomial(chances, 1, generator=generator)))
    model.train()
    return bytes(written[len(written) - count :])


def prompt_from(held_out: Tensor, length: int = 80) -> bytes:
    """Return the first lines after the middle of the text never trained on, at most `length` bytes of them."""
    middle = len(held_out) // 2
    text = bytes(held_out[middle : middle + 8 * length].tolist())
    lines = text[text.find(b"\n") + 1 :].lstrip(b"\n")[:length]
    return lines[: lines.rfind(b"\n") + 1] or lines


def readable(text: bytes) -> str:
    """Return `text` as it can be printed: no control characters but line ends and tabs."""
    decoded = text.decode("utf-8", errors="replace")
    return "".join(c if c.isprintable() or c in "\n\t" else "\N{REPLACEMENT CHARACTER}" for c in decoded)
