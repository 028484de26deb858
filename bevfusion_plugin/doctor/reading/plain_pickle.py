"""Pickle files of numbers, text and arrays, read so that nothing else in them can run."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

# What info files and object databases name: numpy's arrays and scalars, under the modules of both its major versions.
NUMPY = {
    ('numpy', 'ndarray'),
    ('numpy', 'dtype'),
    *(
        (f'numpy.{core}.{module}', name)
        for core in ('core', '_core')
        for module, name in (('multiarray', '_reconstruct'), ('multiarray', 'scalar'), ('numeric', '_frombuffer'))
    ),
}
BUILTINS = ('set', 'frozenset', 'list', 'dict', 'tuple', 'complex', 'bytearray', 'slice')
PLAIN = {
    *NUMPY,
    ('collections', 'OrderedDict'),
    ('collections', 'defaultdict'),
    ('_codecs', 'encode'),
    *((module, name) for module in ('builtins', '__builtin__') for name in BUILTINS),
}


class NotPlain(ValueError):
    """A pickle file names something that could run code; nothing of it was run."""


class _PlainUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in PLAIN:
            raise NotPlain(f'names {module}.{name}, which reading it would call')
        return super().find_class(module, name)


def read_plain(path: str | Path) -> Any:
    """The content of a pickle file.

    Raises:
        NotPlain: If it names anything but :data:`PLAIN`; the message is to be read after the file's name.
    """
    with open(path, 'rb') as file:
        return _PlainUnpickler(file).load()
