"""Files that are written whole or not at all, so that whoever reads one never finds half of it."""

from __future__ import annotations

import errno
import os
import tempfile
from pathlib import Path


def write_whole(path: Path, content: str | bytes) -> None:
    """Write to `path`, whose folder is there; text in UTF-8. Raises `OSError`, and then left alone.

    What stood there before is replaced at once; of a symbolic link it is the file that it leads to.
    The file gets the rights a new one would have. A device or a pipe is written to as it is.
    """
    data = content.encode() if isinstance(content, str) else content
    try:
        if path.exists() and not path.is_file():
            path.write_bytes(data)
        else:
            _replace(_target(path), data)
    except OSError as error:
        if error.errno is not None:  # else its text is all that it says
            error.filename = str(path)
            del error.filename2  # the draft's, where it could not be moved
        raise


def _target(path: Path) -> Path:
    """Return the file that `path` leads to, through symbolic links; it need not be there."""
    if not path.is_symlink():
        return path
    target = Path(os.path.realpath(path))
    if target.is_symlink():
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
    return target


def _replace(path: Path, data: bytes) -> None:
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
    draft = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
        umask = os.umask(0)
        os.umask(umask)
        draft.chmod(0o666 & ~umask)
        draft.replace(path)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise
