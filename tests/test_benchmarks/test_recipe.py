"""benchmarks/recipe.py without training: configs, records, verdicts, and the page of the runs that are in the repository."""

import json
import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

ROOT = Path(__file__).parents[2]
sys.path.append(str(ROOT / 'benchmarks'))

import recipe  # noqa: E402
from batch_study import figure, page, records, scores, statements, variants  # noqa: E402
from batch_study.records import Record, Run  # noqa: E402
from batch_study.variants import BY_LETTER, EPOCH_SAMPLES, SWEEP, VARIANTS  # noqa: E402


def made_up(letter='a', lr=2e-3, seed=0, score=0.3, loss=2.0):
    """A record of a run that nobody made."""
    variant = BY_LETTER[letter]
    losses = [loss] * (variant.epochs * EPOCH_SAMPLES // variants.LOGGED_SAMPLES)
    found = {str(epoch): dict(mAP=score, NDS=score) for epoch in records.scored_epochs(variant)}
    return Record(letter, lr, seed, {}, '2026-01-02', 'abc1234', 'torch 2, x86_64 CPU, float32', losses, found, dict(mAP=score, NDS=score))


def whole_study(**scores):
    """Three seeds of every recipe and the sweep; ``scores`` gives some recipes another mAP."""
    sweep = [made_up(lr=lr, score=0.3 if lr == 2e-3 else 0.2) for lr in SWEEP]
    rest = [
        made_up(variant.letter, seed=seed, score=scores.get(variant.letter, 0.3) + 0.001 * seed)
        for variant in VARIANTS
        for seed in range(3)
    ]
    return sweep + [record for record in rest if (record.letter, record.seed) != ('a', 0)]


# ---- the configs


@pytest.mark.parametrize(
    'letter, batch, lr_factor',
    [('a', 8, None), ('b', 2, None), ('c', 2, 'linear'), ('e', 8, None), ('f', 24, None), ('g', 24, 'sqrt'), ('m', 8, None)],
)
def test_a_recipe_is_the_reference_but_for_what_it_names(letter, batch, lr_factor):
    cfg = variants.recipe_config(BY_LETTER[letter], 'data', 2e-3)
    assert cfg.train_dataloader.batch_size * cfg.optim_wrapper.accumulative_counts == batch == BY_LETTER[letter].batch
    assert cfg.auto_scale_lr.enable == (lr_factor is not None) and cfg.auto_scale_lr.rule == (lr_factor or 'linear')
    assert cfg.auto_scale_lr.base_batch_size == 8 and cfg.optim_wrapper.optimizer.lr == 2e-3
    assert cfg.train_cfg.max_epochs == cfg.param_scheduler[0]['end'] == 6


def test_eight_epochs_stretch_the_schedule_and_the_stock_one_ends_before_its_training():
    longer, late = (variants.recipe_config(BY_LETTER[letter], 'data', 2e-3) for letter in 'ik')
    assert longer.train_cfg.max_epochs == longer.param_scheduler[0]['end'] == 8
    assert late.train_cfg.max_epochs == 10 and max(step['end'] for step in late.param_scheduler if step.get('by_epoch')) == 6
    assert late.optim_wrapper.type == 'OptimWrapper' and late.custom_hooks == []


def test_every_recipe_sees_forty_scenes_and_at_least_six_times_the_samples_of_the_first_experiment():
    for variant in VARIANTS:
        dataset = variants.recipe_config(variant, 'data', 2e-3).train_dataloader.dataset
        assert [one.data_root for one in dataset.dataset.datasets] == [f'data/{folder}' for folder in range(5)]
        assert dataset.times * 5 * 64 == EPOCH_SAMPLES and variant.epochs * EPOCH_SAMPLES >= 6 * 1152


@pytest.mark.parametrize('letter', [variant.letter for variant in VARIANTS])
def test_updates_are_those_of_windows_that_end_with_the_epoch(letter):
    variant = BY_LETTER[letter]
    batches = EPOCH_SAMPLES // variant.samples
    assert variant.updates(6 * EPOCH_SAMPLES) == 6 * math.ceil(batches / variant.accumulate)
    assert EPOCH_SAMPLES % variant.samples == variants.LOGGED_SAMPLES % variant.samples == 0


@pytest.mark.parametrize('letter', [variant.letter for variant in VARIANTS])
def test_a_line_is_logged_after_as_many_micro_batches_in_every_recipe(letter):
    cfg = variants.recipe_config(BY_LETTER[letter], 'data', 2e-3)
    logger = cfg.default_hooks.logger
    counts_updates = logger.type == 'bevfusion_plugin.LoggerHook' and cfg.optim_wrapper.type.startswith('bevfusion_plugin.')
    assert not (counts_updates and cfg.optim_wrapper.accumulative_counts > 1)
    assert (
        logger.interval * cfg.train_dataloader.batch_size
        == variants.LOGGED_SAMPLES
        == cfg.log_processor.window_size * BY_LETTER[letter].samples
    )


def test_no_camera_is_asked_for():
    for dataset in (
        variants.base_config('data', 1e-3).val_dataloader.dataset,
        *variants.base_config('data', 1e-3).train_dataloader.dataset.dataset.datasets,
    ):
        (check,) = (step for step in dataset.pipeline if step['type'].endswith('CheckSample'))
        assert check['cameras'] == [] and not dataset.modality.use_camera


def test_the_hash_of_a_config_is_of_the_recipe_and_not_of_the_folder():
    one, other = (variants.config_in_brief(BY_LETTER[letter], 2e-3) for letter in 'ae')
    assert one == variants.config_in_brief(BY_LETTER['a'], 2e-3) and len(one['sha256']) == 64
    assert one['sha256'] != other['sha256'] and (one['samples'], other['samples'], other['accumulate']) == (8, 2, 4)


# ---- the runs


def test_the_sweep_comes_first_then_one_seed_of_everything_after_the_other():
    assert [(run.letter, run.seed) for run in recipe.sweep()] == [('a', 0)] * len(SWEEP) and {run.lr for run in recipe.sweep()} == set(
        SWEEP
    )
    runs = recipe.comparison(4e-3)
    assert [run.seed for run in runs] == sorted(run.seed for run in runs) and len(runs) == 3 * len(VARIANTS)
    assert {run.path for run in recipe.sweep()} & {run.path for run in runs} == {Run('a', 4e-3, 0).path}, 'which is not trained twice'
    assert ''.join(run.letter for run in runs[:13]) == 'abcdefghijlmk', 'k goes on with what j left'


@pytest.fixture
def logged():
    """Losses that a run leaves."""
    return 48


@pytest.fixture
def study(tmp_path, monkeypatch, logged):
    """A study with records in a folder of its own and no training; the names of the runs it was asked for."""
    asked = []

    def train(args, folder, *command):
        asked.append((folder.name, 'train' if 'train.py' in command[0] else 'score'))
        log = folder / '20260102_030405' / 'vis_data' / 'scalars.json'
        log.parent.mkdir(parents=True, exist_ok=True)
        log.write_text('\n'.join(json.dumps(dict(step=20 * line, loss=3.0 - 0.01 * line)) for line in range(1, logged + 1)))
        (folder / scores.SCORES).write_text(json.dumps(dict(epochs={'6': dict(mAP=0.3, NDS=0.3)}, renewed=dict(mAP=0.3, NDS=0.3))))

    monkeypatch.setattr(records, 'RECORDS', tmp_path / 'records')
    monkeypatch.setattr(recipe, 'call', train)
    args = recipe.parse_args(['--work-dir', str(tmp_path / 'runs'), '--data', str(tmp_path / 'data'), '--jobs', '1'])
    return args, asked


def test_a_finished_run_leaves_a_record_and_is_not_trained_again(study):
    args, asked = study
    run = Run('a', 2e-3, 0)
    assert recipe.train_all(args, [run]) == [] and asked == [(run.name, 'train')]
    record = Record(**json.loads(run.path.read_text()))
    assert (
        record.loss[:2] == [2.99, 2.98]
        and len(record.loss) == 48
        and record.begun == '2026-01-02'
        and record.final == dict(mAP=0.3, NDS=0.3)
    )
    assert recipe.train_all(args, [run]) == [] and len(asked) == 1


@pytest.mark.parametrize('logged', [12])
def test_a_run_whose_log_has_gaps_leaves_no_record(study):
    args, _ = study
    (failure,) = recipe.train_all(args, [Run('e', 2e-3, 0)])
    assert 'logged 12 losses, and 48 are due' in failure and not Run('e', 2e-3, 0).path.exists()


def test_an_interrupted_run_goes_on_with_the_config_it_began_with(study):
    args, asked = study
    folder = recipe.begin(args, Run('e', 2e-3, 1))
    (folder / 'config.py').write_text('changed = 1\n')
    assert recipe.begin(args, Run('e', 2e-3, 1)) == folder and (folder / 'config.py').read_text() == 'changed = 1\n'
    (folder / 'finished').touch()
    assert recipe.train_all(args, [Run('e', 2e-3, 1)]) == [] and asked == [(folder.name, 'score')], 'trained already, scored now'


def test_the_schedule_past_its_end_goes_on_where_the_usual_one_ended(study):
    args, _ = study
    alone = recipe.begin(args, Run('k', 4e-3, 0))
    assert sorted(path.name for path in alone.iterdir()) == ['commit', 'config.py'], 'nothing to go on with'
    earlier = recipe.begin(args, Run('j', 2e-3, 0))
    for name in ('epoch_6.pth', 'last_checkpoint', 'finished', scores.SCORES):
        (earlier / name).touch()
    continued = recipe.begin(args, Run('k', 2e-3, 0))
    assert sorted(path.name for path in continued.iterdir()) == ['commit', 'config.py', 'epoch_6.pth', 'last_checkpoint']
    assert 'max_epochs=10' in (continued / 'config.py').read_text()


def test_j_and_k_are_one_training_up_to_the_end_of_the_schedule():
    usual, late = (variants.recipe_config(BY_LETTER[letter], 'data', 2e-3).to_dict() for letter in 'jk')
    for one in (usual, late):
        del one['train_cfg']
    assert usual == late


def test_a_failed_run_is_named_and_the_others_go_on(study, monkeypatch):
    args, _ = study
    done = recipe.call

    def fail(args, folder, *command):
        if folder.name.startswith('b'):
            raise RuntimeError('train.py left b')
        done(args, folder, *command)

    monkeypatch.setattr(recipe, 'call', fail)
    assert recipe.train_all(args, [Run('b', 2e-3, 0), Run('a', 2e-3, 0)]) == ['train.py left b'] and Run('a', 2e-3, 0).path.exists()


def test_pieces_of_a_run_are_joined_and_a_replayed_step_counts_once(tmp_path):
    for name, lines in {'20260102_000000': [(20, 3.0), (40, 2.5)], '20260102_010000': [(40, 2.4), (60, 2.0)]}.items():
        (tmp_path / name / 'vis_data').mkdir(parents=True)
        (tmp_path / name / 'vis_data' / 'scalars.json').write_text('\n'.join(json.dumps(dict(step=s, loss=loss)) for s, loss in lines))
    assert records.losses(tmp_path) == [3.0, 2.4, 2.0]


def test_renewed_statistics_are_the_mean_of_the_batches():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm = nn.BatchNorm1d(1)

        def data_preprocessor(self, batch, training):
            return batch

        def forward(self, x, mode):
            return self.norm(x)

    model = Model()
    scores.renew_norms(model, [dict(x=torch.tensor([[0.0], [2.0]])), dict(x=torch.tensor([[4.0], [6.0]]))])
    assert model.norm.running_mean.item() == pytest.approx(3.0) and model.norm.running_var.item() == pytest.approx(2.0)


# ---- what the page says


@pytest.mark.parametrize(
    'expected, found, error, says',
    [
        ('lower', -0.03, 0.01, 'holds'),
        ('lower', -0.01, 0.01, 'open'),
        ('lower', 0.03, 0.01, 'does not hold'),
        ('higher', 0.03, 0.01, 'holds'),
        ('higher', -0.03, 0.01, 'does not hold'),
        ('equal', 0.001, 0.004, 'holds'),
        ('equal', 0.001, 0.02, 'open'),
        ('equal', -0.05, 0.01, 'does not hold'),
        ('equal', 0.03, 0.01, 'open'),
    ],
)
def test_a_verdict_needs_twice_the_standard_error(expected, found, error, says):
    assert statements.verdict(expected, found, error) == says


def test_no_claim_rests_on_one_seed():
    statement = statements.STATEMENTS[0]
    score, loss, verdict = statements.judge(statement, [made_up('a', seed=seed) for seed in range(3)] + [made_up('e')])
    assert score == loss == '' and verdict == 'runs are missing (e: 1, a: 3)'


def test_statements_compare_recipes_that_are_there():
    assert {letter for one in statements.STATEMENTS for letter in (one.own, one.other)} == {variant.letter for variant in VARIANTS}
    assert {one.expected for one in statements.STATEMENTS} == {'lower', 'higher', 'equal'}


def test_a_whole_study_is_judged_and_a_part_of_it_says_what_is_missing():
    text = page.page(whole_study(b=0.1), 3)
    assert 'All runs are there.' in text and '| b to a, expected lower | -0.200 ± 0.001 |' in text
    part = page.page([record for record in whole_study() if record.seed == 0 or record.letter in 'ae'], 3)
    assert '**Runs are missing**: seed 1: b, c, d' in part and 'runs are missing (b: 1, a: 3)' in part


def test_a_study_without_a_run_says_so_and_draws_nothing(tmp_path):
    assert page.write_page(tmp_path, [], 3).read_text().endswith('**No run is finished yet.**\n') and not (tmp_path / 'recipe.png').exists()


def test_an_unfinished_sweep_and_one_whose_best_is_at_its_end_say_so():
    assert 'The sweep is not finished' in page.page([made_up()], 3)
    at_the_end = [made_up(lr=lr, score=lr) for lr in SWEEP]
    assert f'at {max(SWEEP):g}, an end of the sweep' in page.page(at_the_end, 3)


def test_the_last_epochs_loss_is_its_mean():
    record = replace(made_up(), loss=[3.0] * 40 + [1.0, 2.0] * 4)
    assert record.final_loss == 1.5 and record.samples == 7680 and record.updates == 960


def test_colours_are_okabe_and_itos_and_no_line_of_a_panel_shares_one():
    assert len(set(figure.COLOURS)) == len(figure.COLOURS) == len(figure.MARKERS) == len(figure.STYLES)
    for letters in figure.QUESTIONS.values():
        assert letters[0] == 'a' and len({figure.style_of(letter) for letter in letters}) == len(letters)
    assert set(''.join(figure.QUESTIONS.values())) == set(BY_LETTER)
    drawn = figure.figure(whole_study())
    panel = drawn.axes[1]
    assert [line.get_color() for line in panel.lines] == list(figure.COLOURS)
    assert np.array_equal(panel.lines[0].get_xdata()[[0, -1]], [160, 7680]) and drawn.axes[0].lines[1].get_xdata()[-1] == 3840


# ---- the runs that are in the repository


def test_the_page_is_that_of_the_runs_in_the_repository():
    assert (ROOT / 'docs' / 'recipe.md').read_text() == page.page(records.read_records(), recipe.SEEDS), (
        'run benchmarks/recipe.py --page-only'
    )


def test_every_record_lies_where_its_run_looks_for_it_and_is_whole():
    for record in records.read_records():
        assert Run(record.letter, record.lr, record.seed).path.is_file()
        assert len(record.loss) * variants.LOGGED_SAMPLES == record.variant.epochs * EPOCH_SAMPLES
        assert sorted(map(int, record.scores)) == records.scored_epochs(record.variant)


def test_seeds_of_a_recipe_were_trained_with_one_config():
    texts = {}
    for record in records.read_records():
        texts.setdefault((record.letter, record.lr), set()).add(record.config['sha256'])
    assert all(len(hashes) == 1 for hashes in texts.values())


def test_the_page_can_be_made_from_another_folder(tmp_path):
    result = subprocess.run(
        [sys.executable, str(ROOT / 'benchmarks' / 'recipe.py'), '--help'], cwd=tmp_path, capture_output=True, text=True
    )
    assert result.returncode == 0 and '--page-only' in result.stdout
