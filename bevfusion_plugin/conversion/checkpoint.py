"""Weights of BEVFusion trained in another code base, as the model of this package takes them.

Names (``names``) are one half; the other is how the numbers are laid out (``layouts``).

What cannot be expressed in weights is in ``NOTES``. Read from the sources; not run against published weights.

Source: as in ``names``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from bevfusion_plugin.conversion.layouts import rearrange
from bevfusion_plugin.conversion.names import BOOKKEEPING, OURS, check_source, our_name

NOTES = dict(
    mmdet3d=[],
    mit=[
        'its boxes were trained with the gravity centre taken for the bottom (mit-han-lab/bevfusion#305): they come out half '
        'their height too high (mmdetection3d#3106), which no weight can undo; nuScenes matches boxes from above and does not '
        'see it, training on mends it'
    ],
    openpcdet=[],
)
SHOWN = 8  # keys of a kind that the table lists


@dataclass
class Conversion:
    """The outcome: tensors under our names, and what became of each key.

    Attributes:
        source: Code base the checkpoint comes from.
        tensors: What fits the model, by our name.
        reshaped: Our name -> how its numbers were rearranged; a part of ``tensors``.
        missing: Names of the model that the checkpoint lacks.
        unexpected: Keys of the checkpoint that the model lacks, in the checkpoint's words.
        wrong_shape: Our name -> (shape in the checkpoint, shape in the model); not in ``tensors``.
        ignored: Keys that are no weights.
    """

    source: str
    tensors: dict[str, Tensor] = field(default_factory=dict)
    reshaped: dict[str, str] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    wrong_shape: dict[str, tuple[list[int], list[int]]] = field(default_factory=dict)
    ignored: list[str] = field(default_factory=list)

    @property
    def is_complete(self) -> bool:
        """Whether every key found its place."""
        return not (self.missing or self.unexpected or self.wrong_shape)

    def to_dict(self) -> dict[str, Any]:
        """All keys of each kind, for JSON."""
        return dict(
            source=self.source,
            matched=list(self.tensors),
            missing=self.missing,
            unexpected=self.unexpected,
            reshaped=self.reshaped,
            wrong_shape=self.wrong_shape,
            ignored=self.ignored,
            notes=NOTES[self.source],
        )

    def table(self) -> str:
        """Counts for each part of the model, then the first keys of each kind."""
        unexpected = [our_name(key, self.source) or key for key in self.unexpected]
        kinds = dict(
            matched=list(self.tensors),
            reshaped=list(self.reshaped),
            missing=self.missing,
            unexpected=unexpected,
            wrong_shape=list(self.wrong_shape),
        )
        parts = [part for part in OURS if any(_part(key) == part for keys in kinds.values() for key in keys)]
        others = sorted({_part(key) for keys in kinds.values() for key in keys} - set(OURS))
        lines = [f'{"":20}' + ''.join(f'{kind.replace("_", " "):>13}' for kind in kinds)]
        for part in parts + others:
            lines.append(f'{part:20}' + ''.join(f'{sum(_part(key) == part for key in keys):13}' for keys in kinds.values()))
        lines.append(f'{"in all":20}' + ''.join(f'{len(keys):13}' for keys in kinds.values()))
        lines += [
            f'reshaped, {sum(how == kind for how in self.reshaped.values())} tensors: {kind}'
            for kind in dict.fromkeys(self.reshaped.values())
        ]
        lines += _listed('missing', self.missing) + _listed('unexpected', self.unexpected)
        lines += _listed(
            'wrong shape', [f'{key}: {got} in the checkpoint, {want} in the model' for key, (got, want) in self.wrong_shape.items()]
        )
        return '\n'.join(lines + [f'note: {note}' for note in NOTES[self.source]])


def _part(key: str) -> str:
    return key.split('.')[0]


def _listed(kind: str, keys: list[str]) -> list[str]:
    more = [f'  ... and {len(keys) - SHOWN} more; --json lists all'] if len(keys) > SHOWN else []
    return [f'{kind}:', *(f'  {key}' for key in keys[:SHOWN]), *more] if keys else []


def convert(state_dict: Mapping[str, Tensor], source: str, model: Mapping[str, Tensor]) -> Conversion:
    """Bring ``state_dict`` into the names and layouts of ``model``.

    Args:
        state_dict: The checkpoint's; its ``_metadata``, if there, tells the version of each sparse convolution.
        source: One of ``SOURCES``.
        model: State dict of the model it is for; only names and shapes are read.

    Raises:
        ValueError: If no key is one of ``source``, or two of them mean the same.
    """
    check_source(state_dict, source)
    metadata = getattr(state_dict, '_metadata', None) or {}
    result = Conversion(source)
    seen: dict[str, str] = {}
    for key, tensor in state_dict.items():
        name = our_name(key, source)
        if key in BOOKKEEPING:
            result.ignored.append(key)
        elif name is None or name not in model:
            result.unexpected.append(key)
        elif name in seen:
            raise ValueError(f'{seen[name]} and {key} are both {name}; the checkpoint holds two models, keep one')
        else:
            seen[name] = key
            version = metadata.get(key.rpartition('.')[0], {}).get('version')
            _place(result, name, tensor, tuple(model[name].shape), version)
    result.missing = [name for name in model if name not in seen]
    return result


def _place(result: Conversion, name: str, tensor: Tensor, shape: tuple[int, ...], version: int | None) -> None:
    """Put ``tensor`` under its kind."""
    converted, how = rearrange(tensor, name, result.source, shape, version)
    if tuple(converted.shape) != shape:
        result.wrong_shape[name] = (list(tensor.shape), list(shape))
        return
    result.tensors[name] = converted
    if how:
        result.reshaped[name] = '; '.join(how)
