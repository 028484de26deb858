import io

import pytest
from rich.console import Console

from bevfusion_plugin.visualization.log_progress import LoggedStep, draw_progress, read_step

HEAD = '11/22 08:05:30 - mmengine - INFO - '
TRAINING = HEAD + (
    'Epoch(train)  [2][170/320]  base_lr: 1.0326e-03 lr: 1.0326e-03  eta: 0:03:53  time: 2.6988  data_time: 0.0264  '
    'grad_norm: 3.2  loss: 2.8123  loss_heatmap: 1.1'
)


@pytest.mark.parametrize(
    'line, step',
    [
        (TRAINING, LoggedStep('training, epoch 2', 170, 320, 'loss 2.8123, training ends in 0:03:53')),
        (
            HEAD + 'Epoch(train) [1][ 10/320]  eta: 1 day, 2:03:04  time: 0.1',
            LoggedStep('training, epoch 1', 10, 320, 'training ends in 1 day, 2:03:04'),
        ),
        (HEAD + 'Iter(train) [  50/4000]  loss: nan', LoggedStep('training', 50, 4000, 'loss nan')),
        (HEAD + 'Epoch(val) [3][10/16]    eta: 0:00:02  time: 0.4', LoggedStep('evaluation', 10, 16, '')),
        (HEAD + 'Epoch(val) [3][16/16]    NuScenes metric/mAP: 0.4', LoggedStep('evaluation', 16, 16, '')),
        (HEAD + 'Saving checkpoint at 1 epochs', None),
        ('', None),
    ],
)
def test_logged_lines_say_how_far_the_run_is(line, step):
    assert read_step(line) == step


def test_every_phase_gets_a_bar_and_no_line_is_lost():
    screen = io.StringIO()
    lines = ['loading', HEAD + 'Epoch(train) [1][320/320]  loss: 2.5', TRAINING, HEAD + 'Epoch(val) [3][16/16]  time: 0.4']
    assert draw_progress(iter(lines), Console(file=screen, force_terminal=True, width=120)) == lines
    for text in ('training, epoch 1', '320/320', 'training, epoch 2', '170/320', 'loss 2.8123', 'evaluation', '16/16'):
        assert text in screen.getvalue()
