"""A fault of the data, and the one error that names it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

COPY_AGAIN = 'copy it again from where the data came from'
CHECK_PLACE = f'{COPY_AGAIN}, or check data_root and data_prefix of the data set'
MAKE_AGAIN = "make the info file again (mmdet3d's create_data.py, README, \"Data\")"
LOOK_AT_ALL = 'tools/check_data.py lists every bad sample of a data set'


class BadSample(ValueError):
    """A recorded sample that no model can learn from; the message names file, sample and mend.

    Attributes:
        sample: How the error calls the sample.
    """

    def __init__(self, message: str, sample: str = '') -> None:
        super().__init__(message)
        self.sample = sample or message


class Fault(NamedTuple):
    """One thing that is wrong.

    Attributes:
        where: The file, or the field of the info file's entry.
        what: What is wrong with it, with the value found.
        mend: How to correct it.
    """

    where: str
    what: str
    mend: str


def unread(error: OSError) -> str:
    """What an error of the file system says of the file."""
    return 'does not exist' if isinstance(error, FileNotFoundError) else f'cannot be read ({error.strerror or error})'


def sample_name(info: Mapping[str, Any]) -> str:
    """How an error calls a sample: its index and token, the info file that lists it where that is known, and its point file."""
    info = info if isinstance(info, Mapping) else {}
    lidar = info.get('lidar_points')
    path = info.get('lidar_path') or (lidar.get('lidar_path') if isinstance(lidar, Mapping) else None)
    known = dict(token=info.get('token'), points=path)
    described = ', '.join(f'{name} {value}' for name, value in known.items() if value)
    name = f'sample {info.get("sample_idx", "?")}' + (f' ({described})' if described else '')
    return f'{name} of {info["ann_file"]}' if info.get('ann_file') else name


def bad_sample(info: Mapping[str, Any], fault: Fault) -> BadSample:
    """The error that says it."""
    name = sample_name(info)
    return BadSample(f'{name}: {fault.where} {fault.what}; {fault.mend}. {LOOK_AT_ALL}', name)
