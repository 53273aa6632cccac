"""What plans are known by."""

from __future__ import annotations

import hashlib

PIECE = 2_000
"""Of longer pieces, Python lets go of the interpreter's lock: under load it takes milliseconds to get that back."""


def digest(text: str) -> str:
    """128 bits of SHA-256, as hexadecimal digits."""
    found = hashlib.sha256()
    data = text.encode(errors="surrogatepass")
    for at in range(0, len(data), PIECE):
        found.update(data[at : at + PIECE])
    return found.hexdigest()[:32]
