#!/usr/bin/env python3
"""Records the demo as an animated picture: python3 tests/tools/record_demo.py [FILE]

It runs `python3 tests/demo.py`, notes each line when it comes, and writes .pictures/demo.svg: those lines,
folded to a phone's width, each at its time. Only the pace differs, since a login takes less time than reading
about it. Where animation is off, the picture shows the end.
"""

import argparse
import html
import os
import pathlib
import re
import subprocess
import sys
import textwrap
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
PICTURE = ROOT / '.pictures' / 'demo.svg'
COMMAND = 'python3 tests/demo.py'

SLOWER = 20             # times
BEFORE, LINGER = 1.0, 8.0       # seconds for the command alone, and for the end
LIMIT = 120.0           # seconds for the demo
COLUMNS, LINE, MARGIN = 45, 17, 14
WIDTH = 360

TEMPLATE = """\
<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}"
     role="img" aria-labelledby="title desc">
  <title id="title">Recording of the demo</title>
  <desc id="desc">What {command} printed, line by line, {slower} times slower than it was.</desc>
  <style>
    rect {{ fill: #fbfaf7 }}
    text {{ fill: #1f2933; white-space: pre;
           font: 12px ui-monospace, SFMono-Regular, Menlo, "DejaVu Sans Mono", Consolas, monospace }}
    .time {{ fill: #5b5648 }}
    .step {{ fill: #0b5f58; font-weight: 600 }}
    @media (prefers-color-scheme: dark) {{
      rect {{ fill: #16191d }}
      text {{ fill: #e8e6e1 }}
      .time {{ fill: #b5b0a4 }}
      .step {{ fill: #2dd4bf }}
    }}
{animations}
    @media (prefers-reduced-motion: reduce) {{ text {{ animation: none !important }} }}
  </style>
  <rect width="{width}" height="{height}" rx="14"/>
{lines}
</svg>
"""


def record():
    """[(seconds since the first line, line)] of a run of the demo, blank ones at both ends left out."""
    words = [sys.executable, *COMMAND.split()[1:]]
    demo = subprocess.Popen(words, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True,
                            env={**os.environ, 'PYTHONUNBUFFERED': '1'})
    lines, deadline = [], time.monotonic() + LIMIT
    with demo:
        for line in demo.stdout:
            lines.append((time.monotonic(), line.rstrip('\n')))
            if time.monotonic() > deadline:
                demo.kill()
    if demo.returncode:
        sys.exit('The demo failed:\n' + '\n'.join(line for _, line in lines))
    while lines and not lines[-1][1]:
        lines.pop()
    while lines and not lines[0][1]:
        lines.pop(0)
    return [(moment - lines[0][0], line) for moment, line in lines]


def folded(line):
    """A line as lines of COLUMNS at most; what goes on is indented below the first one's words."""
    time_and_gap = re.match(r' *[0-9.]+ s +', line)
    indent = len(time_and_gap[0]) if time_and_gap else len(line) - len(line.lstrip()) + 2
    return textwrap.wrap(line, COLUMNS, subsequent_indent=' ' * indent, break_on_hyphens=False) or ['']


def markup(line):
    """A line's text, with the time and the step that the narrator puts first set apart."""
    parts = re.fullmatch(r'( *[0-9.]+ s  )(\S+(?: \S+)*)(  .*|)', line)
    if not parts:
        return html.escape(line)
    moment, step, rest = map(html.escape, parts.groups())
    return f'<tspan class="time">{moment}</tspan><tspan class="step">{step}</tspan>{rest}'


def picture(recorded):
    """The recording as SVG."""
    shown = [(0.0, f'$ {COMMAND}'), (0.0, '')]
    shown += [(BEFORE + moment * SLOWER, line) for moment, line in recorded]
    length = shown[-1][0] + LINGER
    animations, lines, y = {}, [], MARGIN
    for moment, line in shown:
        share = round(100 * moment / length, 2)
        for piece in folded(line):
            y += LINE
            if piece:
                name = animations.setdefault(share, f'at{len(animations)}')
                lines.append(f'  <text class="{name}" x="{MARGIN}" y="{y - 4}" xml:space="preserve">'
                             f'{markup(piece)}</text>')
    rules = [f'    @keyframes {name} {{ 0% {{ opacity: 0 }} {share}%, 100% {{ opacity: 1 }} }}\n'
             f'    .{name} {{ animation: {name} {length:.1f}s step-end infinite }}'
             for share, name in animations.items() if share]
    return TEMPLATE.format(width=WIDTH, height=y + MARGIN, command=COMMAND, slower=SLOWER,
                           animations='\n'.join(rules), lines='\n'.join(lines))


def main():
    """Record, and write the picture."""
    parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
    parser.add_argument('file', nargs='?', type=pathlib.Path, default=PICTURE)
    file = parser.parse_args().file
    file.write_text(picture(record()), encoding='utf-8')
    print(f'Written: {file}')


if __name__ == '__main__':
    main()
