"""Files and folders that appear only when they are whole. Knows nothing about their content."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from service.errors import CheckpointError


def check_target(target: Path, *, overwrite: bool) -> None:
    """Refuse a target that cannot be written, before any work is done.

    Raises:
        CheckpointError: if it exists and may not be replaced, or its folder does not exist.
    """
    if not target.parent.is_dir():
        raise CheckpointError(f"{target}: there is no folder {target.parent}")
    if target.is_dir() and any(target.iterdir()):
        raise CheckpointError(f"{target}: a folder that is not empty; name another target")
    if target.exists() and not target.is_dir() and not overwrite:
        raise CheckpointError(f"{target}: exists already; --overwrite replaces it")


@contextmanager
def whole_file(target: Path) -> Iterator[BinaryIO]:
    """Open a file for writing that takes the target's place at the end, or leaves no trace.

    Raises:
        CheckpointError: if the disk is full or the folder not writable.
    """
    partial = _partial(target)
    try:
        with partial.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        partial.replace(target)
        _sync(target.parent)
    except OSError as error:
        raise CheckpointError(f"{target}: not written: {error}") from error
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def whole_folder(target: Path) -> Iterator[Path]:
    """Make a folder to write into that takes the target's place at the end, or leaves no trace.

    Raises:
        CheckpointError: if the disk is full or the folder not writable.
    """
    partial = _partial(target)
    try:
        partial.mkdir()
        yield partial
        for path in (*partial.iterdir(), partial):
            _sync(path)
        partial.replace(target)
        _sync(target.parent)
    except OSError as error:
        raise CheckpointError(f"{target}: not written: {error}") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _partial(target: Path) -> Path:
    return target.with_name(f".{target.name}.{secrets.token_hex(4)}.partial")


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
