"""Headers of the arrays in an ``.npz`` archive, read without the arrays: their sizes are checked before any is read."""

import io
import lzma
import struct
import tokenize
import zipfile
import zlib
from typing import Any

import numpy as np

Header = tuple[tuple[int, ...], np.dtype]

DAMAGED = (
    *(OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError),
    *(SyntaxError, tokenize.TokenError, TypeError, struct.error, lzma.LZMAError, IndexError, KeyError),
)
"""What zipfile, its decompressors and NumPy's readers raise for broken bytes."""
MAX_HEADER = 2**16


def read_header(content: Any) -> Header:
    """Shape and type of an array, without unpickling.

    Args:
        content: the array's opened member of the archive.

    Raises:
        Exception: one of ``DAMAGED``.
    """
    stream = io.BytesIO(content.read(MAX_HEADER))  # a header may claim to have gigabytes
    old = np.lib.format.read_magic(stream) == (1, 0)
    read = np.lib.format.read_array_header_1_0 if old else np.lib.format.read_array_header_2_0
    try:
        shape, _, dtype = read(stream)
    except MemoryError as error:  # of Python's parser
        raise ValueError("a header that nests too deeply") from error
    return shape, dtype
