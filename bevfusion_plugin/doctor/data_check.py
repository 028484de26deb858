"""Every sample of a data set looked at before a run: ``CheckSample`` on all entries of an info file, in several processes."""

from __future__ import annotations

import copy
import multiprocessing
import os
from collections.abc import Callable, Iterator
from typing import Any

from mmengine.config import Config
from mmengine.registry import DATASETS as MMENGINE_DATASETS
from mmengine.registry import init_default_scope

from bevfusion_plugin.doctor.reading.config import innermost_datasets, mapping, short_name, to_plain
from bevfusion_plugin.doctor.reading.pipelines import SPLITS, Pipeline
from bevfusion_plugin.doctor.reading.plain_pickle import read_plain
from bevfusion_plugin.registry import TRANSFORMS

SAMPLES_A_PROCESS = 64  # fewer are looked at sooner than a process starts
CHUNK = 16


def data_sets(cfg: Config, split: str | None = None) -> list[dict[str, Any]]:
    """Configs of the data sets inside all wrappers, those of all splits if None is named; each info file and pipeline once."""
    found: dict[str, dict[str, Any]] = {}
    for each in SPLITS if split is None else [split]:
        for dataset in innermost_datasets(cfg, each):
            check = check_of(dataset)
            key = {name: dataset.get(name) for name in ('type', 'data_root', 'ann_file', 'metainfo', 'modality', 'indices')}
            found.setdefault(repr((key, check)), dataset)
    return list(found.values())


def check_of(dataset: dict[str, Any]) -> dict[str, Any]:
    """Config of the ``CheckSample`` that fits a data set: its pipeline's own, or what follows from the pipeline's other steps."""
    pipeline = Pipeline('', '', tuple(dataset.get('pipeline') or ()))
    own = pipeline.named('CheckSample')
    if own:
        check = dict(to_plain(own[0]))
    else:
        cameras = [step.get('cameras') for step in pipeline.named('BEVLoadMultiViewImageFromFiles')]
        ranges = [step.get('point_cloud_range') for step in pipeline.named('PointsRangeFilter')]
        check = dict(
            sweeps=bool(pipeline.named('LoadPointsFromMultiSweeps')),
            point_cloud_range=ranges[0] if ranges else None,
            cameras=(cameras[0] if cameras else None) if mapping(dataset.get('modality')).get('use_camera') else [],
        )
    return dict(check, type='bevfusion_plugin.CheckSample')


class DataCheck:
    """One data set under examination; :meth:`faults` looks at all of it.

    Args:
        dataset: Its config; one of mmdet3d's ``Det3DDataset`` classes, on an info file of format 2.
        scope: The default scope of the config.
        limit: The first so many samples; None: all.

    Raises:
        ValueError: If it is no such data set.
        FileNotFoundError: If there is no info file.
    """

    def __init__(self, dataset: dict[str, Any], scope: str | None = None, limit: int | None = None) -> None:
        init_default_scope(scope or 'mmengine')
        try:
            self.check = TRANSFORMS.build(check_of(dataset))
            self.dataset = MMENGINE_DATASETS.build(dict(to_plain(dataset), lazy_init=True, pipeline=[], indices=None))
        except (KeyError, TypeError, AttributeError, AssertionError) as error:
            raise ValueError(f'the data set {short_name(dataset) or dataset} cannot be built: {error}') from error
        self.ann_file = str(getattr(self.dataset, 'ann_file', ''))
        if not hasattr(self.dataset, 'label_mapping') or not self.ann_file:
            raise ValueError(
                f'{short_name(dataset)} is not one of mmdet3d\'s data sets with an info file (ann_file), which are what can be checked'
            )
        self.problem: str | None = None  # of the file as a whole
        self.infos = self._infos()[:limit]

    def _infos(self) -> list[dict[str, Any]]:
        try:
            infos = read_plain(self.ann_file)
            entries, metainfo = infos['data_list'], infos['metainfo']
        except FileNotFoundError:
            raise
        except Exception as error:  # whatever a damaged file raises
            self.problem = (
                f'{self.ann_file}: cannot be read as an info file of format 2 ({type(error).__name__}: {error}); make it '
                'again (mmdet3d\'s create_data.py)'
            )
            return []
        for name, value in metainfo.items():  # as MMEngine's BaseDataset does
            self.dataset._metainfo.setdefault(name, value)
        from bevfusion_plugin.datasets.nuscenes_dataset import numbering_fault

        fault = numbering_fault(self.dataset)
        if fault:
            self.problem = f'{self.ann_file}: {fault.where} {fault.what}; {fault.mend}'
        return entries

    def __len__(self) -> int:
        return len(self.infos)

    def faults(self, processes: int | None = None, progress: Callable[[int], Any] = lambda samples: None) -> Iterator[str]:
        """What is wrong: with the file, then with each bad sample, in their order; of each sample the first thing.

        Args:
            processes: How many look at samples; None: one a core this process may use, fewer for few samples.
            progress: Called with the number of samples just looked at.
        """
        if self.problem:
            yield self.problem
        twice = dict(self._repeated())
        processes = processes or min(len(os.sched_getaffinity(0)), 1 + len(self) // SAMPLES_A_PROCESS)
        for index, reason in enumerate(self._reasons(processes)):
            progress(1)
            if reason or index in twice:
                yield reason or twice[index]

    def _repeated(self) -> Iterator[tuple[int, str]]:
        from bevfusion_plugin.datasets.checks.fault import bad_sample
        from bevfusion_plugin.datasets.nuscenes_dataset import repeated_tokens

        for index, fault in repeated_tokens(info for info in self.infos if isinstance(info, dict)):
            yield index, in_a_list(bad_sample(dict(self.infos[index], sample_idx=index, ann_file=self.ann_file), fault))

    def _reasons(self, processes: int) -> Iterator[str | None]:
        if processes == 1:
            yield from map(self.reason, range(len(self)))
            return
        with multiprocessing.get_context('fork').Pool(processes, _hand_over, (self,)) as pool:  # forked, they share the infos
            yield from pool.imap(_reason_of, range(len(self)), CHUNK)

    def reason(self, index: int) -> str | None:
        """What is wrong with a sample; None if it is in order."""
        from bevfusion_plugin.datasets.checks.fault import BadSample
        from bevfusion_plugin.datasets.nuscenes_dataset import unreadable

        info = copy.deepcopy(self.infos[index])
        try:
            parsed = self.dataset.parse_data_info(info)
        except BadSample as error:
            return in_a_list(error)
        except Exception as error:  # whatever a damaged entry raises
            return in_a_list(unreadable(self.dataset, info, error))
        for sample in parsed if isinstance(parsed, list) else [parsed]:
            try:
                self.check(dict(sample, sample_idx=index, ann_file=self.ann_file))
            except BadSample as error:
                return in_a_list(error)
        return None


def in_a_list(error: ValueError) -> str:
    """The error's message without its hint at the tool that prints it."""
    from bevfusion_plugin.datasets.checks.fault import LOOK_AT_ALL

    return str(error).removesuffix(f'. {LOOK_AT_ALL}')


_handed_over: list[DataCheck] = []  # to a process of the pool


def _hand_over(check: DataCheck) -> None:
    _handed_over[:] = [check]


def _reason_of(index: int) -> str | None:
    return _handed_over[0].reason(index)
