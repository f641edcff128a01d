"""Folders for what a script writes."""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path


def writable(text: str) -> Path:
    """A type for `argparse`: makes the folder, and refuses one that no file can be written to."""
    folder = Path(text)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise argparse.ArgumentTypeError(
            f"cannot write to {folder} ({error.strerror}). Name another folder"
        ) from None
    return folder
