"""The measurements as a page: ``docs/gpu.md``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

HOW = """One step is what MMEngine's Runner makes of a batch that lies on the device: data preprocessor, losses, backward pass, update
(gradient norm, clipping, AdamW). Loading is not in it (`benchmarks/pipeline.py`). The batch is made up: random images, a lidar scene with
the density of ten nuScenes sweeps, 40 boxes a sample."""


def page(record: dict[str, Any]) -> str:
    """Markdown of a record that ``benchmarks/gpu.py`` wrote."""
    machine = record['machine']
    parts = [
        f'# Measured on {machine["name"]}',
        f'By `{record["command"]}` on {record["date"]}; {record["config"]}. '
        + '; '.join(f'{name} {machine[name]}' for name in ('torch', 'cuda', 'cudnn', 'capability') if machine.get(name))
        + (f'; {machine["gib"]:.1f} GiB' if machine.get('gib') else '')
        + '.',
        HOW,
    ]
    if record['toy']:
        parts.append('**Toy size: these numbers say that the script works, and nothing about a GPU.**')
    if not record['complete']:
        parts.append('The time ran out, or the run was stopped, before all of it was measured.')
    parts += ['## Memory and speed', _rows(record['rows'])]
    for title, key, section in (
        ('## Where the time goes', 'stages', _stages),
        ('## Launches and waits', 'counts', _counts),
        ('## What a training promises', 'promises', _promises),
    ):
        if record.get(key):
            parts += [title, section(record[key])]
    return '\n\n'.join(parts) + '\n'


def table(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    return '\n'.join('| ' + ' | '.join(cells) + ' |' for cells in (head, ['---'] * len(head), *lines))


def _number(value: float | None, form: str) -> str:
    return '-' if value is None else format(value, form)


def _rows(rows: Sequence[dict[str, Any]]) -> str:
    lines = []
    for row in rows:
        what = [row['backend'], row['dtype'], 'on' if row['with_cp'] else 'off', str(row['samples'])]
        if 'error' in row:
            lines.append([*what, row['error'].replace('|', '/'), '', '', '', ''])
        else:
            lines.append(
                [
                    *what,
                    _number(row['gib'], '.2f'),
                    _number(row['reserved_gib'], '.2f'),
                    f'{row["step_ms"]:.1f}',
                    f'{row["samples_per_second"]:.2f}',
                    str(row['skipped']),
                ]
            )
    return table(
        [
            'sparse backend',
            'precision',
            'checkpointing',
            'samples',
            'GiB in use',
            'GiB reserved',
            'ms a step',
            'samples/s',
            'updates skipped',
        ],
        lines,
    )


def _stages(stages: dict[str, Any]) -> str:
    whole = stages['ms']['whole step']
    lines = [[name, f'{ms:.2f}', f'{ms / whole:.1%}'] for name, ms in stages['ms'].items()]
    return f'{_what(stages)}; medians. What no stage names (Python between them) is in the whole alone.\n\n' + table(
        ['stage', 'ms', 'share'], lines
    )


def _counts(counts: dict[str, Any]) -> str:
    lines = [[name.replace('_', ' '), f'{count:,}'] for name, count in counts['counts'].items()]
    return f'{_what(counts)}; one step under `torch.profiler`.\n\n' + table(['what', 'count'], lines)


def _promises(promises: dict[str, Any]) -> str:
    lines = []
    for name, result in promises.items():
        if 'error' in result:
            lines.append([name, result['error']])
        else:
            lines.append(
                [
                    name,
                    ', '.join(
                        f'{key.replace("_", " ")} {value if isinstance(value, (bool, int)) else format(value, ".3g")}'
                        for key, value in result.items()
                    ),
                ]
            )
    return table(['what', 'found'], lines)


def _what(section: dict[str, Any]) -> str:
    return f'{section["samples"]} sample, {section["dtype"]}, sparse backend {section["backend"]}'
