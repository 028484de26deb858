import numpy as np
import pytest
from mmengine.config import Config

from bevfusion_plugin.doctor.schedule_trace import ScheduleTrace
from bevfusion_plugin.visualization.schedule_plot import Schedule, draw_schedules, paste_end, picture_paths, save_schedules

LR = np.array([1.0, 2, 4, 3, 2, 1, 0.5, 0.25])


def trace(momentum=None, name='beta1', epochs=4, lr=LR):
    ends = np.arange(1, epochs + 1) * (len(lr) // epochs)
    return ScheduleTrace(lr, momentum, None if momentum is None else name, ends, epochs, len(lr) // epochs, 1, ())


def lines_of(axis):
    """(label, x values, y values) of what is drawn on an axis."""
    return [(line.get_label(), np.asarray(line.get_xdata()), np.asarray(line.get_ydata())) for line in axis.get_lines()]


def marks_of(axis):
    return {label: float(x[0]) for label, x, _ in lines_of(axis) if not label.startswith('_')}


def test_the_drawn_curves_are_the_traced_numbers_several_on_common_axes():
    beta1 = np.linspace(0.9, 0.8, 8)
    short = Schedule('short', trace(beta1[:4], epochs=2, lr=2 * LR[:4]))
    axes = draw_schedules([Schedule('long', trace(beta1)), short]).axes
    assert len(axes) == 4 and axes[0].get_ylim() == axes[1].get_ylim(), 'by share and by update on one scale'
    by_share, by_update = ({label: (x, y) for label, x, y in lines_of(axis) if len(x) > 1} for axis in axes[:2])
    for label, numbers in (('long: 1 → 4 → 0.25, 8 updates', LR), ('short: 2 → 8 → 6, 4 updates', 2 * LR[:4])):
        np.testing.assert_array_equal(by_share[label][1], numbers)
        np.testing.assert_array_equal(by_update[label][1], numbers)
        assert by_share[label][0][-1] == 100 and by_update[label][0][-1] == len(numbers), 'all end at 100 %, each at its own update'
    assert [axis.get_xlabel() for axis in axes[2:]] == ['share of the training, %', 'update']
    assert axes[2].get_ylabel() == 'beta1' and len({line.get_color() for line in axes[0].get_lines()}) == 2


def test_the_drawn_curves_of_one_are_the_traced_numbers():
    beta1 = np.linspace(0.9, 0.8, 8)
    axes = draw_schedules([Schedule('one', trace(beta1))]).axes
    for axis, expected in zip(axes, (LR, beta1)):
        np.testing.assert_array_equal(next(y for _, x, y in lines_of(axis) if len(x) == 8), expected)
    assert axes[0].get_title() == 'one\n1 → 4 → 0.25, 8 updates' and axes[1].get_ylabel() == 'beta1'


def test_warm_up_peak_epochs_and_the_end_of_pasting_are_marked():
    axes = draw_schedules([Schedule('one', trace(np.full(8, 0.9)), paste_end=6)]).axes
    marks = marks_of(axes[0])
    assert marks.pop('ends of the epochs') == 2
    assert marks == {'warm-up ends at 2': 2, 'peak 4 at 2': 2, 'DisableObjectSample at 6': 6}
    verticals = [x[0] for _, x, _ in lines_of(axes[0]) if len(x) == 2]
    assert sorted(verticals) == [2, 2, 4, 6, 6, 8], 'four epochs, the warm-up and the paste mark'
    shown = [text.get_text() for text in axes[1].get_legend().get_texts()]
    assert len(shown) == 4 and 'warm-up ends at 2' in shown


def test_a_rate_that_falls_from_the_start_has_no_warm_up_mark():
    falling = draw_schedules([Schedule('one', trace(lr=LR[2:6], epochs=2))]).axes[0]
    assert set(marks_of(falling)) == {'ends of the epochs', 'peak 4 at 0'}


def test_without_any_momentum_there_is_one_row_and_one_among_others_has_no_curve_there():
    assert len(draw_schedules([Schedule('one', trace())]).axes) == 1
    axes = draw_schedules([Schedule('one', trace()), Schedule('two', trace(np.full(8, 0.9), 'momentum'))]).axes
    assert len(lines_of(axes[0])) == 4 and len(lines_of(axes[2])) == 2 and axes[2].get_ylabel() == 'momentum'


def test_many_epochs_are_marked_sparsely():
    axes = draw_schedules([Schedule('one', trace(lr=np.ones(300), epochs=100))]).axes
    assert marks_of(axes[0])['every 3 epochs'] == 3
    assert len([x for _, x, _ in lines_of(axes[0]) if len(x) == 2]) == 34


def test_a_guessed_length_of_an_epoch_is_said_under_the_picture():
    together = draw_schedules([Schedule('one', trace(), assumed=True), Schedule('two', trace())])
    shown = [text.get_text() for text in together.legends[0].get_texts()]
    assert shown[0].endswith('8 updates (an epoch taken as 2 micro-batches)') and shown[1].endswith('8 updates')
    figure = draw_schedules([Schedule('one', trace(), assumed=True)])
    assert figure.axes[0].get_xlabel() == 'update (an epoch taken as 2 micro-batches)'


@pytest.mark.parametrize(
    'hook, expected',
    [
        (dict(type='bevfusion_plugin.DisableObjectSampleHook', disable_after_epoch=3), 6),
        (dict(type='DisableObjectSampleHook', disable_after_epoch=1), 2),
        (dict(type='DisableObjectSampleHook'), None),
        (dict(type='DisableObjectSampleHook', disable_after_epoch=4), None),
        (dict(type='EMAHook'), None),
    ],
)
def test_pasting_ends_with_the_last_update_of_its_last_epoch(hook, expected):
    assert paste_end(Config(dict(custom_hooks=[hook])), trace()) == expected


@pytest.mark.parametrize('out, written', [('a.png', ['a.png']), ('deep/a.svg', ['a.svg']), ('a', ['a.png', 'a.svg'])])
def test_the_suffix_decides_the_format(tmp_path, out, written):
    paths = save_schedules([Schedule('one', trace(np.full(8, 0.9)))], tmp_path / out)
    assert [path.name for path in paths] == written
    for path in paths:
        content = path.read_bytes()
        assert content.startswith(b'\x89PNG') if path.suffix == '.png' else b'<svg' in content[:1000]


def test_another_suffix_and_nothing_to_draw_are_refused():
    with pytest.raises(ValueError, match=r'must end in .png or .svg, or in nothing for both, got a.jpg'):
        picture_paths('a.jpg')
    with pytest.raises(ValueError, match='no schedule to draw'):
        draw_schedules([])
