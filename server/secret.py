"""The key of masks: the same for as long as the server keeps its data, so that a masked value stays the same."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

KEY = "mask.key"
VARIABLE = "MQL_MASK_KEY"
"""Where several servers are to give the same masks, each is told the same key by this."""


def mask_key(data_dir: Path) -> str:
    """Told by the environment, else kept beside the server's other data, readable by its user alone."""
    told = os.environ.get(VARIABLE, "")
    if told:
        return told
    file = data_dir / KEY
    data_dir.mkdir(parents=True, exist_ok=True)
    try:
        with os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as new:
            new.write(secrets.token_hex(32))
    except FileExistsError:
        pass
    return file.read_text()
