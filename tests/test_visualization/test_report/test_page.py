import gzip
import hashlib
import json
import math
import re
from pathlib import Path

import numpy as np
import pytest
from written_runs import CHARTS, ENVIRONMENT, EPOCHS, PLAN, open_in_browser, step, validation, write_picture, write_run

from bevfusion_plugin.doctor.finding import Finding
from bevfusion_plugin.visualization.report.page import PLOTLY, plotly_script, report_page, script_json, write_report
from bevfusion_plugin.visualization.report.run_record import Diagnosis, read_run, read_runs
from bevfusion_plugin.visualization.report.series import six_digits

FIRST = '20250101_000000'
EVIL = '</script><script>alert(1)</script><img src=x onerror=alert(1)>'
CLASSES, AT = (
    ('car', 'truck', 'bus', 'trailer', 'construction_vehicle', 'pedestrian', 'motorcycle', 'bicycle', 'traffic_cone', 'barrier'),
    ('0.5', '1.0', '2.0', '4.0'),
)
FINDING = Finding('lr-unscaled', 'error', 'the LR was tuned for 32', 'scale it', 'https://example.org/issues/1')


def write_training(work_dir, scale=1.0):
    """Two epochs with everything a training may have."""
    lines = []
    for number in range(1, 9):
        lines.append(
            step(
                number * 10,
                loss=scale * 8.0 / number,
                loss_heatmap=scale * 5.0 / number,
                lr=1e-4 * number,
                beta1=0.9,
                grad_norm=40.0 / number,
                loss_scale=2.0**number,
                skipped_updates=number // 4,
                samples_per_sec=24.0 + number,
                data_time=0.1,
                memory=9000 + number,
                matched_ious=0.1 * number,
                update=number,
            )
        )
        if number % 4 == 0:
            lines.append(
                validation(
                    number // 4,
                    **{
                        'N/mAP': 0.07 * number,
                        'N/NDS': 0.08 * number,
                        'N/car_AP_dist_0.5': 0.06 * number,
                        'N/bus_AP_dist_0.5': 0.05 * number,
                    },
                )
            )
    write_run(work_dir, FIRST, lines, text=ENVIRONMENT.format(ranks=4) + PLAN)
    write_picture(work_dir / 'pictures' / 'sample_7.png', token='c0ffee')


def body_of(page):
    return page[page.index('<body>') : page.index('</main>')]


def test_the_page_shows_every_part_of_the_run(tmp_path):
    write_training(tmp_path / 'run')
    (tmp_path / 'run' / 'divergence.json').write_text(json.dumps(dict(update=1200, reasons=['grad_norm above 25'])))
    body = body_of(report_page([read_run(tmp_path / 'run')], [Diagnosis((FINDING,))]))
    for part in (
        '<h1>run</h1>',
        'diverged at update 1,200',
        'grad_norm above 25',
        '4 x 2 x A4 = 32',
        'lr-unscaled',
        'GPU 0: &lt;NVIDIA &amp; Co&gt;',
        'sample_7, token c0ffee',
        'src="data:image/png;base64,',
        'id="chart-0"',
        '>mAP</td>',
    ):
        assert part in body, part
    assert body.index('diverged') < body.index('id="chart-0"'), 'the alarm comes first'


def test_a_run_that_recovered_has_no_alarm_but_a_history(tmp_path):
    write_training(tmp_path / 'run')
    (tmp_path / 'run' / 'divergence.json').write_text(json.dumps(dict(update=1200, reasons=['the loss rose'], over=1500)))
    body = body_of(report_page([read_run(tmp_path / 'run')], [Diagnosis()]))
    assert 'class="alarm"' not in body and 'role="alert"' not in body
    assert 'run diverged at update 1,200; over since update 1,500' in body and 'the loss rose' in body


def test_the_page_fetches_nothing(tmp_path):
    write_training(tmp_path)
    page = report_page([read_run(tmp_path)], [Diagnosis((FINDING,))])
    assert not re.findall(r'(?:src|href)="(?!data:|https://example\.org/issues/1")[^"]*"', page.replace(plotly_script(), ''))
    assert '@import' not in page.replace(plotly_script(), '') and "default-src &#x27;none&#x27;" in page


@pytest.mark.parametrize('over', [{}, dict(over=EVIL)])
def test_nothing_from_a_log_becomes_markup(over, tmp_path):
    run = tmp_path / '<img src=y>'
    write_run(
        run,
        FIRST,
        [
            step(10, **{f'loss{EVIL}': math.nan, 'loss': 1.0, f'x{EVIL}': 1.0}),
            validation(1, **{f'score{EVIL}': 0.5, f'{EVIL}_AP_dist_1.0': 0.5}),
        ],
        text=f'{ENVIRONMENT.format(ranks=1)}{PLAN}'.replace('linux', EVIL).replace('4 x 2', EVIL),
    )
    write_picture(run / 'pictures' / '<img src=z>.png')
    (run / 'divergence.json').write_text(json.dumps(dict(over, update=EVIL, reasons=EVIL, values={EVIL: EVIL}, checkpoint=EVIL)))
    finding = Finding(EVIL, EVIL, EVIL, EVIL, f'https://example.org/"{EVIL}')
    page = report_page([read_run(run)], [Diagnosis((finding,))]).replace(plotly_script(), '')
    assert 'alert(1)' in page
    assert '<script>alert' not in page and '<img src=' not in page
    assert page.count('</script>') == 3
    assert not re.search(r'<[^>]*onerror', re.sub(r'"[^"]*"', '""', page))


def test_json_in_the_page_cannot_end_its_script_element():
    written = script_json({'name': '</script>&'})
    assert '<' not in written and '&' not in written and json.loads(written) == {'name': '</script>&'}
    with pytest.raises(ValueError):
        script_json([math.nan])


def test_a_page_with_many_large_pictures_stays_below_15_mb(tmp_path):
    write_training(tmp_path)
    for number in range(30):
        picture = write_picture(tmp_path / 'pictures' / f'{number:02}.png', 900, 700, noise=number == 0)
        if number == 0:
            large = picture.read_bytes()
        picture.write_bytes(large)
    page = report_page([read_run(tmp_path)], [Diagnosis()])
    assert len(large) > 1_500_000 and len(page.encode()) < 15_000_000
    assert '24 of 31 pictures' in page and page.count('<figure>') == 24


def test_a_run_with_a_log_alone_has_a_page(tmp_path):
    write_run(tmp_path, FIRST, [step(10, loss=1.0)], config=None, text='')
    body = body_of(report_page([read_run(tmp_path)], [Diagnosis(problem='the run stored no config')]))
    for part in ('no validation yet', 'Not known: the run stored no config', 'There are none', 'The log does not say'):
        assert part in body, part


def test_the_page_is_replaced_at_once(tmp_path):
    write_training(tmp_path / 'run')
    out = tmp_path / 'new' / 'page.html'
    for _ in range(2):
        assert write_report([read_run(tmp_path / 'run')], [Diagnosis()], out) == out
    assert [path.name for path in out.parent.iterdir()] == ['page.html'] and out.read_text().startswith('<!DOCTYPE html>')


def write_long_training(work_dir, seed, records=4000):
    """What a training of 200,000 micro-batches logs, as noisy as a real one."""
    noise = np.random.default_rng(seed)
    lines = []
    for number in range(1, records + 1):
        terms = dict(zip(('loss_heatmap', 'layer_-1_loss_cls', 'layer_-1_loss_bbox'), noise.uniform(1, 2, 3) * (1 + 500 / number)))
        lines.append(
            step(
                number * 50,
                loss=sum(terms.values()),
                **terms,
                lr=1e-4 + 1e-9 * number,
                beta1=0.95 - 1e-6 * number,
                grad_norm=noise.lognormal(),
                samples_per_sec=noise.normal(24, 1),
                data_time=abs(noise.normal(0.1, 0.02)),
                memory=21_060 + number % 7,
                loss_scale=2.0**16,
                skipped_updates=number // 1000,
                matched_ious=noise.uniform(),
                update=number,
            )
        )
        if number % (records // 6) == 0:
            lines.append(
                validation(
                    number * 6 // records,
                    **{f'N/{name}_AP_dist_{at}': noise.uniform() for name in CLASSES for at in AT},
                    **{f'N/{name}_orient_err': math.nan for name in CLASSES},
                    **dict.fromkeys((f'N/{name}' for name in ('mAP', 'NDS', 'mATE', 'mASE', 'mAOE', 'mAVE', 'mAAE')), 0.68512345),
                )
            )
    write_run(work_dir, FIRST, lines, text=ENVIRONMENT.format(ranks=4) + PLAN + EPOCHS.format(length=records * 50 // 6))
    write_picture(work_dir / 'pictures' / '7.png', 900, 600, token='c0ffee')


@pytest.fixture(scope='module')
def three_pages(tmp_path_factory):
    """The page of one long training, and of three."""
    folder = tmp_path_factory.mktemp('three')
    for seed, name in enumerate('abc'):
        write_long_training(folder / name, seed)
    records = read_runs([folder / name for name in 'abc'])
    return {count: report_page(records[:count], [Diagnosis((FINDING,))] * count) for count in (1, 3)}


def test_a_page_without_its_pictures_has_at_most_2_mb_however_long_three_trainings_were(three_pages):
    for page in three_pages.values():
        assert len(re.sub('data:image/[^"]*', '', page).encode()) <= 2_000_000


def test_no_number_of_the_page_is_nan(three_pages):
    for page in three_pages.values():
        assert not re.search(r'>-?(nan|inf)<', body_of(page))


def test_what_draws_the_charts_is_the_file_that_NOTICE_names():
    digest = hashlib.sha256(gzip.decompress(PLOTLY.read_bytes())).hexdigest()
    assert digest in (Path(__file__).parents[3] / 'NOTICE').read_text() and 'plotly.js (basic - minified) v4.1.1' in plotly_script()[:100]


# ---- in a browser


def logged(work_dir, name):
    """A series as it stands in the log file."""
    lines = [json.loads(line) for line in (work_dir / FIRST / 'vis_data' / 'scalars.json').read_text().splitlines()]
    return [[line['step'] for line in lines if name in line], [six_digits(line[name]) for line in lines if name in line]]


def test_on_a_dark_phone_every_chart_is_drawn_with_the_numbers_of_the_log(tmp_path):
    write_training(tmp_path / 'run')
    told = open_in_browser(report_page([read_run(tmp_path / 'run')], [Diagnosis((FINDING,))]), tmp_path, width=390, dark=True)
    assert told['problems'] == []
    charts = {chart['title']: chart for chart in told['charts']}
    assert list(charts) == [*CHARTS, 'matched_ious', 'mAP, NDS and other scores', 'Average precision by class']
    for title, chart in charts.items():
        assert chart['svgs'] >= 1 and chart['lines'] == len(chart['traces']), title
        assert chart['text'] == told['ink'], f'{title}: the labels have to follow the dark page'
    shown = {
        name: [trace['x'], trace['y']]
        for chart in charts.values()
        for name, trace in zip(chart['legend'] or [chart['title']], chart['traces'])
    }
    for name in (
        'loss',
        'loss_heatmap',
        'lr',
        'beta1',
        'grad_norm',
        'loss_scale',
        'skipped_updates',
        'samples_per_sec',
        'memory',
        'matched_ious',
    ):
        assert shown[name] == logged(tmp_path / 'run', name), name
    assert shown['mAP'] == logged(tmp_path / 'run', 'N/mAP') and shown['car'] == logged(tmp_path / 'run', 'N/car_AP_dist_0.5')
    assert told['width'] <= told['window'] == 390, 'the page itself must not scroll sideways'
    assert told['page'] == 'rgb(22, 24, 29)' and told['pictures'] == [40]


def test_on_a_light_desktop_two_runs_are_compared(tmp_path):
    for name, scale in (('a', 1.0), ('b', 0.5)):
        write_training(tmp_path / name, scale)
    records = read_runs([tmp_path / 'a', tmp_path / 'b'])
    told = open_in_browser(report_page(records, [Diagnosis()] * 2), tmp_path, width=1400, dark=False)
    assert told['problems'] == [] and told['page'] == 'rgb(255, 255, 255)'
    losses = told['charts'][0]
    assert losses['legend'] == ['a · loss', 'b · loss'] and losses['lines'] == 2
    assert [losses['traces'][0]['x'], losses['traces'][0]['y']] == logged(tmp_path / 'a', 'loss')
    assert [losses['traces'][1]['x'], losses['traces'][1]['y']] == logged(tmp_path / 'b', 'loss')
    assert all(chart['text'] == told['ink'] for chart in told['charts'])


@pytest.mark.parametrize('count', [1, 3])
@pytest.mark.parametrize('dark', [False, True])
@pytest.mark.parametrize('width', [390, 1280])
def test_nothing_is_cut_or_hidden_at_any_width(three_pages, tmp_path, count, dark, width):
    told = open_in_browser(three_pages[count], tmp_path, width, dark)
    assert told['problems'] == [] and told['width'] <= told['window'] == width
    assert told['page'] == ('rgb(22, 24, 29)' if dark else 'rgb(255, 255, 255)')
    for chart in told['charts']:
        assert chart['cut'] == [] and chart['ticks'], chart['title']
        assert len(chart['legend']) <= 2 * count or count == 1, f'{chart["title"]}: {chart["legend"]}'
    memory = next(chart for chart in told['charts'] if chart['title'] == 'GPU memory')
    assert '20,000' in memory['ticks']
    shown = {title: text for title, text, seen in told['summary'][:7] if seen}
    assert {'final loss', 'mAP', 'NDS'} <= set(shown) and shown['mAP'] == shown['NDS'] == '0.685'
    assert told['opened'] == ['7, token c0ffee', 900], 'a picture opens at its full size'
