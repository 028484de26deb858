import pytest

from bevfusion_plugin.plan.batch_plan import BatchPlan
from bevfusion_plugin.plan.judgement import Training, WarmUp, judge, short

REFERENCE = Training(4, 32, 2e-4, 123_580, 6, warm_up=WarmUp(500 / 23_172, 'share'))


def changed(**changes):
    return Training(**{**vars(REFERENCE), **changes})


def faults_of(plan, training=REFERENCE, *memory):
    return ' | '.join(judge(plan, training, *memory).faults)


@pytest.mark.parametrize(
    'b, counts, updates, loop, per_epoch',
    [
        (2, 4, 23_172, 23_172, 3_862),  # ceil(741,480 / 32)
        (3, 8, 7_724, 7_728, 1_288),  # ceil(741,480 / 96); 10,299 micro-batches an epoch make 1,288 windows
        (3, 3, 20_597, 20_598, 3_433),
    ],
)
def test_updates_are_those_of_the_reports(b, counts, updates, loop, per_epoch):
    judged = judge(BatchPlan(4, b, counts), REFERENCE)
    assert (judged.updates, judged.loop_updates, judged.updates_per_epoch) == (updates, loop, per_epoch)


def test_the_loop_straddles_epochs_where_the_wrapper_does():
    assert judge(BatchPlan(4, 3, 8), changed(flush='train')).loop_updates == 7_725  # ceil(6 * 10,299 / 8)


def test_learning_rates_follow_the_rules():
    lrs = judge(BatchPlan(4, 3, 3), REFERENCE).lrs
    assert lrs == pytest.approx(dict(linear=2.25e-4, sqrt=2.1213e-4, none=2e-4), rel=1e-4)
    assert (short(lrs['linear']), short(lrs['sqrt']), short(lrs['none'])) == ('2.25e-4', '2.12e-4', '2e-4')


@pytest.mark.parametrize(
    'warm_up, expected',
    [
        (WarmUp(500 / 23_172, 'share'), 166.7),
        (WarmUp(500, 'updates'), 500),
        (WarmUp(500, 'micro-batches'), 62.5),
        (WarmUp(2, 'epochs'), 2576),
    ],
)
def test_the_warm_up_is_told_in_updates(warm_up, expected):
    assert judge(BatchPlan(4, 3, 8), changed(warm_up=warm_up)).warm_up == pytest.approx(expected, rel=1e-3)


def test_the_reference_batch_in_another_grouping_is_good():
    judged = judge(BatchPlan(4, 2, 4), REFERENCE)
    assert (judged.verdict, judged.notes, judged.faults) == ('good', (), ())
    assert judged.equivalent_machine == '16 x 2'


def test_a_total_near_the_base_is_usable_with_a_note():
    judged = judge(BatchPlan(4, 3, 3), REFERENCE)
    assert judged.verdict == 'usable'
    assert judged.notes == ('36 is not the base batch of 32 but 1.125 times it',)


@pytest.mark.parametrize('counts, bad', [(5, False), (6, True)])  # 60 of 32: 53 % of the updates; 72: 44 %
def test_fewer_than_half_of_the_updates_are_a_fault(counts, bad):
    assert bool(faults_of(BatchPlan(4, 3, counts))) == bad


def test_too_few_updates_are_told_with_both_numbers():
    assert '7,724 updates, 33% of the 23,172' in faults_of(BatchPlan(4, 3, 8))
    assert 'train 3 times the epochs' in faults_of(BatchPlan(4, 3, 8))


@pytest.mark.parametrize('memory, bad', [(21.5, False), (21.7, True), (float('inf'), True), (None, False)])
def test_more_than_nine_tenths_of_the_gpu_are_a_fault(memory, bad):
    assert ('21.6' in faults_of(BatchPlan(4, 2, 4), REFERENCE, memory, 24)) == bad


def test_one_sample_a_gpu_is_a_fault_with_batch_norm_alone():
    assert 'BatchNorm sees one sample' in faults_of(BatchPlan(4, 1, 8))
    assert not faults_of(BatchPlan(4, 1, 8), changed(batch_norm=False))


@pytest.mark.parametrize('length, bad', [(8, False), (7, True)])
def test_a_window_longer_than_the_warm_up_is_a_fault(length, bad):
    training = changed(base_batch_size=96, warm_up=WarmUp(length, 'micro-batches'))
    assert ('longer than the warm-up' in faults_of(BatchPlan(4, 3, 8), training)) == bad


def test_no_warm_up_is_no_fault():
    assert not faults_of(BatchPlan(4, 2, 4), changed(warm_up=WarmUp(0, 'updates')))


def test_a_window_longer_than_an_epoch_is_a_fault():
    assert 'longer than an epoch of 5' in faults_of(BatchPlan(4, 2, 8), changed(samples=40))


def test_a_warm_up_in_micro_batches_is_noted_when_accumulating():
    training = changed(warm_up=WarmUp(500, 'micro-batches'))
    assert any('lasts 125 updates' in note for note in judge(BatchPlan(4, 2, 4), training).notes)
    assert judge(BatchPlan(4, 8, 1), training).notes == ()


@pytest.mark.parametrize('rule, bad', [('none', True), ('linear', False)])
def test_an_lr_kept_for_less_than_half_of_the_batch_is_a_fault(rule, bad):
    assert ('mit-han-lab/bevfusion#619' in faults_of(BatchPlan(4, 3, 1), changed(rule=rule))) == bad


def test_everything_is_told_in_plain_values():
    told = judge(BatchPlan(4, 3, 8), REFERENCE, float('inf'), 24).as_dict()
    assert (told['total_batch_size'], told['memory_gib'], told['verdict']) == (96, None, 'bad')
    assert len(told['faults']) == 2 and told['lr']['linear'] == pytest.approx(6e-4)


@pytest.mark.parametrize(
    'changes, message',
    [
        (dict(samples=0), 'samples must be an int >= 1, got 0'),
        (dict(epochs=1.5), 'epochs must be an int >= 1, got 1.5'),
        (dict(lr=0.0), 'lr must be positive, got 0.0'),
        (dict(rule='cubic'), "rule must be one of .* got 'cubic'"),
        (dict(flush='never'), "flush must be one of .* got 'never'"),
    ],
)
def test_wrong_settings_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        changed(**changes)


def test_an_unknown_unit_is_refused():
    with pytest.raises(ValueError, match="unit must be one of .* got 'hours'"):
        WarmUp(1, 'hours')
