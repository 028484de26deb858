"""The table "your GPUs -> what to run": both stages on common machines, from the configs, the plan code and the memory model."""

from __future__ import annotations

import re
from collections.abc import Callable

from mmengine.config import Config

from bevfusion_plugin.doctor.memory.bevfusion_memory import model_memory
from bevfusion_plugin.doctor.memory.synthetic_batch import real_sizes
from bevfusion_plugin.doctor.reading.config import precision_of
from bevfusion_plugin.doctor.reading.plan_settings import settings_of, training_from
from bevfusion_plugin.engine.accumulation.precision import DTYPES
from bevfusion_plugin.plan.batch_plan import BatchPlan
from bevfusion_plugin.plan.judgement import JudgedPlan, judge, short
from bevfusion_plugin.plan.largest_samples import largest_samples
from bevfusion_plugin.plan.memory_model import GIB

MIT, PCDET = 'https://github.com/mit-han-lab/bevfusion', 'https://github.com/open-mmlab/OpenPCDet'
REFERENCE = f'68.5: 8 x 4 x A1, LR 2e-4 ([mit]({MIT}))'
ONE_CARD = f'64.7: 1 x 4 x A1, OpenPCDet ([#1498]({PCDET}/issues/1498))'
# (GPUs, GB each): the nearest public report of lidar + camera
MACHINES = {
    (1, 24): ONE_CARD,
    (2, 24): '-',
    (4, 24): f'68.2: 4 x 4 x A1, LR 1e-4 ([mit#310]({MIT}/issues/310)); 62.8: 4 x 3 x A1, LR 2e-4 ([mit#619]({MIT}/issues/619))',
    (8, 24): REFERENCE,
    (1, 80): ONE_CARD,
    (8, 80): REFERENCE,
}
DEMO_GPUS, DEMO_SAMPLES = 2, 640  # processes of `make demo`; 64 synthetic frames, drawn ten times each
HEADERS = dict(
    en=(
        'your GPUs',
        'lidar stage: GPUs x b x A, GiB',
        'lidar + camera: GPUs x b x A, GiB',
        'samples an update',
        'LR',
        'updates',
        'nearest report: mAP',
    ),
    zh=(
        '你的显卡',
        '激光雷达阶段：卡数 x b x A，GiB',
        '激光雷达 + 相机：卡数 x b x A，GiB',
        '每次更新的样本',
        '学习率',
        '更新次数',
        '最接近的公开结果：mAP',
    ),
)
BEGIN, END = '<!-- written by tools/machine_table.py -->', '<!-- end of what it writes -->'


def stage_on_machine(cfg: Config, gpus: int, gpu_memory: float, memory_of: Callable[[int], float]) -> JudgedPlan:
    """The plan that ``tools/train.py --samples-per-gpu auto`` takes for ``cfg`` on such a machine, and what follows from it.

    Args:
        cfg: A config with ``total_batch_size``.
        gpus: GPUs, W.
        gpu_memory: GiB of each.
        memory_of: GiB a GPU needs for b samples.
    """
    settings = dict(settings_of(cfg), world_size=gpus)
    total = settings['total_batch_size']
    samples = largest_samples(gpus, total, memory_of, gpu_memory)
    plan = BatchPlan.derive(gpus, total_batch_size=total, samples_per_rank=samples)
    return judge(plan, training_from(settings), memory_of(samples), gpu_memory)


def memory_by_samples(cfg: Config) -> Callable[[int], float]:
    """Function that gives the GiB a GPU needs for b samples, beside others."""
    memory = model_memory(cfg, DTYPES[precision_of(cfg)])
    return lambda samples: sum(memory.rows(real_sizes(cfg, samples), ranks=2).values()) / GIB


def machine_rows(lidar: Config, fusion: Config, demo: Config) -> list[list[str]]:
    """The table's cells without its header.

    Args:
        lidar: Config of the lidar stage.
        fusion: Config of the lidar + camera stage.
        demo: The CPU's.
    """
    memories = [memory_by_samples(cfg) for cfg in (lidar, fusion)]
    rows = []
    for (gpus, gib), report in MACHINES.items():
        stages = [stage_on_machine(cfg, gpus, gib, memory) for cfg, memory in zip((lidar, fusion), memories)]
        rows.append(
            [
                f'{gpus} x {gib} GB',
                *(f'{_factors(stage.plan)}, {stage.memory:.1f} GiB' for stage in stages),
                f'{stages[0].plan.total_batch_size}',
                ', '.join(short(stage.lrs['none']) for stage in stages),
                ' + '.join(f'{stage.loop_updates:,}' for stage in stages),
                report,
            ]
        )
    settings = dict(settings_of(demo), world_size=DEMO_GPUS, samples=DEMO_SAMPLES)
    plan = BatchPlan.derive(DEMO_GPUS, total_batch_size=settings['total_batch_size'], samples_per_rank=settings['samples_per_rank'])
    judged = judge(plan, training_from(settings))
    rows.append(
        [
            'CPU: `make demo`',
            '-',
            _factors(plan),
            f'{plan.total_batch_size}',
            short(judged.lrs['none']),
            f'{judged.loop_updates:,}',
            '0.43 to 0.50 (synthetic)',
        ]
    )
    return rows


def machine_table(rows: list[list[str]], language: str) -> str:
    """The table as Markdown.

    Args:
        rows: From :func:`machine_rows`.
        language: Of the header, a key of HEADERS.
    """
    header = HEADERS[language]
    return '\n'.join(f'| {" | ".join(row)} |' for row in (header, ['---'] * len(header), *rows))


def _factors(plan: BatchPlan) -> str:
    return f'{plan.world_size} x {plan.samples_per_rank} x A{plan.accumulative_counts}'


def with_table(text: str, table: str) -> str:
    """``text`` with ``table`` in place of what stands between the two marks.

    Raises:
        ValueError: If the marks are not there once each.
    """
    if text.count(BEGIN) != 1 or text.count(END) != 1:
        raise ValueError(f'the text must have the lines {BEGIN} and {END} once each')
    return re.sub(f'{re.escape(BEGIN)}.*{re.escape(END)}', lambda _: f'{BEGIN}\n{table}\n{END}', text, flags=re.DOTALL)
