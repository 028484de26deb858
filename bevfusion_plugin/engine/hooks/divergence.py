"""When a training has gone wrong, read off a few numbers an update."""

from __future__ import annotations

import math
from bisect import bisect_left, insort
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from statistics import median
from typing import Any

from bevfusion_plugin.plan.checked_settings import is_finite_number, positive_int, whole_number

# Updates the running medians look back: twice the 1,800 in which the published run went wrong, and some, so that also a slow
# divergence is judged by what was healthy.
MEDIAN_WINDOW = 4000
SMOOTHING = 25  # updates whose median is judged, so that one noisy update neither begins nor ends a streak
IOU_SHARE = 0.5  # of its running median: a matched IoU that always was low has lost nothing
LEAST_ATTEMPTS = 1000  # a share of skipped updates is taken of at least so many, else the first one skipped would be 100 %
SIGNS = ('loss', 'grad_norm', 'matched_ious')  # rules that look at the model from sides of their own


@dataclass(frozen=True)
class DivergenceLimits:
    """What counts as divergence; None switches a rule off.

    Attributes:
        loss_ratio: Loss over its running median.
        grad_norm_ratio: Gradient norm before clipping over its running median. A norm that the clip lets pass does not count.
            The published run went to 10 to 20 times; a healthy norm may drift by 4.
        grad_norm: Gradient norm before clipping that is too much for this model, whatever it usually has; None: there is none,
            as a healthy BEVFusion has 2 to 5 and a healthy TransFusion 100.
        matched_ious: Mean IoU of matched boxes, once the first epoch is over, if it also is half its running median.
        skipped_share: Share of the updates after the first ``skipped_after`` that were skipped.
        skipped_after: Updates a dynamic loss scale may take to find its value.
        patience: Updates in a row that loss or gradient norm must be above their limits.
        warmup: Updates at the start in which only a loss that is no number counts.

    Raises:
        ValueError: If a ratio is not above 1, a limit is not positive, a share or IoU is 1 or more, or a count is no int.
    """

    loss_ratio: float | None = 2.0
    grad_norm_ratio: float | None = 5.0
    grad_norm: float | None = None
    matched_ious: float | None = 0.1
    skipped_share: float | None = 0.01
    skipped_after: int = 2000
    patience: int = 100
    warmup: int = 500

    def __post_init__(self) -> None:
        for name, least, most in (
            ('loss_ratio', 1, math.inf),
            ('grad_norm_ratio', 1, math.inf),
            ('grad_norm', 0, math.inf),
            ('matched_ious', 0, 1),
            ('skipped_share', 0, 1),
        ):
            value = getattr(self, name)
            if value is not None and not (is_finite_number(value) and least < value < most):
                raise ValueError(f'{name} must lie between {least} and {most}, got {value!r}; None switches the rule off')
        positive_int('patience', self.patience, 'it counts updates')
        for name in ('skipped_after', 'warmup'):
            whole_number(name, getattr(self, name), 0, mend='it counts updates')


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
        clip_norm: Gradient norm that updates are clipped to; None if they are not.
        active: Rules broken at the last update, by name, each with its sentence.

    Source:
        The course of the published run in open-mmlab/mmdetection3d#3103: gradient norm from 2-5 to 28-59, loss from 2.8 to
        8.5, ``matched_ious`` from 0.37 to 0.01.
    """

    def __init__(self, limits: DivergenceLimits) -> None:
        self.limits = limits
        self.clip_norm: float | None = None
        self.active: dict[str, str] = {}
        self._histories = {name: RunningMedian(MEDIAN_WINDOW) for name in SIGNS}
        self._recent: dict[str, deque[float]] = {name: deque(maxlen=min(SMOOTHING, limits.patience)) for name in SIGNS}
        self._streaks = dict(loss=0, grad_norm=0, non_finite_loss=0)
        self._outside = dict(loss=False, grad_norm=False)  # the latest value by itself
        self._settled: tuple[int, int] | None = None  # attempts and skips when the loss scale should have found its value

    @property
    def is_suspicious(self) -> bool:
        """Whether loss or gradient norm are out of bounds, even if only now, or a rule is broken."""
        return bool(self.active) or any(self._streaks.values()) or any(self._outside.values())

    @property
    def is_lost(self) -> bool:
        """Whether the run surely is: by a loss that is no number, or two of loss, gradient norm and IoU at once.

        One of them alone has harmless causes, such as a new loss term. Skipped updates have spoiled nothing.
        """
        return 'non_finite_loss' in self.active or sum(name in self.active for name in SIGNS) >= 2

    @property
    def loss_median(self) -> float | None:
        """Running median of the loss, None before the first."""
        return self._histories['loss'].value if len(self._histories['loss']) else None

    def observe(self, update: int, values: Mapping[str, float], epoch: int = 0, applied: bool = True) -> list[str]:
        """A sentence for each rule that is broken at this update and was not at the one before.

        Args:
            update: Updates applied so far, this one included.
            values: ``loss``, and as far as known ``grad_norm``, ``matched_ious`` and ``skipped_updates`` (so far). One that
                is no number leaves the verdict of its rule as it was, and is no part of the medians.
            epoch: Epochs completed.
            applied: Whether the update was made; one that was skipped has spoiled nothing.
        """
        alarms = {
            'non_finite_loss': self._check_finite(values['loss'], applied),
            'loss': self._check_loss(update, values['loss']),
            'grad_norm': self._check_grad_norm(update, values.get('grad_norm')),
            'matched_ious': self._check_matched_ious(update, values.get('matched_ious'), epoch),
            'skipped_updates': self._check_skipped(update, values.get('skipped_updates')),
        }
        before, self.active = self.active, {name: text for name, text in alarms.items() if text is not None}
        return [text for name, text in self.active.items() if name not in before]

    def _check_finite(self, loss: float, applied: bool) -> str | None:
        if math.isfinite(loss):
            self._streaks['non_finite_loss'] = 0
            return None
        self._streaks['non_finite_loss'] += 1
        if applied:
            return f'the loss is {loss}'
        streak = self._streaks['non_finite_loss']
        return f'the loss has been no number for {streak} updates' if streak >= self.limits.patience else None

    def _check_loss(self, update: int, loss: float) -> str | None:
        if not math.isfinite(loss):
            return self.active.get('loss')
        judged, usual = self._take_in('loss', loss)
        ratio = self.limits.loss_ratio
        limit = None if ratio is None or usual is None else ratio * usual
        if not self._lasts('loss', update, loss, judged, limit):
            return None
        return f'the loss, {judged:.4g}, has been above {ratio:g} x its running median of {usual:.4g} for {self._streaks["loss"]} updates'

    def _check_grad_norm(self, update: int, norm: float | None) -> str | None:
        if norm is None or not math.isfinite(norm):  # an update that was skipped, for which there is another rule
            return self.active.get('grad_norm')
        judged, usual = self._take_in('grad_norm', norm)
        limit, words = self._grad_norm_limit(usual)
        if not self._lasts('grad_norm', update, norm, judged, limit):
            return None
        return f'the gradient norm, {judged:.4g}, has been above {words} for {self._streaks["grad_norm"]} updates'

    def _grad_norm_limit(self, usual: float | None) -> tuple[float | None, str]:
        """The lower of the limit that was given and the run's own, and how to call it; (None, '') if there is none."""
        limits, found = self.limits, []
        if limits.grad_norm is not None:
            found.append((limits.grad_norm, f'{limits.grad_norm:g}'))
        if limits.grad_norm_ratio is not None and usual is not None:
            words = f'{limits.grad_norm_ratio:g} x its running median of {usual:.4g}'
            if self.clip_norm is not None:
                words += f' and the clip of {self.clip_norm:g}'
            found.append((max(limits.grad_norm_ratio * usual, self.clip_norm or 0.0), words))
        return min(found, default=(None, ''))

    def _check_matched_ious(self, update: int, iou: float | None, epoch: int) -> str | None:
        if iou is None or not math.isfinite(iou):
            return self.active.get('matched_ious')
        judged, usual = self._take_in('matched_ious', iou)
        limit = self.limits.matched_ious
        if limit is None or usual is None or epoch < 1 or update <= self.limits.warmup:
            return None
        if judged >= min(limit, IOU_SHARE * usual):
            return None
        return (
            f'matched_ious, {judged:.4g}, is below {limit:g} and below {IOU_SHARE:g} x its running median of {usual:.4g} '
            'after the first epoch'
        )

    def _check_skipped(self, update: int, skipped: float | None) -> str | None:
        limits = self.limits
        if skipped is None or limits.skipped_share is None or update + skipped < limits.skipped_after:
            return None
        if self._settled is None:
            self._settled = (update + int(skipped), int(skipped))
        attempts, skips = update + skipped - self._settled[0], skipped - self._settled[1]
        if skips <= limits.skipped_share * max(attempts, LEAST_ATTEMPTS):
            return None
        return (
            f'{skips:g} of {attempts:g} updates after the first {self._settled[0]} were skipped, more than '
            f'{limits.skipped_share:.2g} of them'
        )

    def _take_in(self, name: str, value: float) -> tuple[float, float | None]:
        """``value`` smoothed, and what is usual: None before there is a history to tell."""
        history, recent = self._histories[name], self._recent[name]
        recent.append(value)
        if name not in self.active and not self._streaks.get(name):  # what is out of bounds must not become what is usual
            history.add(value)
        known = len(history) > self.limits.patience and history.value > 0
        return median(recent), history.value if known else None

    def _lasts(self, name: str, update: int, value: float, judged: float, limit: float | None) -> bool:
        """Whether ``judged`` has been above ``limit`` for long enough; notes whether ``value`` itself is."""
        allowed = math.inf if limit is None or update <= self.limits.warmup else limit
        self._outside[name] = value > allowed
        self._streaks[name] = self._streaks[name] + 1 if judged > allowed else 0
        return self._streaks[name] >= self.limits.patience

    def state_dict(self) -> dict[str, Any]:
        """All it remembers, in lists, dicts, strings and numbers."""
        return dict(
            histories={name: list(history.values) for name, history in self._histories.items()},
            recent={name: list(values) for name, values in self._recent.items()},
            streaks=dict(self._streaks),
            outside=dict(self._outside),
            active=dict(self.active),
            settled=self._settled and list(self._settled),
        )

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where :meth:`state_dict` was taken; the limits stay this object's own.

        A state of before the gradient norm was judged by its own history has ``losses`` for ``histories``.
        """
        histories = state.get('histories') or dict(loss=state['losses'])
        self._histories = {name: RunningMedian(MEDIAN_WINDOW, histories.get(name, ())) for name in SIGNS}
        for name, recent in self._recent.items():
            recent.clear()
            recent.extend(state['recent'][name])
        self._streaks.update(state['streaks'])
        self._outside = dict(state['outside'])
        self._settled = state['settled'] and tuple(state['settled'])
        self.active = dict(state['active'])
