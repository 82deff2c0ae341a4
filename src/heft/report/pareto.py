"""Accuracy against cost, and which arms no other beats in both."""

from collections.abc import Callable, Sequence

from heft.compare.results import ArmResult
from heft.report.parts import Panel, Section
from heft.report.subject import Subject
from heft.text.listing import listed
from heft.text.svg import BOTTOM, CHARACTER, RIGHT, TOP, WIDTH, Drawing, Point, axis, shortened
from heft.text.units import in_digits, in_flops, percent

_MOST_CHARACTERS = 22


def frontier(points: Sequence[Point]) -> list[Point]:
    """The (cost, accuracy) that no other point undercuts and at least equals, from the cheapest on."""
    best: list[Point] = []
    for point in sorted(set(points), key=lambda p: (p[0], -p[1])):
        if not best or point[1] > best[-1][1]:
            best.append(point)
    return best


def section(subject: Subject) -> Section:
    """One panel; none where no arm's cost is known."""
    arms = subject.comparison.arms
    cost, unit, told = _cost(arms)
    priced = [arm for arm in arms if cost(arm) is not None]
    unknown = [arm.name for arm in arms if cost(arm) is None]
    notes = [f"Left out, since their cost is not recorded: {listed(unknown)}."] if unknown else []
    if not any(cost(arm) for arm in priced):
        return Section("pareto", "Accuracy against cost", [*notes, "No training cost is recorded, so none is shown."])
    return Section("pareto", "Accuracy against cost", notes, [_panel(priced, cost, unit, told)])


def _cost(arms: Sequence[ArmResult]) -> tuple[Callable[[ArmResult], float | None], str, Callable[[float], str]]:
    """An arm's cost, its unit, and the figure in words: FLOPs, or seconds where those of an arm are not counted."""
    if all(arm.costs.flops is not None for arm in arms if arm.stage != "base"):
        name, unit, told = "flops", "FLOPs of training", lambda cost: in_flops(cost) if cost else "0"
    else:
        name, unit, told = "seconds", "seconds of training", in_digits
    return lambda arm: 0.0 if arm.stage == "base" else getattr(arm.costs, name), unit, told


def _panel(
    arms: Sequence[ArmResult], cost: Callable[[ArmResult], float], unit: str, told: Callable[[float], str]
) -> Panel:
    paid = [arm for arm in arms if cost(arm) > 0]
    free = [arm for arm in arms if cost(arm) == 0]
    ends = [100 * end for arm in arms for end in (arm.accuracy, *arm.interval)]
    costs = [cost(arm) for arm in paid]
    logarithmic = max(costs) > 20 * min(costs)
    drawing = Drawing(
        axis(unit, costs, may_be_log=True, words=told) if logarithmic else axis(unit, [0, *costs], low=0, words=told),
        axis("accuracy, %", ends),
    )
    for arm in free:
        y = 100 * arm.accuracy
        drawing.segment((drawing.x.low, y), (drawing.x.high, y), "reference")
    best = frontier([(cost(arm), 100 * arm.accuracy) for arm in arms])
    drawing.line([p for p in best if p[0] > 0], "line thin a")
    for arm in paid:
        x = cost(arm)
        drawing.segment((x, 100 * arm.interval[0]), (x, 100 * arm.interval[1]), "bar quiet")
    for arm in paid:
        point = (cost(arm), 100 * arm.accuracy)
        drawing.dot(point, "fill a" if point in best else "hollow", 4)
    _label(drawing, paid, free, cost)
    known = [f"{arm.name}: {percent(arm.accuracy)} for {told(cost(arm))}" for arm in paid]
    known += [f"{arm.name}: {percent(arm.accuracy)} without training (dotted)" for arm in free]
    scale = "logarithmic" if drawing.x.log else "linear"
    text = (
        f"Accuracy with its 95 % interval against {unit} ({scale} scale). Filled and joined: no other arm is at least"
        f" as good for less. {'; '.join(known)}."
    )
    return Panel("", drawing.svg(f"Accuracy against {unit}"), text)


def _label(drawing: Drawing, paid: Sequence[ArmResult], free: Sequence[ArmResult], cost: Callable) -> None:
    """Names beside their points where there is room that no other label has taken; the caption has them all."""
    taken: list[tuple[float, float, float, float]] = []
    floor = drawing.height - BOTTOM - 2
    places = [drawing.at((cost(arm), 100 * arm.accuracy)) for arm in paid]
    points = [(x - 4, y - 4, x + 4, y + 4) for x, y in places]
    wanted = [(arm.name, x, y) for arm, (x, y) in zip(paid, places, strict=True)]
    wanted += [(arm.name, drawing.left, drawing.at((drawing.x.low, 100 * arm.accuracy))[1] - 9) for arm in free]
    for name, x, y in wanted:
        text = shortened(name, _MOST_CHARACTERS)
        width = CHARACTER * len(text)
        for left, base in ((x + 8, y + 4), (x - 8 - width, y + 4), (x - width / 2, y - 9), (x - width / 2, y + 17)):
            box = (left, base - 10, left + width, base + 2)
            inside = drawing.left <= left and box[2] <= WIDTH - RIGHT + 8 and box[1] >= TOP - 14 and box[3] <= floor
            if inside and not any(_overlap(box, other) for other in (*taken, *points)):
                taken.append(box)
                drawing.text(left, base, text)
                break


def _overlap(one: tuple, other: tuple) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]
