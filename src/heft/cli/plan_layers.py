"""`heft plan --probe-layers`: the probe of layers and tokens as a table and in words."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.table import Table

    from heft.training.layer_probe import LayerProbe

_HALF = 0.5


def layers_table(probe: "LayerProbe") -> "Table":
    """One line per layer: share and agreement for the edited positions, then every group of tokens that is there."""
    from heft.cli.show import table
    from heft.training.layer_probe import GROUPS

    there = [number for number, tokens in enumerate(probe.tokens) if tokens]
    rows = []
    for layer, (share, agreement) in enumerate(zip(probe.layer_shares, probe.agreement, strict=True)):
        groups = (_percent(probe.shares[layer][number]) for number in there)
        rows.append((f"{layer}", _percent(share), f"{agreement:.2f}", *groups))
    rows.append(("all", _percent(sum(probe.layer_shares)), "", *(_percent(probe.group_shares[n]) for n in there)))
    title = f"gradient of a zero edit, {probe.rows:,} rows"
    return table(title, ["layer"], (probe.positions, "agree", *(GROUPS[number] for number in there)), rows)


def layers_notes(probe: "LayerProbe") -> list[str]:
    """What the table says and what it cannot say."""
    count, total = 0, 0.0
    while total < _HALF and count < len(probe.order):
        total += probe.layer_shares[probe.order[count]]
        count += 1
    first = ", ".join(str(layer) for layer in probe.order[:count])
    return [
        f"{probe.positions}: each layer's share of the gradient of an edit there; layers {first} have {_percent(total)}"
        f" % of it. agree: 1 where all rows ask for the same edit, {probe.rows**-0.5:.2f} where none agree",
        "other columns: edits of these tokens alone (l2–4: the second to fourth last of the prompt; f1–4: its first"
        " four), all layers and columns together 100 %",
        "this is a first step's gain, no accuracy: it foretold a sweep over layers on one task and not on others"
        " (docs/plan.md), so sweep the layers that it names before you leave others out",
    ]


def _percent(share: float) -> str:
    return f"{100 * share:.1f}"
