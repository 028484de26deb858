import pytest
import torch
from gloo_ranks import run_ranks
from mean_losses import two_ranks
from toy_training import OPTIM_WRAPPER, toy_runner

from bevfusion_plugin.engine.hooks.runtime_info_hook import sums_and_counts

OURS = dict(checkpoint=None, runtime_info=dict(type='bevfusion_plugin.RuntimeInfoHook'))


def history(runner, name):
    scalars = runner.message_hub.get_scalar(f'train/{name}').data[0]
    return list(scalars)


@pytest.mark.parametrize('counts', [1, 3])
def test_a_loss_is_logged_once_an_update_as_the_mean_of_its_window(counts, tmp_path):
    runners = []
    for name, hooks in (('ours', OURS), ('stock', dict(checkpoint=None))):
        (tmp_path / name).mkdir()
        runners.append(
            toy_runner(
                tmp_path / name,
                default_hooks=hooks,
                optim_wrapper=dict(OPTIM_WRAPPER, accumulative_counts=counts),
                custom_hooks=[dict(type='bevfusion_plugin.WindowHook')],
            )
        )
        runners[-1].train()
    each = torch.tensor(history(runners[1], 'loss'))
    sizes = [1] * 16 if counts == 1 else [3, 3, 2, 3, 3, 2]
    expected = [window.mean().item() for window in each.split(sizes)]
    assert history(runners[0], 'loss') == pytest.approx(expected, rel=1e-12) and len(each) == 16


def test_a_term_that_a_micro_batch_lacks_does_not_count():
    window = [dict(loss=torch.tensor(2.0), rare=torch.tensor([3.0, 5.0])), dict(loss=torch.tensor(4.0))]
    assert sums_and_counts(window, ['loss', 'rare', 'absent']).tolist() == [[6, 4, 0], [2, 1, 0]]


def test_losses_are_means_over_the_ranks_also_of_a_term_that_one_rank_has():
    one, other = run_ranks(2, two_ranks)
    assert one == other == [dict(loss=2.5, loss_rare=7.0), dict(loss=5.0)]
