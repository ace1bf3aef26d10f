"""What can be put: objects with Arrow rows, and what is turned into such."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterable, Mapping
from typing import Any

from ._table import _needs

#: Formats of files by extension, as pyarrow's datasets name them.
_FORMATS = {".parquet": "parquet", ".csv": "csv", ".json": "json", ".jsonl": "json", ".arrow": "ipc", ".feather": "ipc"}


def has_rows(source: Any) -> bool:
    """Whether the object has rows in Arrow's format."""
    return hasattr(source, "__arrow_c_stream__") or hasattr(source, "__arrow_c_array__")


def _is_of(source: Any, module: str, name: str) -> bool:
    """Whether it is an object of a library, which is not imported for that."""
    return any(kind.__name__ == name and kind.__module__.split(".")[0] == module for kind in type(source).__mro__)


def as_rows(source: Any) -> Any | None:
    """An object with Arrow rows for what is one table, or a file; None for what may be a series of them."""
    if _is_of(source, "polars", "LazyFrame"):
        return source.collect()
    if _is_of(source, "pyarrow", "Dataset"):
        return source.scanner().to_reader()
    if _is_of(source, "pyarrow", "Scanner"):
        return source.to_reader()
    if has_rows(source):
        return source
    if isinstance(source, (str, os.PathLike)):
        return _files(os.fspath(source))
    if isinstance(source, Mapping):
        return _needs("pyarrow", "a put of columns").table(dict(source))
    if isinstance(source, Iterable):
        return None
    raise TypeError(
        f"{type(source).__name__} has no rows: give a table, a frame, a dict of columns, batches, or the path of a file"
    )


def _files(path: str) -> Any:
    """The rows of a file, of all files of a folder, or of those that a pattern matches, in the order of their names."""
    is_pattern = any(sign in path for sign in "*?[")
    found = sorted(glob.glob(path, recursive=True)) if is_pattern and not os.path.exists(path) else [path]
    if not found:
        raise FileNotFoundError(f"no file matches {path!r}")
    formats = {_FORMATS.get(os.path.splitext(file)[1].lower()) for file in found if not os.path.isdir(file)}
    if len(formats) > 1:
        raise ValueError(f"the files of {path!r} have several formats: put them one after the other")
    dataset = _needs("pyarrow.dataset", "a put of files")
    one = found[0] if len(found) == 1 else found
    return dataset.dataset(one, format=next(iter(formats), None) or "parquet").scanner().to_reader()
