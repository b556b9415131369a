"""torch.nn.attention.flex_attention: refuses devices that are not in its list."""

from __future__ import annotations

import functools


def accept_moai(module) -> None:
    """On moai it runs as the ops that it stands for, backward too."""
    refuse = module._validate_device

    @functools.wraps(refuse)
    def _validate_device(query, key, value) -> None:
        if query.device.type != "moai":
            refuse(query, key, value)

    module._validate_device = _validate_device
