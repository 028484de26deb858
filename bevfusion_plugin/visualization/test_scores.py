"""What ``tools/test.py`` measured, kept in the work dir beside the training, for the report."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

FILE = 'test_scores.json'


def write_test_scores(work_dir: str | Path, condition: str, checkpoint: str, metrics: Mapping[str, Any]) -> None:
    """Keep the scores of a test; an earlier one under the same condition gives way.

    Args:
        work_dir: Folder of the run.
        condition: In words: ``'all sensors'``, ``'without camera'``.
        checkpoint: File that was tested.
        metrics: The evaluator's; what is no finite number is left out.
    """
    numbers = {name: float(value) for name, value in metrics.items() if isinstance(value, (int, float)) and math.isfinite(value)}
    tests = dict(read_test_scores(work_dir), **{condition: dict(checkpoint=str(checkpoint), metrics=numbers)})
    file = Path(work_dir) / FILE
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(tests, indent=2))


def read_test_scores(work_dir: str | Path) -> dict[str, dict[str, Any]]:
    """By condition ``checkpoint`` and ``metrics``; empty if nothing was tested.

    Raises:
        ValueError: If the file is damaged.
    """
    file = Path(work_dir) / FILE
    if not file.is_file():
        return {}
    try:
        return {
            condition: dict(checkpoint=test['checkpoint'], metrics=dict(test['metrics']))
            for condition, test in json.loads(file.read_text()).items()
        }
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f'{file} is damaged ({type(error).__name__}: {error}); remove it, the next test writes it anew') from error
