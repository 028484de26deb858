import math

import pytest
from written_runs import CHARTS, CONFIG, ENVIRONMENT, EPOCHS, step, validation, write_run

from bevfusion_plugin.visualization.report.charts import FAINT, LIMIT_COLOUR, PALETTE, evaluation_charts, thinning_note, training_charts
from bevfusion_plugin.visualization.report.run_record import read_run, read_runs
from bevfusion_plugin.visualization.report.series import MAX_POINTS, spans_decades
from bevfusion_plugin.visualization.report.style import DARK_BACKGROUND, LIGHT_BACKGROUND

FIRST = '20250101_000000'
LOGGED = dict(
    loss=3.0,
    loss_heatmap=1.0,
    layer_0_loss_bbox=2.0,
    lr=1e-4,
    base_lr=1e-4,
    beta1=0.9,
    grad_norm=40.0,
    loss_scale=512.0,
    skipped_updates=1,
    samples_per_sec=24.0,
    data_time=0.25,
    memory=9000,
    matched_ious=0.4,
    clipped_share=0.5,
    update=5,
    total_batch=32,
)


def record(work_dir, lines, **settings):
    write_run(work_dir, FIRST, lines, **settings)
    return read_run(work_dir)


def by_title(charts):
    return {chart.title: chart for chart in charts}


def traces(chart):
    return {trace['name']: trace for trace in chart.figure['data']}


@pytest.fixture
def whole(tmp_path):
    return by_title(training_charts([record(tmp_path, [step(number, **LOGGED) for number in (50, 100)])]))


def test_everything_that_was_logged_has_its_chart_and_bookkeeping_none(whole):
    assert list(whole) == [*CHARTS, 'clipped_share', 'matched_ious']
    assert list(traces(whole['Loss terms'])) == ['loss', 'layer_0_loss_bbox', 'loss_heatmap']
    assert list(traces(whole['Learning rate'])) == ['lr'], 'base_lr says the same'
    assert list(traces(whole['Loss scale and skipped updates'])) == ['loss_scale', 'skipped_updates']


def test_the_charts_hold_the_numbers_of_the_log(whole):
    for title, name in (
        ('Loss terms', 'loss_heatmap'),
        ('Gradient norm', 'grad_norm'),
        ('GPU memory', 'memory'),
        ('Loss scale and skipped updates', 'skipped_updates'),
        ('matched_ious', 'matched_ious'),
    ):
        assert (traces(whole[title])[name]['x'], traces(whole[title])[name]['y']) == ([50, 100], [LOGGED[name]] * 2), name


def test_plotly_knows_every_setting_of_the_figures(whole, tmp_path):
    figure = pytest.importorskip('plotly.graph_objects', reason='plotly draws the report').Figure
    lines = [step(10, loss=900.0), validation(1, **{'car_AP_dist_0.5': 0.5, 'mATE': 0.3, 'mAP': 0.5}), step(20, loss=math.nan)]
    other = record(tmp_path / 'other', lines)
    for chart in [*whole.values(), *training_charts([other, other]), *evaluation_charts([other])]:
        drawn = figure(chart.figure)  # raises at a setting that plotly does not know
        assert len(drawn.data) == len(chart.figure['data']) > 0


def test_the_clip_line_spans_the_gradient_norm(whole, tmp_path):
    clip = traces(whole['Gradient norm'])['clipped to 35']
    assert (clip['x'], clip['y'], clip['line']['dash']) == ([50, 100], [35, 35], 'dash')
    unclipped = record(tmp_path, [step(50, grad_norm=1.0)], config=CONFIG.replace('max_norm=35, norm_type=2', ''))
    assert list(traces(by_title(training_charts([unclipped]))['Gradient norm'])) == ['grad_norm']


def test_waiting_for_data_is_a_share_of_the_iteration_on_an_axis_of_its_own(whole):
    share = traces(whole['Speed and waiting for data'])['data time %']
    assert share['y'] == [25.0, 25.0] and share['yaxis'] == 'y2'
    layout = whole['Speed and waiting for data'].figure['layout']
    assert layout['yaxis2']['side'] == 'right' and 'yaxis' in layout


def test_a_run_without_the_plugin_gets_its_speed_from_time_and_batch(tmp_path):
    lines = [dict(step(50, loss=1.0), time=0.5)]
    speed = by_title(training_charts([record(tmp_path, lines)]))['Speed and waiting for data']
    assert traces(speed)['samples_per_sec']['y'] == [24.0]  # 4 ranks x 3 samples / 0.5 s
    assert 'Speed and waiting for data' not in by_title(training_charts([record(tmp_path / 'b', lines, config=None)]))


def test_skipped_updates_alone_need_no_second_axis(tmp_path):
    chart = by_title(training_charts([record(tmp_path, [step(50, skipped_updates=0)])]))['Loss scale and skipped updates']
    assert 'side' not in chart.figure['layout']['yaxis2'] and 'yaxis' not in chart.figure['layout']


def test_what_was_not_logged_has_no_chart(tmp_path):
    assert list(by_title(training_charts([record(tmp_path, [step(50, loss=1.0)], config=None)]))) == ['Loss terms']
    assert evaluation_charts([record(tmp_path, [step(50, loss=1.0)])]) == []


def test_a_value_that_is_not_finite_is_a_gap_and_named(tmp_path):
    lines = [step(number, loss=value) for number, value in ((1, 2.0), (2, math.nan), (3, 1.0), (4, math.inf))]
    chart = training_charts([record(tmp_path, lines)])[0]
    assert traces(chart)['loss']['y'] == [2.0, None, 1.0, None] and not traces(chart)['loss']['connectgaps']
    assert chart.notes == ['loss was not finite at steps 2, 4.']


def test_of_many_gaps_the_first_are_named_and_the_rest_counted(tmp_path):
    chart = training_charts([record(tmp_path, [step(number, loss=math.nan) for number in range(1, 21)])])[0]
    assert chart.notes == ['loss was not finite at steps 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12 and 8 more.']


def test_a_loss_that_falls_a_hundredfold_has_a_logarithmic_axis(tmp_path):
    def axis(*values):
        lines = [step(number, loss=value) for number, value in enumerate(values, start=1)]
        return training_charts([record(tmp_path, lines)])[0].figure['layout']['yaxis']['type']

    assert axis(500.0, 5.0) == 'log' and axis(9.0, 5.0) == 'linear' and axis(500.0, 0.0) == 'linear'
    assert not spans_decades([math.nan]) and not spans_decades([])


def test_names_that_plotly_would_read_as_markup_are_escaped(tmp_path):
    chart = training_charts([record(tmp_path, [step(1, **{'loss_<b>&': 1.0})])])[0]
    assert list(traces(chart)) == ['loss_&lt;b&gt;&amp;']


def two_runs(tmp_path, *lengths):
    for name, length in zip('ab', lengths):
        text = ENVIRONMENT.format(ranks=1) + (EPOCHS.format(length=length) if length else '')
        write_run(tmp_path / name, FIRST, [step(number, **LOGGED) for number in (50, 100)] + [validation(1, mAP=0.5)], text=text)
    return read_runs([tmp_path / 'a', tmp_path / 'b'])


def test_several_runs_lie_over_each_other_one_colour_a_run(tmp_path):
    charts = by_title(training_charts(two_runs(tmp_path, 0, 0)))
    assert list(traces(charts['Learning rate'])) == ['a · lr', 'b · lr']
    assert len({trace['line']['color'] for trace in traces(charts['Learning rate']).values()}) == 2
    assert list(traces(charts['Loss terms'])) == ['a · loss', 'b · loss'], 'the terms stand in a table'


def test_a_limit_that_several_runs_share_is_drawn_once(tmp_path):
    norms = traces(by_title(training_charts(two_runs(tmp_path, 0, 0)))['Gradient norm'])
    assert list(norms) == ['a · grad_norm', 'b · grad_norm', 'clipped to 35']


def test_several_runs_have_their_classes_and_errors_in_a_table_and_no_chart(tmp_path):
    metrics = {'N/car_AP_dist_0.5': 0.5, 'N/mAP': 0.5, 'N/mATE': 0.5}
    run = record(tmp_path, [step(50, loss=1.0), validation(1, **metrics)])
    assert list(by_title(evaluation_charts([run, run]))) == ['mAP, NDS and other scores']


def test_a_long_series_is_smoothed_and_what_was_logged_lies_faint_behind_it(tmp_path):
    lines = [step(number, loss=2.0 + number % 2, grad_norm=5.0, samples_per_sec=24.0, lr=1e-4) for number in range(1, 101)]
    charts = by_title(training_charts([record(tmp_path, lines)]))
    for title, name in (('Loss terms', 'loss'), ('Gradient norm', 'grad_norm'), ('Speed and waiting for data', 'samples_per_sec')):
        raw, strong = traces(charts[title])[f'{name}, as logged'], traces(charts[title])[name]
        assert raw['y'] == [line[name] for line in lines] and raw['opacity'] == FAINT and raw['showlegend'] is False, title
        assert raw['line']['color'] == strong['line']['color'] and raw['legendgroup'] == strong['legendgroup']
        assert strong['y'][50] == pytest.approx(2.6 if name == 'loss' else lines[50][name]), 'of 3 2 3 2 3'
        assert charts[title].reading.startswith('Faint: as logged')
    assert list(traces(charts['Learning rate'])) == ['lr'] and not charts['Learning rate'].reading


def test_gigabytes_of_memory_are_ticks_in_full_from_zero_and_no_axis_cuts_them(whole):
    axis = whole['GPU memory'].figure['layout']['yaxis']
    assert axis['tickformat'] == ',' and axis['rangemode'] == 'tozero'
    for chart in whole.values():
        assert all(axis['automargin'] for name, axis in chart.figure['layout'].items() if name.startswith('yaxis'))


def test_several_runs_share_the_epoch_as_axis_if_all_tell_its_length(tmp_path):
    chart = training_charts(two_runs(tmp_path, 50, 200))[0]
    assert traces(chart)['a · loss']['x'] == [1.0, 2.0] and traces(chart)['b · loss']['x'] == [0.25, 0.5]
    assert chart.figure['layout']['xaxis']['title']['text'] == 'epoch'
    chart = training_charts(two_runs(tmp_path, 50, 0))[0]
    assert traces(chart)['a · loss']['x'] == [50, 100] and chart.figure['layout']['xaxis']['title']['text'] == 'iteration'


def test_validations_are_drawn_per_epoch(tmp_path):
    lines = []
    for epoch in (1, 2):
        metrics = {'N/car_AP_dist_0.5': 0.1 * epoch, 'N/car_AP_dist_1.0': 0.3 * epoch, 'N/mAP': 0.2 * epoch, 'N/NDS': 0.25, 'N/mATE': 0.5}
        lines += [step(50 * epoch, loss=1.0), validation(epoch, **metrics)]
    charts = by_title(evaluation_charts([record(tmp_path, lines)]))
    assert list(charts) == ['mAP, NDS and other scores', 'Average precision by class', 'Mean errors of true positives']
    scores = traces(charts['mAP, NDS and other scores'])
    assert scores['mAP']['x'] == [1, 2] and scores['mAP']['y'] == [0.2, 0.4] and scores['NDS']['y'] == [0.25, 0.25]
    assert traces(charts['Average precision by class'])['car']['y'] == pytest.approx([0.2, 0.4])
    assert charts['mAP, NDS and other scores'].figure['layout']['xaxis']['title']['text'] == 'epoch'


@pytest.mark.parametrize('steps', [(0, 0), (50, 100)])
def test_validations_that_are_not_counted_in_epochs_are_drawn_per_iteration(tmp_path, steps):
    lines = [step(50, loss=1.0), validation(steps[0], mAP=0.1), step(100, loss=1.0), validation(steps[1], mAP=0.2)]
    chart = evaluation_charts([record(tmp_path, lines)])[0]
    assert traces(chart)['mAP']['x'] == [50, 100] and chart.figure['layout']['xaxis']['title']['text'] == 'iteration'


def test_the_page_says_when_a_series_was_thinned(tmp_path):
    assert thinning_note([record(tmp_path, [step(50, loss=1.0)])]) == ''
    long = record(tmp_path, [step(number, loss=1.0) for number in range(1, MAX_POINTS + 2)])
    assert thinning_note([long]) == f'Series of more than {MAX_POINTS} points are drawn with the lowest and highest of each stretch.'


def luminance(colour):
    channels = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    linear = [value / 12.92 if value <= 0.03928 else ((value + 0.055) / 1.055) ** 2.4 for value in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize('background', [LIGHT_BACKGROUND, DARK_BACKGROUND])
def test_every_line_is_seen_on_a_light_and_on_a_dark_page(background):
    for colour in (*PALETTE, LIMIT_COLOUR):
        dark, bright = sorted((luminance(colour), luminance(background)))
        assert (bright + 0.05) / (dark + 0.05) >= 3, f'{colour} on {background}'
