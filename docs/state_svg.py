"""Draws one phase table as SVG: the way down the middle, failures to the right, the way home to the left."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from html import escape

from vmbackup.api.vmbackup import Phase
from vmbackup.core.rules import Fail, Go, Rule, Table

BOX_WIDTH, BOX_HEIGHT, LINE = 240, 46, 15
LABEL_WIDTH, GAP, TOP = 250, 40, 44
SIDE = (Phase.DISCARDING, Phase.ASSIGNED)
GREY, RED, AMBER = "#4a5568", "#b3261e", "#9a6700"
STYLE = (
    "text{font:12px sans-serif;fill:#4a5568}.phase{font:bold 14px sans-serif;fill:#1a202c}"
    ".fail{fill:#b3261e}.stay{fill:#9a6700}path{fill:none;stroke-width:1.4}"
)


@dataclass(frozen=True)
class Way:
    """All rows of one phase that lead to the same other phase (or, with a failure, stay in it)."""

    phase: Phase
    to: Phase
    rules: tuple[Rule, ...]


@dataclass
class Box:
    phase: Phase
    x: float
    y: float
    height: float = BOX_HEIGHT
    ports: list[str] = field(default_factory=list)

    @property
    def middle(self) -> float:
        return self.y + self.height / 2

    @property
    def centre(self) -> float:
        return self.x + BOX_WIDTH / 2

    def port(self, name: str) -> float:
        """Return the height at which a way on the left side begins or ends."""
        return self.y + self.height * (self.ports.index(name) + 1) / (len(self.ports) + 1)


def ways(table: Table) -> Iterator[Way]:
    for phase, rules in table.items():
        leading = [rule for rule in rules if isinstance(rule.effect, Go | Fail)]
        for to in dict.fromkeys(rule.effect.to for rule in leading if isinstance(rule.effect, Go | Fail)):
            yield Way(phase, to, tuple(rule for rule in leading if getattr(rule.effect, "to", None) is to))


def way_to_a_set(table: Table) -> list[Phase]:
    """Return the phases of a backup that succeeds, in order."""
    return [phase for phase in table if phase not in (*SIDE, Phase.DONE)]


def draw(table: Table, doing: Mapping[Phase, str]) -> str:
    """Return the drawing as SVG text."""
    picture = _Picture(table, doing)
    return picture.render()


class _Picture:
    def __init__(self, table: Table, doing: Mapping[Phase, str]) -> None:
        self._ways = list(ways(table))
        self._doing = doing
        self._column: list[Phase] = way_to_a_set(table)
        self._marks: list[str] = []
        detours = [way for way in self._ways if self._is_detour(way)]
        back = [way for way in detours if self._row(way.to) < self._row(way.phase)]
        skips = [way for way in detours if way not in back]
        self._left = 240 + (150 if skips else 0)
        self._rails = {way: self._left - 30 - 150 * lane for way, lane in self._lanes(back).items()}
        self._rails |= {way: 60 - 30 * lane for way, lane in self._lanes(skips).items()}
        self._skips = skips
        self._rail = self._left + BOX_WIDTH + LABEL_WIDTH
        self._boxes = self._place()

    def _row(self, phase: Phase) -> int:
        return self._column.index(phase)

    def _is_detour(self, way: Way) -> bool:
        if way.phase not in self._column or way.to not in self._column or way.to is way.phase:
            return False
        return self._row(way.to) != self._row(way.phase) + 1

    def _lanes(self, detours: list[Way]) -> dict[Way, int]:
        """Give every way beside the column a lane, the short ones next to it, so that none lies on another."""
        lanes: dict[Way, int] = {}
        taken: list[tuple[int, int, int]] = []
        for way in sorted(detours, key=self._span):
            low, high = sorted((self._row(way.phase), self._row(way.to)))
            lane = next(n for n in range(len(detours)) if all(n != m or high <= a or b <= low for m, a, b in taken))
            taken.append((lane, low, high))
            lanes[way] = lane
        return lanes

    def _span(self, way: Way) -> int:
        return abs(self._row(way.phase) - self._row(way.to))

    def _ports(self, phase: Phase) -> list[str]:
        """Order the ends of ways on a box so that they do not cross: inner lanes first above, outer first below."""
        there = [way for way in self._rails if phase in (way.phase, way.to)]
        other = {way: self._row(way.to if way.phase is phase else way.phase) for way in there}
        above = sorted((way for way in there if other[way] < self._row(phase)), key=lambda way: -self._rails[way])
        below = sorted((way for way in there if other[way] > self._row(phase)), key=lambda way: self._rails[way])
        return [_name(way) for way in (*above, *below)]

    def _of(self, phase: Phase, to: Phase) -> Way | None:
        return next((way for way in self._ways if way.phase is phase and way.to is to), None)

    def _place(self) -> dict[Phase, Box]:
        boxes: dict[Phase, Box] = {}
        y = float(TOP)
        for phase in self._column:
            box = boxes[phase] = Box(phase, self._left, y)
            box.ports = self._ports(phase)
            labels = [self._of(phase, to) for to in (Phase.DISCARDING, phase)]
            lines = max((len(way.rules) for way in labels if way), default=0)
            box.height = max(BOX_HEIGHT, lines * LINE + 8, (len(box.ports) + 1) * 16)
            y += box.height + GAP
        boxes[Phase.DISCARDING] = Box(Phase.DISCARDING, self._rail - BOX_WIDTH / 2, y)
        y += BOX_HEIGHT + GAP
        boxes[Phase.DONE] = Box(Phase.DONE, self._left, y)
        boxes[Phase.ASSIGNED] = Box(Phase.ASSIGNED, self._rail - BOX_WIDTH / 2, y)
        return boxes

    def render(self) -> str:
        for phase, below in zip(self._column, [*self._column[1:], Phase.DONE], strict=True):
            self._down(phase, below)
        for phase in self._column:
            self._to_discarding(phase)
            self._staying(phase)
        self._rail_to_discarding()
        for way, rail in self._rails.items():
            self._detour(way, rail, label_at_rail=way not in self._skips)
        self._endings()
        for box in self._boxes.values():
            self._box(box)
        width, height = self._rail + BOX_WIDTH / 2 + 60, self._boxes[Phase.DONE].y + BOX_HEIGHT + 20
        return "\n".join(
            [
                f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {height:g}" width="{width:g}">',
                "<!-- Generated from the tables in operator/vmbackup/core by `make docs`: do not edit. -->",
                f"<style>{STYLE}</style>",
                *(_arrow_head(name, colour) for name, colour in (("grey", GREY), ("red", RED), ("amber", AMBER))),
                f'<rect width="{width:g}" height="{height:g}" rx="8" fill="#ffffff"/>',
                *self._marks,
                "</svg>\n",
            ]
        )

    # -- ways -----------------------------------------------------------------------------------------------------

    def _down(self, phase: Phase, below: Phase) -> None:
        way = self._of(phase, below)
        upper, lower = self._boxes[phase], self._boxes[below]
        if way is None:
            return
        self._path(f"M{upper.centre:g} {upper.y + upper.height:g}V{lower.y - 2:g}", "grey")
        self._lines(upper.centre + 8, upper.y + upper.height + GAP / 2, [" · ".join(_seen(way))])

    def _to_discarding(self, phase: Phase) -> None:
        way = self._of(phase, Phase.DISCARDING)
        if way is None:
            return
        box = self._boxes[phase]
        colour = "red" if any(isinstance(rule.effect, Fail) for rule in way.rules) else "grey"
        self._path(f"M{box.x + BOX_WIDTH:g} {box.middle:g}H{self._rail:g}", colour, head=False)
        self._lines(box.x + BOX_WIDTH + 16, box.middle, way.rules, boxed=True)

    def _rail_to_discarding(self) -> None:
        top, bottom = self._boxes[self._column[0]].middle, self._boxes[Phase.DISCARDING].y - 2
        self._path(f"M{self._rail:g} {top:g}V{bottom:g}", "red")

    def _staying(self, phase: Phase) -> None:
        """Failures that change the outcome only: the phase itself finds the way home."""
        way = self._of(phase, phase)
        if way is None:
            return
        box = self._boxes[phase]
        low, high = box.middle - 12, box.middle + 12
        self._path(f"M{box.x:g} {low:g}h-22V{high:g}h20", "amber")
        self._lines(box.x - 30, box.middle, [*_seen(way)], style="stay", anchor="end")

    def _detour(self, way: Way, rail: float, *, label_at_rail: bool) -> None:
        source, target = self._boxes[way.phase], self._boxes[way.to]
        begin, end = source.port(_name(way)), target.port(_name(way))
        failed = any(isinstance(rule.effect, Fail) for rule in way.rules)
        self._path(f"M{source.x:g} {begin:g}H{rail:g}V{end:g}H{target.x - 2:g}", "red" if failed else "grey")
        if label_at_rail:
            self._lines(rail - 6, (source.y + target.y + target.height) / 2, way.rules, anchor="end", boxed=True)
        else:
            self._lines(self._left - 16, begin, [" · ".join(_seen(way))], style=_style(way), anchor="end", boxed=True)

    def _endings(self) -> None:
        bin_, done, rest = (self._boxes[phase] for phase in (Phase.DISCARDING, Phase.DONE, Phase.ASSIGNED))
        first = self._boxes[self._column[0]]
        self._path(f"M{bin_.x:g} {bin_.middle:g}H{done.x + BOX_WIDTH - 30:g}V{done.y - 2:g}", "grey")
        self._lines(
            bin_.x - 12, bin_.middle, _seen_of(self._of(Phase.DISCARDING, Phase.DONE)), anchor="end", boxed=True
        )
        self._path(f"M{bin_.centre:g} {bin_.y + BOX_HEIGHT:g}V{rest.y - 2:g}", "grey")
        again = _seen_of(self._of(Phase.DISCARDING, Phase.ASSIGNED))
        self._lines(bin_.centre - 8, bin_.y + BOX_HEIGHT + GAP / 2, again, anchor="end")
        self._path(f"M{rest.x:g} {rest.middle:g}H{done.x + BOX_WIDTH + 2:g}", "grey")
        self._lines(rest.x - 12, rest.middle, _seen_of(self._of(Phase.ASSIGNED, Phase.DONE)), anchor="end", boxed=True)
        # tick.py plans the next attempt: this way is in no table.
        edge, high = rest.x + BOX_WIDTH, 16
        route = f"M{edge:g} {rest.middle:g}h24V{high:g}H{first.centre:g}V{first.y - 2:g}"
        self._path(route, "grey", dashed=True)
        self._lines(edge + 4, high, ["rested: planned again (tick.py)"], anchor="end", boxed=True)

    # -- marks ----------------------------------------------------------------------------------------------------

    def _box(self, box: Box) -> None:
        fill = {Phase.DONE: "#e6f4ea", Phase.DISCARDING: "#fce8e6"}.get(box.phase, "#e8f0fe")
        self._marks.append(
            f'<rect x="{box.x:g}" y="{box.y:g}" width="{BOX_WIDTH}" height="{box.height:g}" rx="6" fill="{fill}" '
            f'stroke="{GREY}"/>'
        )
        self._text(box.centre, box.middle - 4, str(box.phase), "phase", "middle")
        self._text(box.centre, box.middle + 13, self._doing.get(box.phase, "nothing is left to do"), "", "middle")

    def _path(self, route: str, colour: str, *, dashed: bool = False, head: bool = True) -> None:
        stroke = {"grey": GREY, "red": RED, "amber": AMBER}[colour]
        dash = ' stroke-dasharray="5 4"' if dashed else ""
        arrow = f' marker-end="url(#{colour})"' if head else ""
        self._marks.append(f'<path d="{route}" stroke="{stroke}"{dash}{arrow}/>')

    def _lines(
        self, x: float, y: float, lines: tuple[Rule, ...] | list[str], *, style: str = "", anchor: str = "start",
        boxed: bool = False,
    ) -> None:  # fmt: skip
        """Write lines around a height; with `boxed`, on a ground of their own above the ways."""
        texts = [line.seen if isinstance(line, Rule) else line for line in lines]
        if boxed:
            width = max(map(len, texts)) * 6.2 + 8
            left = x - 4 if anchor == "start" else x - width + 4
            high = len(texts) * LINE
            self._marks.append(
                f'<rect x="{left:g}" y="{y - high / 2:g}" width="{width:g}" height="{high}" fill="#ffffff"/>'
            )
        for number, (line, text) in enumerate(zip(lines, texts, strict=True)):
            failed = isinstance(line, Rule) and isinstance(line.effect, Fail)
            at = y + (number - (len(texts) - 1) / 2) * LINE + 4
            self._text(x, at, text, "fail" if failed else style, anchor)

    def _text(self, x: float, y: float, text: str, style: str, anchor: str) -> None:
        kind = f' class="{style}"' if style else ""
        self._marks.append(f'<text x="{x:g}" y="{y:g}" text-anchor="{anchor}"{kind}>{escape(text)}</text>')


def _name(way: Way) -> str:
    return f"{way.phase}>{way.to}"


def _style(way: Way) -> str:
    return "fail" if all(isinstance(rule.effect, Fail) for rule in way.rules) else ""


def _seen(way: Way) -> list[str]:
    return [rule.seen for rule in way.rules]


def _seen_of(way: Way | None) -> list[str]:
    return _seen(way) if way else []


def _arrow_head(name: str, colour: str) -> str:
    return (
        f'<marker id="{name}" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
        f'<path d="M0 0L8 4L0 8z" style="fill:{colour}" stroke="none"/></marker>'
    )
