"""report.html: one file with everything in it."""

from __future__ import annotations

import base64
import html
from pathlib import Path

from kfisher_scripts.reproduction.statements import Statement
from kfisher_scripts.reproduction.tables import Table

_STYLE = """
:root { color-scheme: light dark; --text: #1c1e21; --page: #fff; --soft: #5b6169; --line: #dcdfe3;
  --panel: #f5f6f8; --yes: #00684a; --no: #b3261e; }
@media (prefers-color-scheme: dark) { :root { --text: #e4e6e9; --page: #16181b; --soft: #a2a8b0;
  --line: #363a40; --panel: #1f2226; --yes: #58c99b; --no: #ff8a80; } }
body { color: var(--text); background: var(--page); font: 16px/1.55 system-ui, sans-serif;
  max-width: 62rem; margin: 2.5rem auto; padding: 0 1.2rem; }
h1 { font-size: 1.7rem; line-height: 1.25; } h2 { font-size: 1.2rem; margin: 2.8rem 0 .6rem; }
figcaption, .notes { color: var(--soft); font-size: .9rem; }
a { color: inherit; }
img { display: block; max-width: 100%; height: auto; background: #fff; border-radius: 6px;
  border: 1px solid var(--line); }
figure { margin: 1.2rem 0; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: .88rem; width: 100%; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: .35rem .7rem .35rem 0; border-bottom: 1px solid var(--line);
  vertical-align: top; }
th { color: var(--soft); font-weight: 600; }
.verdict { font-weight: 700; white-space: nowrap; } .yes { color: var(--yes); } .no { color: var(--no); }
.note { background: var(--panel); border-left: 3px solid var(--soft); padding: .7rem 1rem;
  border-radius: 4px; }
blockquote { margin: .4rem 0 1rem; padding: 0; font-size: 1.05rem; }
"""


def write(
    path: Path,
    claims: list[Statement],
    figures: dict[str, tuple[Path, str]],
    tables: list[Table],
    notes: list[str],
) -> None:
    """Writes the report.

    Args:
        path: Of the HTML file.
        claims: The statements, in order.
        figures: For each name the PNG and its caption; each is shown once, where it is first named.
        tables: Of measured numbers and references.
        notes: How it was made, a paragraph each.
    """
    left = dict(figures)
    held = sum(claim.holds for claim in claims)
    body = [
        "<h1>Limitations of the empirical Fisher approximation: what holds</h1>",
        "<p>The statements and experiments of Kunstner, Balles and Hennig (NeurIPS 2019, arXiv:1905.12558), "
        "with kfisher's optimizers and operators on Keras models; the grid search and the vector field run "
        "many such optimizers side by side in one program. F is the Fisher matrix, EF the empirical "
        "Fisher; GD is gradient descent, NGD natural gradient descent, and EF as a method is the same step "
        "with EF for F.</p>",
        "<p>References are the best hyper-parameters and the accuracies that the paper prints; for losses, "
        "cosines, lengths, and the other numbers at the minimum, those of an independent reproduction in "
        "float64.</p>",
        *(f'<p class="note">{html.escape(note)}</p>' for note in notes),
        f"<h2>{held} of {len(claims)} statements hold</h2>",
        _overview(claims),
    ]
    for claim in claims:
        body.append(
            f'<h2 id="s{claim.number}">Statement {claim.number}: {_verdict(claim.holds)}</h2>'
            f"<blockquote>{html.escape(claim.text)}</blockquote>"
        )
        for name in claim.figures:
            if name in left:
                body.append(_figure(name, *left.pop(name)))
            elif name in figures:
                body.append(f'<p class="notes">Figure: <a href="#{name}">{name.replace("_", " ")}</a></p>')
        rows = [(c.what, c.measured, c.published or "–", _verdict(c.holds)) for c in claim.checks]
        body.append(_table(("check", "measured", "reference", ""), rows, escape_last=False))
    for name, (png, caption) in left.items():
        body.append(_figure(name, png, caption))
    for table in tables:
        body.append(f"<h2>{html.escape(table.title)}</h2>{_table(table.header, table.rows)}")
        body += [f'<p class="notes">{html.escape(note)}</p>' for note in table.notes]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        "<title>Limitations of the empirical Fisher: what holds</title>"
        f"<style>{_STYLE}</style></head><body>\n" + "\n".join(body) + "\n</body></html>\n",
        encoding="utf-8",
    )


def _overview(claims: list[Statement]) -> str:
    rows = [
        f'<tr><td><a href="#s{c.number}">{c.number}</a></td><td>{html.escape(c.text)}</td>'
        f"<td>{_verdict(c.holds)}</td></tr>"
        for c in claims
    ]
    return f'<div class="scroll"><table><tbody>{"".join(rows)}</tbody></table></div>'


def _verdict(holds: bool) -> str:
    kind, text = ("yes", "✓ holds") if holds else ("no", "✗ does not hold")
    return f'<span class="verdict {kind}">{text}</span>'


def _figure(name: str, png: Path, caption: str) -> str:
    data = base64.b64encode(png.read_bytes()).decode()
    text = html.escape(caption)
    return (
        f'<figure id="{name}"><img alt="{text}" '
        f'src="data:image/png;base64,{data}"><figcaption>{text}</figcaption></figure>'
    )


def _table(header: tuple[str, ...], rows: list[tuple[str, ...]], escape_last: bool = True) -> str:
    head = "".join(f"<th>{html.escape(h)}</th>" for h in header)
    lines = []
    for row in rows:
        cells = [html.escape(cell) for cell in row]
        if not escape_last:
            cells[-1] = row[-1]
        lines.append("<tr>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>")
    body = f"<thead><tr>{head}</tr></thead><tbody>{''.join(lines)}</tbody>"
    return f'<div class="scroll"><table>{body}</table></div>'
