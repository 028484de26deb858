"""When a training has gone wrong, read off a few numbers an update."""
from __future__ import annotations

import math
from bisect import bisect_left, insort
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from statistics import median
from typing import Any

from bevfusion_plugin.plan.checked_settings import positive_int

MEDIAN_WINDOW = 1000  # updates the running median looks back: ten times the patience, so that a divergence hardly moves it
SMOOTHING = 25  # updates whose median is judged, so that one noisy update neither begins nor ends a streak
LEAST_ATTEMPTS = 1000  # a share of skipped updates is taken of at least so many, else the first one skipped would be 100 %


@dataclass(frozen=True)
class DivergenceLimits:
    """What counts as divergence; None switches a rule off.

    Attributes:
        loss_ratio: Loss over its running median.
        grad_norm: Gradient norm before clipping; a healthy BEVFusion has 2 to 5, but other models live with 100.
        matched_ious: Mean IoU of matched boxes, once the first epoch is over.
        skipped_share: Share of the updates after the first ``skipped_after`` that were skipped.
        skipped_after: Updates a dynamic loss scale may take to find its value.
        patience: Updates in a row that loss or gradient norm must be above their limits.
        warmup: Updates at the start in which only a loss that is no number counts.

    Raises:
        ValueError: If a limit is not positive, a share or IoU is 1 or more, or a count is no int.
    """
    loss_ratio: float | None = 2.
    grad_norm: float | None = 25.
    matched_ious: float | None = 0.1
    skipped_share: float | None = 0.01
    skipped_after: int = 2000
    patience: int = 100
    warmup: int = 500

    def __post_init__(self) -> None:
        for name, least, most in (('loss_ratio', 1, math.inf), ('grad_norm', 0, math.inf), ('matched_ious', 0, 1),
                                  ('skipped_share', 0, 1)):
            value = getattr(self, name)
            if value is not None and not (isinstance(value, (int, float)) and least < value < most):
                raise ValueError(f'{name} must lie between {least} and {most}, got {value!r}; None switches the rule off')
        positive_int('patience', self.patience, 'it counts updates')
        for name in ('skipped_after', 'warmup'):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 0:
                raise ValueError(f'{name} must be an int >= 0, got {value!r}; it counts updates')


class RunningMedian:
    """The median of the last ``window`` numbers."""

    def __init__(self, window: int, values: Iterable[float] = ()) -> None:
        self._window = window
        self.values: deque[float] = deque()
        self._sorted: list[float] = []
        for value in values:
            self.add(value)

    def __len__(self) -> int:
        return len(self.values)

    def add(self, value: float) -> None:
        """Take in a finite number, and forget the oldest one if the window is full."""
        if len(self.values) == self._window:
            del self._sorted[bisect_left(self._sorted, self.values.popleft())]
        self.values.append(value)
        insort(self._sorted, value)

    @property
    def value(self) -> float:
        """The median; of an even count the mean of the middle two."""
        middle = len(self._sorted) // 2
        return self._sorted[middle] if len(self._sorted) % 2 else (self._sorted[middle - 1] + self._sorted[middle]) / 2


class DivergenceDetector:
    """Reads the numbers of each update and says which rules they break.

    Args:
        limits: The rules.

    Attributes:
        active: Rules broken at the last update, by name, each with its sentence.

    Source:
        The course of the published run in open-mmlab/mmdetection3d#3103: gradient norm from 2-5 to 28-59, loss from 2.8 to
        8.5, ``matched_ious`` from 0.37 to 0.01.
    """

    def __init__(self, limits: DivergenceLimits) -> None:
        self.limits = limits
        self.active: dict[str, str] = {}
        self._losses = RunningMedian(MEDIAN_WINDOW)
        self._recent = {name: deque(maxlen=min(SMOOTHING, limits.patience)) for name in ('loss', 'grad_norm', 'matched_ious')}
        self._streaks = dict(loss=0, grad_norm=0)
        self._outside = dict(loss=False, grad_norm=False)  # the latest value by itself
        self._settled: tuple[int, int] | None = None  # attempts and skips when the loss scale should have found its value

    @property
    def is_suspicious(self) -> bool:
        """Whether loss or gradient norm are out of bounds, even if only now, or a rule is broken."""
        return bool(self.active) or any(self._streaks.values()) or any(self._outside.values())

    @property
    def loss_median(self) -> float | None:
        """Running median of the loss, None before the first."""
        return self._losses.value if len(self._losses) else None

    def observe(self, update: int, values: Mapping[str, float], epoch: int = 0) -> list[str]:
        """A sentence for each rule that is broken at this update and was not at the one before.

        Args:
            update: Updates applied so far, this one included.
            values: ``loss``, and as far as known ``grad_norm``, ``matched_ious`` and ``skipped_updates`` (so far).
            epoch: Epochs completed.
        """
        alarms = {'non_finite_loss': self._check_finite(values['loss']),
                  'loss': self._check_loss(update, values['loss']),
                  'grad_norm': self._check_grad_norm(update, values.get('grad_norm')),
                  'matched_ious': self._check_matched_ious(update, values.get('matched_ious'), epoch),
                  'skipped_updates': self._check_skipped(update, values.get('skipped_updates'))}
        before, self.active = self.active, {name: text for name, text in alarms.items() if text is not None}
        return [text for name, text in self.active.items() if name not in before]

    @staticmethod
    def _check_finite(loss: float) -> str | None:
        return None if math.isfinite(loss) else f'the loss is {loss}'

    def _check_loss(self, update: int, loss: float) -> str | None:
        if not math.isfinite(loss):
            return None
        self._losses.add(loss)
        judged, usual, ratio = self._smoothed('loss', loss), self._losses.value, self.limits.loss_ratio
        ready = ratio is not None and usual > 0 and len(self._losses) > self.limits.patience
        if not self._lasts('loss', update, loss, judged, ratio * usual if ready else None):
            return None
        return (f'the loss, {judged:.4g}, has been above {ratio:g} x its running median of {usual:.4g} for '
                f'{self._streaks["loss"]} updates')

    def _check_grad_norm(self, update: int, norm: float | None) -> str | None:
        if norm is None or not math.isfinite(norm):  # an update that was skipped, for which there is another rule
            return self.active.get('grad_norm')
        judged, limit = self._smoothed('grad_norm', norm), self.limits.grad_norm
        if not self._lasts('grad_norm', update, norm, judged, limit):
            return None
        return f'the gradient norm, {judged:.4g}, has been above {limit:g} for {self._streaks["grad_norm"]} updates'

    def _check_matched_ious(self, update: int, iou: float | None, epoch: int) -> str | None:
        if iou is None or not math.isfinite(iou):
            return None
        judged, limit = self._smoothed('matched_ious', iou), self.limits.matched_ious
        full = len(self._recent['matched_ious']) == self._recent['matched_ious'].maxlen
        if limit is None or epoch < 1 or update <= self.limits.warmup or not full or judged >= limit:
            return None
        return f'matched_ious, {judged:.4g}, is below {limit:g} after the first epoch'

    def _check_skipped(self, update: int, skipped: float | None) -> str | None:
        limits = self.limits
        if skipped is None or limits.skipped_share is None or update + skipped < limits.skipped_after:
            return None
        if self._settled is None:
            self._settled = (update + int(skipped), int(skipped))
        attempts, skips = update + skipped - self._settled[0], skipped - self._settled[1]
        if skips <= limits.skipped_share * max(attempts, LEAST_ATTEMPTS):
            return None
        return (f'{skips:g} of {attempts:g} updates after the first {self._settled[0]} were skipped, more than '
                f'{limits.skipped_share:.2g} of them')

    def _smoothed(self, name: str, value: float) -> float:
        self._recent[name].append(value)
        return median(self._recent[name])

    def _lasts(self, name: str, update: int, value: float, judged: float, limit: float | None) -> bool:
        """Whether ``judged`` has been above ``limit`` for long enough; notes whether ``value`` itself is."""
        counts = limit is not None and update > self.limits.warmup
        self._outside[name] = counts and value > limit
        self._streaks[name] = self._streaks[name] + 1 if counts and judged > limit else 0
        return self._streaks[name] >= self.limits.patience

    def state_dict(self) -> dict[str, Any]:
        """All it remembers, in lists, dicts, strings and numbers."""
        return dict(losses=list(self._losses.values), recent={name: list(values) for name, values in self._recent.items()},
                    streaks=dict(self._streaks), outside=dict(self._outside), active=dict(self.active),
                    settled=self._settled and list(self._settled))

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where :meth:`state_dict` was taken; the limits stay this object's own."""
        self._losses = RunningMedian(MEDIAN_WINDOW, state['losses'])
        for name, recent in self._recent.items():
            recent.clear()
            recent.extend(state['recent'][name])
        self._streaks, self._outside = dict(state['streaks']), dict(state['outside'])
        self._settled = state['settled'] and tuple(state['settled'])
        self.active = dict(state['active'])
