"""A training that goes on past a few damaged samples, and stops at too many."""

from __future__ import annotations

import hashlib
import logging
import multiprocessing
from typing import Any

from mmengine.logging import print_log
from mmengine.registry import DATASETS as MMENGINE_DATASETS

from bevfusion_plugin.datasets.checks.fault import LOOK_AT_ALL, BadSample
from bevfusion_plugin.plan.checked_settings import settings_dict, whole_number
from bevfusion_plugin.registry import DATASETS

NONE = -1
MOST_SKIPPED = 2**20  # the list of them is in memory


@DATASETS.register_module()
class SkipBadSamples:
    """Gives the next sample in place of a damaged one, up to ``skip_bad_samples`` different ones on each rank, then stops.

    Outermost around any training data set, wrappers and all, whose pipeline has ``bevfusion_plugin.CheckSample``::

        train_dataloader = dict(dataset=dict(type='bevfusion_plugin.SkipBadSamples', skip_bad_samples=10, dataset=dict(...)))

    The length stays, so every rank makes as many batches as without; which sample takes the place of which follows from the order
    alone, so that a resumed or repeated training sees the same ones. The loader's workers count together: the list of a rank's
    damaged samples lies in memory that they share. Each is logged once. The count begins anew with a resumed run.

    A validation is no place for it: its score would be that of other samples.

    Args:
        dataset: The data set, or its config.
        skip_bad_samples: Different damaged samples that a rank may meet, >= 0.

    Raises:
        ValueError: At construction, if ``skip_bad_samples`` is negative or the data set is in ``test_mode``.
        BadSample: At one damaged sample more than ``skip_bad_samples``.
    """

    def __init__(self, dataset: Any, skip_bad_samples: int) -> None:
        whole_number('skip_bad_samples', skip_bad_samples, 0, MOST_SKIPPED)
        if not hasattr(dataset, 'metainfo'):  # no data set yet
            settings_dict('dataset', dataset, 'type', mend='it is a data set or the config of one')
        self.dataset = MMENGINE_DATASETS.build(dataset) if isinstance(dataset, dict) else dataset
        if is_tested(self.dataset):
            raise ValueError(
                'SkipBadSamples is for training, and its data set has test_mode=True: a score would be that of other '
                'samples; take the wrapper out and mend the samples that tools/check_data.py lists'
            )
        self.skip_bad_samples = skip_bad_samples
        self._bad = multiprocessing.get_context('spawn').Array('q', [NONE] * skip_bad_samples)  # workers share it, forked ones too

    @property
    def metainfo(self) -> dict:
        """The data set's."""
        return self.dataset.metainfo

    def full_init(self) -> None:
        """The data set's."""
        self.dataset.full_init()

    def get_data_info(self, idx: int) -> dict:
        """The data set's."""
        return self.dataset.get_data_info(idx)

    def get_cat_ids(self, idx: int) -> Any:
        """The data set's."""
        return self.dataset.get_cat_ids(idx)

    def __len__(self) -> int:
        return len(self.dataset)

    @property
    def skipped_samples(self) -> int:
        """Different damaged samples that this rank has met so far, in all its workers."""
        return sum(index != NONE for index in self._bad[:])

    def __getitem__(self, idx: int) -> Any:
        """The sample ``idx``, or the next one that is in order."""
        for place in range(len(self)):
            try:
                return self.dataset[(idx + place) % len(self)]
            except BadSample as error:
                self._note(error)
        raise BadSample(f'none of the {len(self)} samples is in order; {LOOK_AT_ALL}')

    def _note(self, error: BadSample) -> None:
        """Add a damaged sample to the rank's list and log it, if it is not there already.

        Raises:
            BadSample: If the list is full.
        """
        sample = fingerprint(error.sample)
        with self._bad.get_lock():
            known = [each for each in self._bad[:] if each != NONE]
            if sample in known:
                return
            number = len(known) + 1
            if number > self.skip_bad_samples:
                raise BadSample(
                    f'{error}. It is damaged sample number {number} of this rank, and skip_bad_samples is '
                    f'{self.skip_bad_samples}: mend them, or set it higher'
                ) from error
            self._bad[number - 1] = sample
        # as an error: the other ranks' loggers say nothing below that
        print_log(f'skipped, number {number} of {self.skip_bad_samples} on this rank: {error}', 'current', logging.ERROR)


def fingerprint(text: str) -> int:
    """The same number >= 0 for the same text in every process."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=7).digest(), 'big')


def is_tested(dataset: Any) -> bool:
    """Whether a data set, or one inside its wrappers, is in ``test_mode``."""
    inner = [*getattr(dataset, 'datasets', []), *([dataset.dataset] if hasattr(dataset, 'dataset') else [])]
    return getattr(dataset, 'test_mode', False) or any(map(is_tested, inner))
