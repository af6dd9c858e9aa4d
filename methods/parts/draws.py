"""Random numbers by seed, apart from torch's own stream: a method draws the same whatever else draws."""

from __future__ import annotations

import torch


def generator(seed: int, device: torch.device) -> torch.Generator | None:
    """A generator of `seed` on `device`, to be handed to a drawing operation; None on meta, where nothing is drawn."""
    return None if device.type == "meta" else torch.Generator(device).manual_seed(seed)
