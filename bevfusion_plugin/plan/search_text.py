"""A search for batch plans as text."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from bevfusion_plugin.plan.judgement import JudgedPlan, short
from bevfusion_plugin.plan.memory_model import GIB
from bevfusion_plugin.plan.search import PlanSearch

LEGEND = """b samples a GPU a micro-batch, A micro-batches an update; warm-up in updates; '*' the LR of the rule in force
in all       updates of the training, epochs x samples / total rounded up
loop         the same as the training loop makes them: equal shares for all GPUs, short windows where an epoch ends
as GPUs x b  the machine that makes the same updates without accumulation, BatchNorm's groups included"""
NO_MEMORY = '\nWhether b samples fit is not considered: plan.py CONFIG --gpu-memory 24 computes it.'


def search_text(search: PlanSearch, memory: Mapping[str, float] | None = None) -> str:
    """The whole answer: the question, the table, what is wrong, what is better.

    Args:
        search: The answered question.
        memory: Bytes by what needs them, for the chosen plan; None: not computed.
    """
    legend = LEGEND + NO_MEMORY * (not _knows_memory(search))
    parts = [_question(search), search_table(search), legend, '\n'.join(_remarks(search)), '\n'.join(_advice(search))]
    if memory:
        parts.insert(3, memory_text(memory))
    return '\n\n'.join(part for part in parts if part)


def _question(search: PlanSearch) -> str:
    training = search.training
    rule = f'{training.rule} rule' if training.rule != 'none' else 'kept whatever the total batch is'
    base = training.base_batch_size
    return (
        f'{training.world_size} GPUs, {training.epochs} epochs of {training.samples:,} samples; LR {short(training.lr)} '
        f'tuned for {base} samples, {rule}.\n'
        f'The reference, {base} samples an update, makes {training.updates(base):,} updates in all.'
    )


def search_table(search: PlanSearch) -> str:
    """The plans, one a line; '>' marks the chosen one and '*' the LR of the rule in force."""
    star = {rule: '*' * (rule == search.training.rule) for rule in ('linear', 'sqrt')}
    header = [
        '',
        'b',
        'A',
        'total',
        'updates an epoch',
        'in all',
        'loop',
        'warm-up',
        f'LR linear{star["linear"]}',
        f'LR sqrt{star["sqrt"]}',
        'as GPUs x b',
        'GiB',
        'verdict',
    ]
    rows = [header, *(_row(judged, judged is search.chosen) for judged in search.plans)]
    if not _knows_memory(search):
        rows = [[cell for name, cell in zip(header, row) if name != 'GiB'] for row in rows]
    widths = [max(map(len, column)) for column in zip(*rows)]
    return '\n'.join('  '.join(cell.rjust(width) for cell, width in zip(row, widths)) for row in rows)


def _knows_memory(search: PlanSearch) -> bool:
    return any(judged.memory is not None for judged in search.plans)


def _row(judged: JudgedPlan, chosen: bool) -> list[str]:
    plan = judged.plan
    warm_up = f'{judged.warm_up:,.3g}' if 0 < judged.warm_up < 10 else f'{judged.warm_up:,.0f}'
    return [
        '>' * chosen,
        f'{plan.samples_per_rank}',
        f'{plan.accumulative_counts}',
        f'{plan.total_batch_size}',
        f'{judged.updates_per_epoch:,}',
        f'{judged.updates:,}',
        f'{judged.loop_updates:,}',
        warm_up,
        short(judged.lrs['linear']),
        short(judged.lrs['sqrt']),
        judged.equivalent_machine,
        '' if judged.memory is None else f'{judged.memory:.1f}',
        judged.verdict,
    ]


def _remarks(search: PlanSearch) -> Iterator[str]:
    for judged in search.plans:
        for word, remarks in (('bad', judged.faults), ('note', judged.notes)):
            yield from (f'{judged.plan}: {word}: {remark}' for remark in remarks)


def _advice(search: PlanSearch) -> Iterator[str]:
    if search.problem:
        yield f'problem: {search.problem}'
    if search.chosen is None:
        yield 'chosen: none; give --batch-size or --accumulate'
    else:
        yield f'chosen: {search.chosen.plan}, {search.chosen.verdict}'
    if search.recommended is not None and search.recommended is not search.chosen:
        yield f'better: {search.recommended.plan}'


def memory_text(memory: Mapping[str, float]) -> str:
    """What a GPU's memory goes to, a line each, in GiB."""
    width = max(map(len, memory))
    lines = [f'  {name:<{width}}  {size / GIB:6.2f}' for name, size in (*memory.items(), ('in all', sum(memory.values())))]
    return '\n'.join(['memory of a GPU with the chosen plan, GiB', *lines])
