"""Rules about the channels that one part of the model hands to the next."""
from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from bevfusion_plugin.doctor.case import Case
from bevfusion_plugin.doctor.finding import Problem, rule
from bevfusion_plugin.doctor.reading.config import count, is_ours, mapping, short_name

# Who gives what to whom, in the order that they run: (part, its setting), (part, its setting, place in a list).
CHAIN = ((('img_neck', 'out_channels'), ('view_transform', 'in_channels', None)),
         (('view_transform', 'out_channels'), ('fusion_layer', 'in_channels', 0)),
         (('fusion_layer', 'out_channels'), ('pts_backbone', 'in_channels', None)),
         (('pts_backbone', 'out_channels'), ('pts_neck', 'in_channels', None)),
         (('pts_neck', 'out_channels'), ('bbox_head', 'in_channels', None)))


@rule('channels-differ', 'error', 'https://github.com/open-mmlab/mmdetection3d/tree/main/projects/BEVFusion')
def check_channels(case: Case) -> Iterator[Problem]:
    """What a part of BEVFusion gives is what the next one takes; what either leaves to its default is not compared."""
    model = mapping(case.cfg.get('model'))
    if not is_ours(model, 'BEVFusion'):
        return
    for (giver, out), (taker, key, place) in CHAIN:
        given, taken = _channels(model, giver, out), mapping(model.get(taker)).get(key)
        if giver == 'pts_neck' and isinstance(given, list):
            given = sum(given)  # its levels are put side by side
        if place is not None:
            taken = taken[place] if isinstance(taken, (list, tuple)) and len(taken) > place else None
        taken = list(taken) if isinstance(taken, (list, tuple)) else taken
        if given is None or taken is None or given == taken:
            continue
        where = f'model.{taker}.{key}'
        new: Any = given if place is None else [given, *model[taker][key][1:]]
        yield Problem(f'model.{giver} gives {given} channels (out_channels), but {where}{"" if place is None else f"[{place}]"} is {taken}',
                      f'set {where} to {new}, or change model.{giver}.{out}', {where: new})


def _channels(model: dict[str, Any], giver: str, out: str) -> int | list[int] | None:
    """``out_channels`` as written, if it is a whole number or a list of them; None for another network than those whose they surely are."""
    part = mapping(model.get(giver))
    if giver.startswith('pts_') and short_name(part) not in ('SECOND', 'SECONDFPN'):
        return None
    value = part.get(out)
    if isinstance(value, (list, tuple)):
        return list(value) if all(count(each) for each in value) else None
    return count(value)
