"""The controller's state as bytes; reading it runs no code."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from typing import Any


def dump(state: Mapping[str, Any]) -> bytes:
    """Return a state of tensors and plain values as bytes."""
    import torch

    buffer = io.BytesIO()
    torch.save(dict(state), buffer)
    return buffer.getvalue()


def load(data: bytes) -> Mapping[str, Any] | None:
    """Return the state of `dump`, None where the bytes are not sound."""
    import torch

    try:
        state = torch.load(io.BytesIO(data), weights_only=True)
    except Exception:
        return None
    return state if isinstance(state, Mapping) else None


def versions_key(versions: Mapping[str, str]) -> str:
    """Return what must be equal for a state to be used again."""
    return json.dumps(dict(versions), sort_keys=True)
