import math
import re

import pytest
from written_runs import ENVIRONMENT, PLAN, step, validation, write_run

from bevfusion_plugin.doctor.finding import Finding
from bevfusion_plugin.visualization.report.run_record import Diagnosis, read_run
from bevfusion_plugin.visualization.report.tables import (
    alarm,
    comparison_tables,
    diagnosis_table,
    evaluation_table,
    past_divergence,
    plan_rows_table,
    summary_table,
    table,
    checkpoint_tests_table,
)
from bevfusion_plugin.visualization.test_scores import write_test_scores

FIRST = '20250101_000000'


def plain(found):
    """The table without the titles that its cells carry."""
    return re.sub(' data-title="[^"]*"', '', found)


def record(work_dir, lines, **settings):
    write_run(work_dir, FIRST, lines, **settings)
    return read_run(work_dir)


@pytest.mark.parametrize(
    'value, shown',
    [
        (0.6852, ' class=number>0.685'),
        (7724, ' class=number>7,724'),
        (0.00012345, ' class=number>0.000123'),
        (15.26, ' class=number>15.3'),
        (0.7, ' class=number>0.700'),
        (120.4, ' class=number>120'),
        (12345.6, ' class=number>12,346'),
        (math.nan, ' class=number>–'),
        (None, '>–'),
        (True, '>True'),
        ('<i>&', '>&lt;i&gt;&amp;'),
    ],
)
def test_a_cell_shows_three_digits_and_its_columns_title_escaped(value, shown):
    assert f'<td data-title="a&quot;"{shown}</td>' in table(['a"'], [[value]])


def test_every_part_of_a_table_is_escaped():
    assert '<x' not in table(['<x1'], [['<x2']], caption='<x3', kind='<x4').replace('<tr', '')


def test_the_summary_has_a_row_a_run(tmp_path):
    found = plain(
        summary_table(
            [record(tmp_path / name, [step(50, loss=loss), validation(1, mAP=0.68, NDS=0.71)]) for name, loss in (('a', 1.25), ('b', 2.5))]
        )
    )
    assert found.count('<tr>') == 3
    assert '<td>a</td><td class=number>50</td><td class=number>25</td><td>4 x 3 x A2 = 24</td><td class=number>1.25</td>' in found
    assert found.count('<td class=number>0.680</td><td class=number>0.710</td>') == 2


def test_the_table_of_the_last_validation_has_every_metric(tmp_path):
    lines = [
        step(50, loss=1.0),
        validation(1, mAP=0.111),
        step(100, loss=1.0),
        validation(
            2,
            **{
                'N/mAP': 0.686,
                'N/mATE': 0.29,
                'N/car_AP_dist_0.5': 0.7,
                'N/car_AP_dist_1.0': 0.8,
                'N/car_trans_err': 0.19,
                'N/bus_AP_dist_0.5': 0.6,
            },
        ),
    ]
    found = plain(evaluation_table(record(tmp_path, lines)))
    for name, value in (('mAP', '0.686'), ('mATE', '0.290')):
        assert f'<td>{name}</td><td class=number>{value}</td>' in found
    cells = '</td><td class=number>'.join(['<td>car', '0.750', '0.700', '0.800', '0.190'])
    assert cells in found and '<th scope="col">AP@1.0</th>' in found
    assert '<td>bus</td><td class=number>0.600</td><td class=number>0.600</td><td>–</td><td>–</td>' in found
    assert '0.111' not in found and 'Validation 2, step 2' in found


def test_a_run_without_a_validation_says_so(tmp_path):
    assert 'no validation yet' in evaluation_table(record(tmp_path, [step(50, loss=1.0)]))


def test_tests_without_a_sensor_stand_beside_the_one_with_all(tmp_path):
    for condition, scores in (('all sensors', dict(mAP=0.68, NDS=0.71)), ('without camera', dict(mAP=0.64, NDS=0.69))):
        write_test_scores(tmp_path, condition, 'epoch_6.pth', {f'N/{name}': value for name, value in scores.items()})
    runs = [record(tmp_path, [step(50, loss=1.0)])]
    found = plain(checkpoint_tests_table(runs))
    assert '<td>all sensors</td><td class=number>0.680</td><td class=number>0.710</td><td>epoch_6.pth</td>' in found
    assert '<td>without camera</td><td class=number>0.640</td><td class=number>0.690</td>' in found


def test_runs_stand_beside_each_other_class_by_class(tmp_path):
    scores = dict(
        a={'N/mAP': 0.5, 'N/mATE': 0.31234, 'N/car_AP_dist_0.5': 0.81234, 'N/bus_AP_dist_0.5': math.nan}, b={'N/car_AP_dist_0.5': 0.7}
    )
    runs = [record(tmp_path / name, [step(50, loss=1.0, loss_heatmap=0.25), validation(1, **values)]) for name, values in scores.items()]
    found = plain(comparison_tables([*runs, record(tmp_path / 'c', [step(50, loss=2.0)])]))
    for row in (
        ('mAP', '0.500', '–', '–'),
        ('mATE', '0.312', '–', '–'),
        ('car', '0.812', '0.700', '–'),
        ('bus', '–', '–', '–'),
        ('loss', '1.00', '1.00', '2.00'),
        ('loss_heatmap', '0.250', '0.250', '–'),
    ):
        cells = re.escape(f'<td>{row[0]}</td>') + ''.join(f'<td(?: class=number)?>{re.escape(cell)}</td>' for cell in row[1:])
        assert re.search(cells, found), row
    assert found.count('<th scope="col">a</th><th scope="col">b</th><th scope="col">c</th>') == 3 and 'nan' not in found


def test_a_loss_that_is_not_finite_is_said_in_words(tmp_path):
    found = summary_table([record(tmp_path, [step(50, loss=math.nan)])])
    assert '>not finite</td>' in found and '>nan<' not in found


def test_the_plan_says_where_it_is_from(tmp_path):
    lines = [step(50, loss=1.0)]
    logged = plan_rows_table(record(tmp_path, lines, text=ENVIRONMENT.format(ranks=4) + PLAN))
    assert '4 x 2 x A4 = 32' in logged and 'as the run logged it' in logged
    derived = plan_rows_table(record(tmp_path, lines))
    assert '4 x 3 x A2 = 24' in derived and 'from its config' in derived
    unknown = plan_rows_table(record(tmp_path / 'bare', lines, config=None))
    assert 'Not known: the run stored no config' in unknown


def test_findings_show_what_is_wrong_the_mend_and_the_evidence_as_a_link():
    finding = Finding('lr-<unscaled>', 'error', 'LR & batch', 'set <it>', 'see https://example.org/issues/7?a=1&b=2 for <more>')
    found = plain(diagnosis_table(Diagnosis((finding,))))
    assert '<td class="error">error</td><td>lr-&lt;unscaled&gt;</td><td>LR &amp; batch</td><td>set &lt;it&gt;</td>' in found
    link = 'https://example.org/issues/7?a=1&amp;b=2'
    assert f'<td>see <a href="{link}" rel="noopener noreferrer">{link}</a> for &lt;more&gt;</td>' in found


def test_evidence_that_is_no_web_address_is_no_link():
    assert '<a' not in diagnosis_table(Diagnosis((Finding('x', 'info', 'm', 'm', 'javascript:alert(1)'),)))


def test_no_findings_and_no_doctor_are_told_apart():
    assert 'finds nothing wrong' in diagnosis_table(Diagnosis())
    assert 'no &lt;config&gt;' in diagnosis_table(Diagnosis(problem='no <config>'))


def test_the_alarm_tells_what_the_sentinel_saw():
    found = plain(
        alarm(
            'run <a>',
            dict(
                update=1234,
                reasons=['loss is <twice> its median'],
                values=dict(loss=8.5, grad_norm='nan'),
                checkpoint='work_dirs/last_good_epoch_4.pth',
            ),
        )
    )
    for part in (
        'run &lt;a&gt; diverged at update 1,234',
        '<li>loss is &lt;twice&gt; its median</li>',
        '<td>loss</td><td class=number>8.50</td>',
        '<td>grad_norm</td><td>not finite</td>',
        '<code>work_dirs/last_good_epoch_4.pth</code>',
    ):
        assert part in found


def test_an_alarm_by_one_rule_alone_does_not_say_that_the_run_diverged():
    found = alarm('a', dict(update=9, lost=False, reasons=['loss rose']))
    assert 'a left its usual range at update 9' in found and 'role="alert"' in found and 'diverged' not in found


def test_a_divergence_that_is_over_is_history_and_no_alarm():
    found = past_divergence('run <a>', dict(update=1234, lost=True, reasons=['loss rose'], over=1500))
    assert '<summary>run &lt;a&gt; diverged at update 1,234; over since update 1,500</summary>' in found
    assert '<li>loss rose</li>' in found and 'alarm' not in found and 'alert' not in found


def test_an_alarm_with_less_in_it_is_shown_all_the_same():
    assert 'diverged at update –' in alarm('a', {}) and 'checkpoint' not in alarm('a', dict(checkpoint=None))
