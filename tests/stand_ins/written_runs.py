"""Work dirs as MMEngine leaves them, written by hand, and a page opened in a real browser."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

CONFIG = """
train_dataloader = dict(batch_size=3, dataset=dict(type='FakeDataset'))
train_cfg = dict(by_epoch=True, max_epochs=6)
optim_wrapper = dict(type='AmpOptimWrapper', accumulative_counts=2, optimizer=dict(type='AdamW', lr=2e-4),
                     clip_grad=dict(max_norm=35, norm_type=2))
auto_scale_lr = dict(enable=False, base_batch_size=32)
"""
ENVIRONMENT = """2025/01/01 00:00:00 - mmengine - INFO - 
------------------------------------------------------------
System environment:
    sys.platform: linux
    GPU 0: <NVIDIA & Co>

Runtime environment:
    Distributed launcher: pytorch
    GPU number: {ranks}
------------------------------------------------------------

2025/01/01 00:00:01 - mmengine - INFO - Config:
"""  # noqa: W291  MMEngine's own blank
PLAN = """2025/01/01 00:00:02 - mmengine - INFO - What an update is:
  ranks                         4
  samples a rank a micro-batch  2
  total batch                   4 x 2 x A4 = 32
2025/01/01 00:00:03 - mmengine - INFO - Checkpoints will be saved to work_dirs.
"""
# titles of the charts of a log that has these values
CHARTS = (
    'Loss terms',
    'Learning rate',
    'beta1 / momentum',
    'Gradient norm',
    'Loss scale and skipped updates',
    'Speed and waiting for data',
    'GPU memory',
)
EPOCHS = '2025/01/01 00:01:00 - mmengine - INFO - Epoch(train)   [1][  50/{length}]  lr: 1.0000e-04  loss: 1.0\n'


def step(number: int, **values: float) -> dict:
    """A line that MMEngine logs while training."""
    return dict(values, time=1.0, epoch=1, iter=number, step=number)


def validation(number: int, **values: float) -> dict:
    """A line that MMEngine logs after a validation."""
    return dict(values, data_time=0.1, time=0.5, step=number)


def write_run(
    work_dir: Path,
    timestamp: str,
    lines: Sequence[dict | str],
    config: str | None = CONFIG,
    text: str = ENVIRONMENT.format(ranks=4),
    name: str = 'vis_data/scalars.json',
) -> Path:
    """A start of a training under ``work_dir``: its scalars, config and text log."""
    run = work_dir / timestamp
    (run / 'vis_data').mkdir(parents=True, exist_ok=True)
    (run / name).write_text('\n'.join(line if isinstance(line, str) else json.dumps(line) for line in lines))
    if config is not None:
        (run / 'vis_data' / 'config.py').write_text(config)
    (run / f'{timestamp}.log').write_text(text)
    return run


def write_picture(path: Path, width: int = 40, height: int = 30, noise: bool = False, token: str = '') -> Path:
    """A PNG, with the token in its text; noise makes it as large as its pixels."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3)) if noise else np.full((height, width, 3), 80)
    text = PngInfo()
    text.add_text('token', token)
    Image.fromarray(pixels.astype(np.uint8)).save(path, pnginfo=text)
    return path


# Collects what goes wrong while the page is loaded, and afterwards tells what was drawn.
WATCH = """<script>
window.problems = [];
window.addEventListener('error', event => problems.push(String(event.message)));
window.addEventListener('unhandledrejection', event => problems.push(String(event.reason)));
document.addEventListener('securitypolicyviolation', event => problems.push(event.violatedDirective + ' ' + event.blockedURI));
for (const level of ['error', 'warn']) {
  const original = console[level];
  console[level] = (...words) => { problems.push(words.join(' ')); original.apply(console, words); };
}
</script>"""
TELL = """<script>
const TICKS = '.xtick text, .ytick text, .y2tick text';
setTimeout(() => {
  const colour = (element, property) => element && getComputedStyle(element)[property];
  const inside = (element, box) => {
    const own = element.getBoundingClientRect();
    return own.height > 0 && own.left >= box.left - 1 && own.right <= box.right + 1;
  };
  const pictures = [...document.images].map(image => image.naturalWidth);
  const open = () => {
    document.querySelector('.picture')?.click();
    return [...document.querySelectorAll('dialog[open] > *')].map(each => each.textContent || each.width);
  };
  const told = {problems, width: document.documentElement.scrollWidth, window: innerWidth,
    page: colour(document.body, 'backgroundColor'), ink: colour(document.body, 'color'),
    pictures, summary: [...document.querySelectorAll('.summary td')].map(cell =>
      [cell.dataset.title, cell.textContent, inside(cell, {left: 0, right: innerWidth})]),
    opened: open(),
    charts: [...document.querySelectorAll('.chart')].map(div => ({
      title: div.parentElement.querySelector('h3').textContent, svgs: div.querySelectorAll('.main-svg').length,
      lines: div.querySelectorAll('.scatterlayer .js-line').length, text: colour(div.querySelector('.xtick text'), 'fill'),
      ticks: [...div.querySelectorAll(TICKS)].map(each => each.textContent),
      cut: [...div.querySelectorAll(TICKS)].filter(each => !inside(each, div.getBoundingClientRect())).map(each => each.textContent),
      legend: [...div.querySelectorAll('.legendtext')].map(each => each.textContent),
      traces: div._fullData.map(trace => ({x: [...trace.x], y: [...trace.y]}))}))};
  parent.postMessage(JSON.stringify(told), '*');
}, 1000);
</script>"""
# Chromium makes no window narrower than 500 pixels, so the page is shown in a frame; what it tells is written below.
FRAME = """<!DOCTYPE html><html style="color-scheme: light dark"><body><script>
window.addEventListener('message', event => {{
  const place = document.createElement('script');
  place.type = 'application/json';
  place.id = 'told';
  place.textContent = event.data;
  document.body.append(place);
}});
</script><iframe src="page.html" style="border: 0; width: {width}px; height: 900px"></iframe></body></html>"""


def open_in_browser(page: str, folder: Path, width: int, dark: bool) -> dict:
    """What headless Chromium made of the page; skips the test where it is not installed.

    Args:
        page: HTML.
        folder: For its files.
        width: That the page has, in pixels.
        dark: Whether the reader prefers a dark page.
    """
    chromium = shutil.which('chromium')
    if chromium is None:
        pytest.skip('needs a browser: `apt-get install chromium`')
    (folder / 'page.html').write_text(page.replace('<head>', f'<head>{WATCH}').replace('</body>', f'{TELL}</body>'), encoding='utf-8')
    frame = folder / 'frame.html'
    frame.write_text(FRAME.format(width=width))
    done = subprocess.run(
        [
            chromium,
            '--headless',
            '--no-sandbox',
            '--disable-gpu',
            f'--user-data-dir={folder / "browser"}',
            '--window-size=1500,950',
            f'--blink-settings=preferredColorScheme={0 if dark else 1}',
            '--enable-logging=stderr',
            '--virtual-time-budget=10000',
            '--dump-dom',
            frame.as_uri(),
        ],
        capture_output=True,
        text=True,
        timeout=120,
    )
    found = re.search(r'<script type="application/json" id="told">(.*?)</script>', done.stdout, re.DOTALL)
    assert found, f'the page did not tell what it drew:\n{done.stderr[-2000:]}'
    told = json.loads(found[1])
    told['problems'] += [line for line in done.stderr.splitlines() if 'CONSOLE' in line]
    return told
