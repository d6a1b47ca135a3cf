#!/usr/bin/env python3
"""Records `holdfast demo --once` in a pseudo-terminal as text, and draws the text as an SVG. Long lines are cut there.

usage: record.py            record the demo into demo.txt, then draw demo.svg from it
       record.py --draw     draw demo.svg from demo.txt alone; the same text always gives the same bytes

The binary is the one in HOLDFAST_BIN, or else target/release/holdfast.

Values that differ from run to run (ports, temporary folders, ids, times of day) are replaced in the text. A test compares
the text with the drawing.
"""
import errno
import os
import pty
import re
import sys
from html import escape
from pathlib import Path

HERE = Path(__file__).resolve().parent
TEXT, DRAWING = HERE / "demo.txt", HERE / "demo.svg"
COMMAND = ["holdfast", "demo", "--once"]
BINARY = os.environ.get("HOLDFAST_BIN", str(HERE.parent.parent / "target/release/holdfast"))
COLUMNS, LINE, LETTER, MARGIN, BAR, LOG_LINES = 118, 18, 7.83, 16, 34, 5


def noon(between, point, fraction):
    """A time of day in the form that was found, always the same one."""
    return f"2026-11-29{between}12:00:00" + (point + "0" * len(fraction) if fraction else "")


# Texts that differ from run to run, and their replacements in the recording.
REPLACED = [
    (r"\x1b\[[0-9;?]*[A-Za-z]", ""),
    (r"127\.0\.0\.1:\d+", "127.0.0.1:8092"),
    (r"/\S*/holdfast-demo-\w+", "/tmp/demo"),
    (r"/\S*/holdfast (explain|dev) ", r"holdfast \1 "),
    (r"hello-holdfast-\d{10}", "hello-holdfast-1795953600"),
    (r"\d{4}-\d\d-\d\d([T ])\d\d:\d\d:\d\d(?:([.,])(\d{3,6}))?", lambda m: noon(*m.groups())),
    (r"environments/[0-9a-f]{32}", "environments/6eb54bf2f5f8125fca2747aeba84f312"),
    (r"\b[0-9a-f]{16}\b", "6df44f086f4a4002"),
]


def recorded():
    """The output of the demo on a terminal."""
    child, terminal = pty.fork()
    if child == 0:
        os.environ.update(TERM="dumb", COLUMNS=str(COLUMNS), NO_COLOR="1")
        os.execv(BINARY, COMMAND)
    pieces = []
    while True:
        try:
            piece = os.read(terminal, 65536)
        except OSError as error:  # the terminal's other end is closed
            if error.errno != errno.EIO:
                raise
            break
        if not piece:
            break
        pieces.append(piece)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if status != 0:
        sys.exit(f"the demo ended with {status}:\n" + b"".join(pieces).decode(errors="replace"))
    return b"".join(pieces).decode()


def settled(text):
    """The text as it is on the terminal at the end, without the parts that differ from run to run."""
    for pattern, replacement in REPLACED:
        text = re.sub(pattern, replacement, text)
    lines = [line.rsplit("\r", 1)[-1].rstrip() for line in text.replace("\r\n", "\n").split("\n")]
    return "\n".join(lines).strip() + "\n"


def shortened(lines):
    """The lines without empty ones in a row, and without the beginning of the job's log."""
    log = [number for number, line in enumerate(lines) if line.startswith("  │ ") and line.count("│") == 1 or line == "  │"]
    left_out = set(log[:-LOG_LINES])
    for number, line in enumerate(lines):
        if number in left_out:
            if number == log[0]:
                yield f"  │ ... {len(left_out)} lines ..."
        elif line or lines[number - 1]:
            yield line


def drawing(text):
    """The text as a terminal window."""
    rows = []
    for line in shortened(text.splitlines()):
        kind = "command" if line.startswith("$ ") else "done" if line.startswith("✓") else "log" if line.startswith("  │ ") and line.count("│") == 1 else ""
        rows.append((kind, line if len(line) <= COLUMNS else line[: COLUMNS - 1] + "…"))
    width, height = round(COLUMNS * LETTER + 2 * MARGIN), len(rows) * LINE + BAR + 2 * MARGIN
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}" role="img"'
        ' aria-labelledby="title">',
        '<title id="title">Terminal: holdfast demo --once</title>',
        "<style>text{font:13px ui-monospace,Menlo,Consolas,'DejaVu Sans Mono',monospace;fill:#c9d1d9;white-space:pre}"
        ".command{fill:#79c0ff;font-weight:bold}.log{fill:#8b949e}.done{fill:#7ee787}</style>",
        f'<rect width="{width}" height="{height}" rx="8" fill="#0d1117"/>',
    ]
    out += [f'<circle cx="{20 + 18 * i}" cy="18" r="6" fill="{c}"/>' for i, c in enumerate(["#ff5f57", "#febc2e", "#28c840"])]
    for number, (kind, part) in enumerate(rows):
        if part:
            name = f' class="{kind}"' if kind else ""
            y = BAR + MARGIN + (number + 1) * LINE - 5
            out.append(f'<text{name} x="{MARGIN}" y="{y}" xml:space="preserve">{escape(part, quote=False)}</text>')
    return "\n".join(out) + "\n</svg>\n"


if __name__ == "__main__":
    if "--draw" not in sys.argv:
        TEXT.write_text("$ " + " ".join(COMMAND) + "\n" + settled(recorded()), encoding="utf-8")
    DRAWING.write_text(drawing(TEXT.read_text(encoding="utf-8")), encoding="utf-8")
