"""The command lines that users' scripts rely on: a flag that goes breaks them, so this list only grows."""
import pytest
from tool_loading import TOOLS, load_tool

FLAGS = dict(
    convert_checkpoint={'--from', '--config', '--overwrite', '--json'},
    convert_openpcdet={'--base', '--out'},
    create_synthetic_nuscenes={'--out', '--scenes', '--samples-per-scene', '--seed', '--image-scale', '--sweeps', '--azimuth-steps',
                               '--workers', '--overwrite'},
    demo={'--work-dir', '--cfg-options'},
    doctor={'--gpus', '--resume-from', '--dry-run', '--fix', '--json', '--cfg-options'},
    plan={'--gpus', '--batch-size', '--accumulate', '--total-batch-size', '--base-batch-size', '--rule', '--lr', '--samples',
          '--epochs', '--gpu-memory', '--precision', '--with-cp', '--probe', '--cfg-options', '--json'},
    plot_schedule={'--out', '--gpus', '--samples', '--json', '--cfg-options'},
    prepare_nuscenes={'--version', '--max-sweeps', '--overwrite'},
    report={'--out', '--json'},
    setup_env={'--venv'},
    test={'--work-dir', '--show-dir', '--trial', '--cfg-options', '--launcher', '--local_rank', '--local-rank'},
    train={'--work-dir', '--amp', '--auto-scale-lr', '--resume', '--no-doctor', '--trial', '--seed', '--cfg-options', '--launcher',
           '--local_rank', '--local-rank'})


@pytest.mark.parametrize('name', sorted(path.stem for path in TOOLS.glob('*.py')))
def test_the_flags_of_a_tool_stay(name, monkeypatch):
    seen = []
    monkeypatch.setattr('argparse.ArgumentParser.parse_args', lambda parser, argv=None: seen.append(parser))
    load_tool(name).parse_args([])
    flags = {flag for action in seen[0]._actions for flag in action.option_strings} - {'-h', '--help'}
    assert flags == FLAGS[name], 'a new flag belongs into this list'
