"""Style and script of the report page. Both are fixed text: nothing from a log or a config goes into them."""

from __future__ import annotations

DARK_BACKGROUND = '#16181d'
LIGHT_BACKGROUND = '#ffffff'

CSS = f"""
:root {{ color-scheme: light dark; --page: {LIGHT_BACKGROUND}; --ink: #1c1f24; --soft: #5d6672; --grid: #dfe3e8; --card: #f6f7f9;
  --error: #b42318; --warning: #8a5a00; --info: #1f5fa8; }}
@media (prefers-color-scheme: dark) {{
  :root {{ --page: {DARK_BACKGROUND}; --ink: #e6e8eb; --soft: #a0a8b3; --grid: #343942; --card: #1f2229; --error: #ff8a7a;
    --warning: #f0b94d; --info: #7db4f5; }} }}
* {{ box-sizing: border-box; }}
body {{ margin: 0; background: var(--page); color: var(--ink); font: 15px/1.5 system-ui, sans-serif; }}
main {{ max-width: 1500px; margin: 0 auto; padding: 12px 16px 48px; }}
h1 {{ font-size: 1.5rem; margin: .4em 0 .1em; overflow-wrap: anywhere; }}
h2 {{ font-size: 1.15rem; margin: 1.8em 0 .5em; }}
h3 {{ font-size: 1rem; margin: .3em 0; overflow-wrap: anywhere; }}
a {{ color: var(--info); overflow-wrap: anywhere; }}
.soft {{ color: var(--soft); }}
.charts {{ display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 560px), 1fr)); gap: 12px; }}
.card {{ background: var(--card); border-radius: 8px; padding: 10px 12px; min-width: 0; }}
.card p {{ margin: .2em 0; font-size: .87rem; overflow-wrap: anywhere; }} .card p:not(.soft) {{ color: var(--warning); }}
.scroll {{ overflow-x: auto; }}
table {{ border-collapse: collapse; font-size: .9rem; }}
caption {{ text-align: left; color: var(--soft); padding: .2em 0; }}
th, td {{ border-bottom: 1px solid var(--grid); padding: 4px 12px 4px 0; text-align: left; vertical-align: top; }}
th {{ color: var(--soft); font-weight: 600; white-space: nowrap; }}
td.number {{ text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }}
.summary td {{ white-space: nowrap; }}
.tables {{ display: flex; flex-wrap: wrap; gap: 12px 40px; align-items: flex-start; margin: 12px 0; }}
.tables > * {{ max-width: 100%; }}
@media (max-width: 640px) {{
  .summary, .summary tbody, .summary tr {{ display: block; }}
  .summary thead {{ display: none; }}
  .summary tr {{ background: var(--card); border-radius: 8px; padding: 6px 12px; margin: 8px 0; }}
  .summary td {{ display: flex; justify-content: space-between; gap: 16px; padding: 4px 0; white-space: normal; }}
  .summary td:last-child {{ border-bottom: 0; }}
  .summary td::before {{ content: attr(data-title); color: var(--soft); }}
}}
td.error, td.warning, td.info {{ font-weight: 600; }}
.error {{ color: var(--error); }} .warning {{ color: var(--warning); }} .info {{ color: var(--info); }}
.findings td {{ min-width: 6em; }} .findings td:nth-child(3), .findings td:nth-child(4),
.findings td:nth-child(5) {{ min-width: 14em; }}
.alarm {{ border: 2px solid var(--error); border-radius: 8px; padding: 8px 14px; margin: 12px 0; }}
.alarm h2 {{ margin: .2em 0; color: var(--error); }}
pre {{ overflow-x: auto; background: var(--card); border-radius: 8px; padding: 10px 12px; font-size: .8rem; }}
summary {{ cursor: pointer; }}
.pictures {{ display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 480px), 1fr)); gap: 12px; }}
figure {{ margin: 0; }} figure img {{ width: 100%; height: auto; border-radius: 6px; background: #ffffff; }}
.picture {{ display: block; width: 100%; padding: 0; border: 0; background: none; cursor: zoom-in; }}
dialog {{ width: 100vw; height: 100vh; max-width: none; max-height: none; margin: 0; border: 0; padding: 12px; overflow: auto;
  background: var(--page); color: var(--ink); cursor: zoom-out; }}
dialog img {{ background: #ffffff; }}
figcaption {{ color: var(--soft); font-size: .87rem; overflow-wrap: anywhere; }}
"""

# Draws every chart in the colours of the page, again when these change. A finger scrolls the page and does not zoom the chart.
# A click on a picture opens it at its full size, another one or Escape closes it.
SCRIPT = """
const charts = JSON.parse(document.getElementById('charts').textContent);
const dark = window.matchMedia('(prefers-color-scheme: dark)');
const BUTTONS = [['toImage', 'zoom2d', 'pan2d', 'resetScale2d']];
const touch = window.matchMedia('(pointer: coarse)').matches;
function coloured(layout) {
  const style = getComputedStyle(document.documentElement);
  const colour = name => style.getPropertyValue(name).trim();
  const copy = JSON.parse(JSON.stringify(layout));
  copy.paper_bgcolor = copy.plot_bgcolor = 'rgba(0,0,0,0)';
  copy.font = {color: colour('--ink'), size: 12};
  copy.hoverlabel = {bgcolor: colour('--page'), bordercolor: colour('--grid'), font: {color: colour('--ink')}, namelength: -1};
  copy.modebar = {bgcolor: 'rgba(0,0,0,0)', color: colour('--soft'), activecolor: colour('--ink')};
  copy.dragmode = touch ? false : 'zoom';
  for (const axis of ['xaxis', 'yaxis', 'yaxis2'])
    if (copy[axis]) Object.assign(copy[axis], {gridcolor: colour('--grid'), zerolinecolor: colour('--grid'),
                                               linecolor: colour('--grid')});
  return copy;
}
function draw() {
  charts.forEach((chart, index) => Plotly.react(`chart-${index}`, chart.data, coloured(chart.layout),
                                                {responsive: true, displaylogo: false, modeBarButtons: BUTTONS}));
}
const large = document.getElementById('large');
for (const button of document.querySelectorAll('.picture'))
  button.addEventListener('click', () => {
    large.replaceChildren(button.nextElementSibling.cloneNode(true), button.firstElementChild.cloneNode());
    large.showModal();
  });
large.addEventListener('click', () => large.close());
draw();
dark.addEventListener('change', draw);
"""
