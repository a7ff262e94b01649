#!/usr/bin/env python3
"""Records a login as an animated picture: python3 tests/tools/record_demo.py [FILE]

The script runs in the stand-in for a-Shell, at a terminal of 40 columns, and a person picks a server and signs in. What
their screen shows is noted when it comes, and becomes .pictures/demo.svg: at the speed that it had, but for what
the person takes, which is cut to PERSON seconds. Where animation is off, the picture shows the end.
"""

import argparse
import html
import pathlib
import re
import sys
import tempfile
import textwrap
import threading
import time

TESTS = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(TESTS))

import environment  # noqa: E402

PICTURE = TESTS.parent / '.pictures' / 'demo.svg'
PERSON, LINGER = 2.0, 8.0       # seconds that a person takes for a step, and that the end stays
COLUMNS, LINE, MARGIN, WIDTH = 40, 17, 14, 360
TYPED = '1'                     # the server's number in the menu
SAFARI = '(Safari: sign in, and come back)'

TEMPLATE = """\
<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}"
     role="img" aria-labelledby="title desc">
  <title id="title">Recording of a login</title>
  <desc id="desc">What a phone's screen of {columns} columns shows, from the menu to signed in, at its own speed.</desc>
  <style>
    rect {{ fill: #fbfaf7 }}
    text {{ fill: #1f2933; white-space: pre;
           font: 12px ui-monospace, SFMono-Regular, Menlo, "DejaVu Sans Mono", Consolas, monospace }}
    .address {{ fill: #5b5648 }}
    .person {{ fill: #0b5f58; font-weight: 600 }}
    @media (prefers-color-scheme: dark) {{
      rect {{ fill: #16191d }}
      text {{ fill: #e8e6e1 }}
      .address {{ fill: #b5b0a4 }}
      .person {{ fill: #2dd4bf }}
    }}
{animations}
    @media (prefers-reduced-motion: reduce) {{ text {{ animation: none !important }} }}
  </style>
  <rect width="{width}" height="{height}" rx="14"/>
{lines}
</svg>
"""


def record():
    """[(seconds since the start, kind, line)] of a login, as its person sees it."""
    from embedded import EmbeddedServer
    from harness import Browser
    from test_phones import APPS, Handset
    from waiting import until
    with tempfile.TemporaryDirectory() as folder, EmbeddedServer() as server:
        handset = Handset(pathlib.Path(folder), APPS['a-Shell']())
        handset.variables['COLUMNS'] = str(COLUMNS)
        try:
            handset.know(server).configure('work', server=server)
            begun, seen, over = time.monotonic(), [], threading.Event()
            script = handset.start()

            def watch():
                while not over.is_set():
                    lines = script.screen.replace('\r', '').split('\n')
                    seen.extend((time.monotonic(), line) for line in lines[len(seen):-1])
                    over.wait(0.002)
                seen.extend((time.monotonic(), line) for line in script.screen.replace('\r', '').split('\n')[len(seen):])
            watcher = threading.Thread(target=watch)
            watcher.start()
            script.answer('Number', TYPED)
            picked = time.monotonic()
            page = handset.sign_in_page(script)
            until(lambda: any('paste its' in line for _, line in seen), 'the last line before the person leaves')
            left = time.monotonic()
            answered = Browser(page).sign_in().status == 200
            status = script.wait()
            over.set()
            watcher.join()
        finally:
            handset.close()
    if status or not answered:
        sys.exit('The login failed:\n' + script.report())
    shown, moved = [(0.0, 'person', '$ codex_login')], False
    for moment, line in seen:
        late = (PERSON if moment >= picked else 0.0) + (PERSON if moment > left else 0.0)
        if moment > left and not moved:
            shown.append((left - begun + PERSON, 'person', SAFARI))
            moved = True
        shown.append((moment - begun + late, 'address' if line.startswith('https:') else 'line', line))
    while not shown[-1][2]:
        shown.pop()
    return shown


def folded(kind, line):
    """A line as a phone's terminal breaks it: in the middle of an address, too. (The script folds all else.)"""
    return [line[at:at + COLUMNS] for at in range(0, len(line), COLUMNS)] if kind == 'address' else textwrap.wrap(line, COLUMNS + 5) or ['']


def picture(recorded):
    """The recording as SVG."""
    length = recorded[-1][0] + LINGER
    animations, lines, y = {}, [], MARGIN
    for moment, kind, line in recorded:
        share = round(100 * moment / length, 2)
        name = animations.setdefault(share, f'at{len(animations)}')
        for piece in folded(kind, line):
            y += LINE
            if piece:
                lines.append(f'  <text class="{name} {kind}" x="{MARGIN}" y="{y - 4}" xml:space="preserve">{html.escape(piece)}</text>')
    rules = [f'    @keyframes {name} {{ 0% {{ opacity: 0 }} {share}%, 100% {{ opacity: 1 }} }}\n'
             f'    .{name} {{ animation: {name} {length:.1f}s step-end infinite }}'
             for share, name in animations.items() if share]
    return TEMPLATE.format(width=WIDTH, height=y + MARGIN, columns=COLUMNS, animations='\n'.join(rules), lines='\n'.join(lines))


def said(svg):
    """The lines of a recording that are the same each time."""
    return re.findall(r' (?:line|person)" [^>]*>([^<]+)', svg)


def main():
    """Record, and write the picture."""
    parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
    parser.add_argument('file', nargs='?', type=pathlib.Path, default=PICTURE)
    file = parser.parse_args().file
    file.write_text(picture(record()), encoding='utf-8')
    print(f'Written: {file}')


if __name__ == '__main__':
    environment.ensure()
    main()
