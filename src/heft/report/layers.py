"""The size of the fine edit in each layer, as panels."""

from collections.abc import Sequence

from heft.compare.runs import RunFiles
from heft.edits.equations import EQUATIONS
from heft.errors import HeftError
from heft.report.edits import Edit, read_edits
from heft.report.parts import Cell, Heading, Panel, Section, Table
from heft.report.subject import Subject, trained
from heft.text.svg import Drawing, axis
from heft.text.units import count, in_digits, several


def section(subject: Subject) -> Section:
    """A panel for each ReFT adapter of each training, its seeds over one another."""
    panels, notes = [], []
    for group in trained(subject.arms):
        found: dict[tuple[str, str], list[tuple[RunFiles, Edit]]] = {}
        for run in group.runs:
            try:
                for edit in read_edits(run):
                    found.setdefault((edit.adapter, edit.group), []).append((run, edit))
            except HeftError as error:
                notes.append(f"{group.title}, seed {run.seed}: not shown, since {error}.")
        panels += [_panel(group.title, edits) for edits in found.values()]
    about = (
        "How strongly each layer’s hidden state is edited. An edit is a linear map of the state and a constant; both"
        " norms are of the saved weights, so a layer with large states may be changed less than its norm suggests."
    )
    return Section(
        "layers", "The fine edit, layer by layer", [about if panels else "No ReFT edit is there.", *notes], panels
    )


def _panel(title: str, edits: Sequence[tuple[RunFiles, Edit]]) -> Panel:
    first = edits[0][1]
    sizes = [size for _, edit in edits for size in (*edit.linear, *edit.constant)]
    x = axis("layer", [-0.5, max(first.layers) + 0.5], low=-0.5, high=max(first.layers) + 0.5, words=count)
    drawing = Drawing(x, axis("norm", [0, *sizes], low=0))
    for _, edit in edits:
        for kind, values in (("a", edit.linear), ("b", edit.constant)):
            points = list(zip(edit.layers, values, strict=True)) if values else []
            drawing.line(points, f"line thin {kind}")
            for point in points:
                drawing.dot(point, f"fill {kind}" if kind == "a" else f"hollow {kind}", 2.4)
    which = "" if first.group == "shared" else f", {first.group} positions"
    name = f"{title}: {first.adapter}{which}"
    svg = drawing.svg(f"Size of the edit by layer, {name}")
    return Panel(name, svg, _about(first, len(edits)), _numbers(name, edits))


def _about(edit: Edit, seeds: int) -> str:
    equation = EQUATIONS[edit.intervention]
    sentences = [f"{edit.intervention}, {several(len(edit.layers), 'layer')}."]
    if edit.linear:
        sentences.append(f"Filled: {equation.linear_norm}, {_extremes(edit.layers, edit.linear)}.")
    sentences.append(f"Hollow: {equation.constant_norm}, {_extremes(edit.layers, edit.constant)}.")
    if edit.activation:
        sentences.append(f"An activation ({edit.activation}) stands between, so these are not the whole edit.")
    if seeds > 1:
        sentences.append(f"Figures are of the first of {seeds} seeds.")
    return " ".join(sentences)


def _extremes(layers: Sequence[int], sizes: Sequence[float]) -> str:
    by_size = sorted(zip(sizes, layers, strict=True))
    (least, low), (most, high) = by_size[0], by_size[-1]
    return f"largest in layer {high} ({in_digits(most)}), smallest in layer {low} ({in_digits(least)})"


def _numbers(title: str, edits: Sequence[tuple[RunFiles, Edit]]) -> Table:
    headings = [Heading("layer", is_text=True)]
    for run, edit in edits:
        headings += [Heading(f"linear, seed {run.seed}")] * bool(edit.linear) + [Heading(f"constant, seed {run.seed}")]
    rows = []
    for place, layer in enumerate(edits[0][1].layers):
        cells = [Cell(in_digits(v[place])) for _, edit in edits for v in (edit.linear, edit.constant) if v]
        rows.append([Cell(str(layer)), *cells])
    return Table(f"Norms of the edit’s parts, {title}", headings, rows)
