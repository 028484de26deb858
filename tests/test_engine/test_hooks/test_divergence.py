import json
import math
import random
from statistics import median

import pytest

from bevfusion_plugin.engine.hooks.divergence import DivergenceDetector, DivergenceLimits, RunningMedian

# The log published in open-mmlab/mmdetection3d#3103 (lidar-only BEVFusion, 4 GPUs x 4, LR of 32), every 50 iterations of
# epoch 5: healthy at iterations 3600 to 3750, diverged at 5550 to 5700.
HEALTHY = [dict(grad_norm=2.5431, loss=2.8740, matched_ious=0.3713), dict(grad_norm=2.3138, loss=2.8288, matched_ious=0.3741),
           dict(grad_norm=2.6926, loss=2.8087, matched_ious=0.3938), dict(grad_norm=2.7535, loss=2.8263, matched_ious=0.3820)]
DIVERGED = [dict(grad_norm=58.9075, loss=8.5249, matched_ious=0.0103), dict(grad_norm=28.3981, loss=8.6812, matched_ious=0.0108),
            dict(grad_norm=52.4315, loss=8.3375, matched_ious=0.0120), dict(grad_norm=51.1289, loss=8.2282, matched_ious=0.0135)]
LOG_INTERVAL = 50
EPOCH = 7724  # iterations
START = 4 * EPOCH + 3600
RULES = ('loss_ratio', 'grad_norm', 'matched_ious', 'skipped_share')


def only(rule, **limits):
    """Limits with this rule alone."""
    return DivergenceLimits(**{**{name: None for name in RULES if name != rule}, **limits})


def first_alarm(detector, updates, start=START):
    """(index of the update, sentences) of the first alarm, None without one."""
    for index, values in enumerate(updates):
        news = detector.observe(start + index, values, (start + index) // EPOCH)
        if news:
            return index, news
    return None


def replay(noise=0., seed=0):
    """The published log, every line standing for its 50 iterations; ``noise``: of single iterations about it, as exp(N(0, s))."""
    rng = random.Random(seed)
    for line in HEALTHY * 4 + DIVERGED * 2 + DIVERGED[:2]:  # 800 healthy, 500 diverged iterations
        for _ in range(LOG_INTERVAL):
            yield {name: value * math.exp(rng.gauss(0, noise)) for name, value in line.items()}


HEALTHY_ITERATIONS = 16 * LOG_INTERVAL


def test_the_published_run_is_noticed_within_500_iterations():
    index, news = first_alarm(DivergenceDetector(DivergenceLimits()), replay())
    assert HEALTHY_ITERATIONS < index < HEALTHY_ITERATIONS + 500
    assert 'matched_ious' in news[0]


@pytest.mark.parametrize('noise', [0., 0.3])
@pytest.mark.parametrize('rule', ['loss_ratio', 'grad_norm', 'matched_ious'])
def test_each_rule_alone_notices_it_also_through_noise(rule, noise):
    index, news = first_alarm(DivergenceDetector(only(rule)), replay(noise))
    assert HEALTHY_ITERATIONS < index < HEALTHY_ITERATIONS + 500
    assert len(news) == 1


def test_loss_and_gradient_norm_need_a_hundred_updates_in_a_row():
    for rule in ('loss_ratio', 'grad_norm'):
        index, news = first_alarm(DivergenceDetector(only(rule)), replay())
        assert HEALTHY_ITERATIONS + 100 <= index <= HEALTHY_ITERATIONS + 125
        assert '100 updates' in news[0]


def test_a_slow_divergence_is_noticed_before_it_is_complete():
    steps = 1800  # from iteration 3750 to 5550, of which nothing was published
    ramp = [{name: a + (DIVERGED[0][name] - a) * step / steps for name, a in HEALTHY[-1].items()} for step in range(steps)]
    index, _ = first_alarm(DivergenceDetector(DivergenceLimits()), HEALTHY * 200 + ramp)
    assert 800 < index < 800 + steps


def healthy_run(updates=12_000, seed=1):
    """Warm-up with huge gradients and skips, a loss that falls noisily, frames without objects, single spikes."""
    rng = random.Random(seed)
    skipped = 0
    for update in range(1, updates + 1):
        warm = math.exp(-update / 150)
        loss = (3 + 17 * warm + 2 * math.exp(-update / 4000)) * math.exp(rng.gauss(0, 0.25))
        norm = (3 + 60 * warm) * math.exp(rng.gauss(0, 0.4))
        if update == 9:
            norm = 7217.  # ZYang2077/DAOcc#25
        if update in (5000, 5001, 9000):
            loss, norm = 30 * loss, 300 * norm
        skipped += update < 30 or update % 2000 == 0
        iou = 0. if rng.random() < 0.1 else 0.45 * (1 - math.exp(-update / 3000)) * math.exp(rng.gauss(0, 0.2))
        yield update, dict(loss=loss, grad_norm=norm, matched_ious=iou, skipped_updates=skipped)


@pytest.mark.parametrize('seed', range(3))
def test_a_healthy_run_with_warm_up_and_spikes_is_left_alone(seed):
    detector = DivergenceDetector(DivergenceLimits())
    for update, values in healthy_run(seed=seed):
        assert detector.observe(update, values, update // 3862) == []


def test_a_loss_that_is_no_number_counts_at_once():
    detector = DivergenceDetector(DivergenceLimits())
    assert detector.observe(1, dict(loss=math.nan)) == ['the loss is nan']
    assert detector.observe(2, dict(loss=1.)) == []
    assert detector.observe(3, dict(loss=math.inf)) == ['the loss is inf']
    assert detector.loss_median == 1.


def test_low_ious_count_only_after_the_first_epoch():
    detector = DivergenceDetector(only('matched_ious'))
    for update in range(600, 700):
        assert not detector.observe(update, dict(loss=1., matched_ious=0.05), epoch=0)
    assert 'below 0.1' in detector.observe(700, dict(loss=1., matched_ious=0.05), epoch=1)[0]


def test_one_update_without_objects_does_not_count():
    detector = DivergenceDetector(only('matched_ious'))
    for update in range(600, 700):
        iou = 0. if update % 3 == 0 else 0.4
        assert not detector.observe(update, dict(loss=1., matched_ious=iou), epoch=2)


def skipping(every, updates=6000, start=0):
    """Counters of a run that skips one of ``every`` attempts behind ``start`` attempts."""
    skipped = 0
    for attempt in range(1, updates):
        skipped += attempt > start and attempt % every == 0
        yield attempt - skipped, dict(loss=1., skipped_updates=skipped)


def alarm_attempt(limits, updates):
    detector = DivergenceDetector(limits)
    for update, values in updates:
        if detector.observe(update, values):
            return update + values['skipped_updates']
    return None


def test_more_than_one_percent_skipped_counts_and_less_does_not():
    assert alarm_attempt(only('skipped_share'), skipping(every=80)) is not None
    assert alarm_attempt(only('skipped_share'), skipping(every=120)) is None


def test_updates_skipped_while_the_loss_scale_settles_do_not_count():
    many_early = ((update, values) for update, values in skipping(every=2, updates=2000))
    assert alarm_attempt(only('skipped_share'), many_early) is None
    # all skipped from attempt 2500 on: 1 % of 1,000 attempts is exceeded by the eleventh
    assert alarm_attempt(only('skipped_share'), skipping(every=1, start=2499)) == 2500 + 10


def test_an_alarm_is_raised_once_and_again_after_a_recovery():
    detector = DivergenceDetector(only('grad_norm', patience=3, warmup=0))
    norms = [1] * 5 + [50] * 10 + [1] * 5 + [50] * 10
    alarms = [update for update, norm in enumerate(norms, 1) if detector.observe(update, dict(loss=1., grad_norm=norm))]
    assert len(alarms) == 2
    assert alarms[1] - alarms[0] == 15


def test_suspicion_begins_before_the_alarm_and_ends_with_recovery():
    detector = DivergenceDetector(only('grad_norm', patience=5, warmup=0))
    suspicious = []
    for update, norm in enumerate([1] * 5 + [50] * 4 + [1] * 5, 1):
        assert not detector.observe(update, dict(loss=1., grad_norm=norm))
        suspicious.append(detector.is_suspicious)
    # itself out of bounds at updates 6 to 9; its median of 5, which makes the streak, at 8 to 11
    assert suspicious == [False] * 5 + [True] * 6 + [False] * 3


def test_a_rule_that_is_off_never_counts():
    limits = DivergenceLimits(loss_ratio=None, grad_norm=None, matched_ious=None, skipped_share=None)
    assert first_alarm(DivergenceDetector(limits), replay()) is None


def test_state_is_saved_and_restored_in_mid_streak():
    updates = list(replay(noise=0.2))
    whole = DivergenceDetector(DivergenceLimits(matched_ious=None))
    expected = first_alarm(whole, updates)
    cut = expected[0] - 30
    first, second = (DivergenceDetector(DivergenceLimits(matched_ious=None)) for _ in range(2))
    assert first_alarm(first, updates[:cut]) is None
    assert first.is_suspicious
    second.load_state_dict(json.loads(json.dumps(first.state_dict())))
    assert first_alarm(second, updates[cut:], START + cut) == (30, expected[1])
    fresh = DivergenceDetector(DivergenceLimits(matched_ious=None))
    assert first_alarm(fresh, updates[cut:], START + cut) != (30, expected[1])


def test_the_running_median_is_that_of_the_last_numbers():
    rng = random.Random(0)
    numbers = [rng.choice([1., 2., 3., rng.random()]) for _ in range(200)]
    running = RunningMedian(7)
    for index, number in enumerate(numbers):
        running.add(number)
        assert running.value == median(numbers[max(0, index - 6):index + 1])
        assert len(running) == min(7, index + 1)


@pytest.mark.parametrize('setting, message', [
    (dict(loss_ratio=1.), 'loss_ratio must lie between 1 and inf, got 1.0'),
    (dict(grad_norm=0), 'grad_norm must lie between 0 and inf, got 0'),
    (dict(matched_ious=1.2), 'matched_ious must lie between 0 and 1, got 1.2'),
    (dict(skipped_share='1%'), "skipped_share must lie between 0 and 1, got '1%'"),
    (dict(skipped_after=-1), 'skipped_after must be an int >= 0, got -1'),
    (dict(warmup=2.5), 'warmup must be an int >= 0, got 2.5'),
    (dict(patience=0), 'patience must be an int >= 1, got 0')])
def test_limits_that_cannot_be_are_refused(setting, message):
    with pytest.raises(ValueError, match=message):
        DivergenceLimits(**setting)
