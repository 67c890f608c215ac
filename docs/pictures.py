"""The pictures of the documentation, docs/pictures/*.svg.

Each is a sequence of messages between lanes, from top to bottom.
"""

import html
from dataclasses import dataclass, field
from pathlib import Path

FOLDER = Path(__file__).resolve().parent / "pictures"

_LANE_WIDTH, _STEP, _TOP, _MARGIN = 230, 46, 64, 20
_FONT = "font-family='Helvetica, Arial, sans-serif'"
_INK, _PALE, _ACCENT = "#1f2933", "#9aa5b1", "#0b69a3"


@dataclass
class Sequence:
    """Lanes, and what happens on and between them, step by step."""

    lanes: list[str]
    _parts: list[str] = field(default_factory=list)
    _steps: int = 0

    def message(self, start: str, end: str, text: str, *, dashed: bool = False) -> None:
        """An arrow from a lane to another, with its text above it."""
        y = self._next()
        x1, x2 = self._x(start), self._x(end)
        tip = 6 if x2 > x1 else -6
        dash = " stroke-dasharray='5 4'" if dashed else ""
        self._parts.append(
            f"<line x1='{x1}' y1='{y}' x2='{x2 - tip}' y2='{y}' stroke='{_ACCENT}' stroke-width='1.6'{dash}/>"
            f"<path d='M{x2} {y} L{x2 - 1.6 * tip} {y - 4.5} L{x2 - 1.6 * tip} {y + 4.5} Z' fill='{_ACCENT}'/>"
        )
        self._text((x1 + x2) / 2, y - 7, text)

    def note(self, lane: str, text: str) -> None:
        """What a lane does by itself, in a box."""
        y = self._next()
        width = 7.1 * len(text) + 18
        x = min(max(self._x(lane) - width / 2, 4), self._width() - width - 4)
        self._parts.append(
            f"<rect x='{x:.1f}' y='{y - 16}' width='{width:.1f}' height='24' rx='4' fill='#f0f4f8' stroke='{_PALE}'/>"
        )
        self._text(x + width / 2, y, text)

    def svg(self) -> str:
        """The whole picture."""
        height = _TOP + _STEP * (self._steps + 1)
        lanes = "".join(self._lane(name, height) for name in self.lanes)
        return (
            f"<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 {self._width()} {height}' "
            f"width='{self._width()}' height='{height}'>"
            f"<rect width='100%' height='100%' fill='white'/>{lanes}{''.join(self._parts)}</svg>\n"
        )

    def _lane(self, name: str, height: int) -> str:
        x = self._x(name)
        return (
            f"<line x1='{x}' y1='44' x2='{x}' y2='{height - 12}' stroke='{_PALE}' stroke-width='1.2'/>"
            f"<rect x='{x - 92}' y='14' width='184' height='30' rx='5' fill='{_INK}'/>"
            f"<text x='{x}' y='34' {_FONT} font-size='14' text-anchor='middle' fill='white'>{html.escape(name)}</text>"
        )

    def _text(self, x: float, y: float, text: str) -> None:
        self._parts.append(
            f"<text x='{x:.1f}' y='{y}' {_FONT} font-size='13' text-anchor='middle' fill='{_INK}' "
            f"paint-order='stroke' stroke='white' stroke-width='4'>{html.escape(text)}</text>"
        )

    def _next(self) -> int:
        self._steps += 1
        return _TOP + _STEP * self._steps - 12

    def _x(self, lane: str) -> float:
        return _MARGIN + _LANE_WIDTH * (self.lanes.index(lane) + 0.5)

    def _width(self) -> int:
        return 2 * _MARGIN + _LANE_WIDTH * len(self.lanes)


def life_of_a_fault() -> Sequence:
    """From the touch of a missing page to its bytes."""
    thread, kernel, handler, source = "thread of the target", "kernel", "handler", "source"
    drawn = Sequence([thread, kernel, handler, source])
    drawn.message(thread, kernel, "touches a missing page")
    drawn.note(thread, "sleeps")
    drawn.message(kernel, handler, "fault message")
    drawn.note(handler, "finds region and page")
    drawn.message(handler, source, "which bytes?")
    drawn.message(source, handler, "a pointer to them", dashed=True)
    drawn.message(handler, kernel, "UFFDIO_COPY")
    drawn.note(kernel, "maps the page, wakes the thread")
    drawn.message(kernel, thread, "goes on", dashed=True)
    drawn.note(handler, "marks the page as installed")
    return drawn


def ending() -> Sequence:
    """From the last page to the report."""
    handler, ender, kernel, user = "handler", "ender", "kernel", "your program"
    drawn = Sequence([kernel, handler, ender, user])
    drawn.message(handler, kernel, "UFFDIO_COPY of the last page")
    drawn.note(handler, "no page is missing")
    drawn.message(handler, ender, "hands the target over")
    drawn.message(ender, kernel, "does anybody else hold it? (kcmp)")
    drawn.message(kernel, ender, "nobody does", dashed=True)
    drawn.message(ender, kernel, "close: the early close")
    drawn.note(kernel, "releases all regions at once")
    drawn.message(ender, kernel, "looks at smaps: is it released?")
    drawn.message(ender, user, "the report")
    return drawn


def hand_off() -> Sequence:
    """How memory of one process comes to be served by another."""
    target, kernel, manager = "target process", "kernel", "manager process"
    drawn = Sequence([target, kernel, manager])
    drawn.message(target, kernel, "maps memory")
    drawn.message(target, kernel, "userfaultfd(2), registers it")
    drawn.message(target, manager, "descriptor and regions, over a unix socket")
    drawn.note(target, "closes its own descriptor")
    drawn.message(target, kernel, "touches a page")
    drawn.message(kernel, manager, "fault message")
    drawn.message(manager, kernel, "UFFDIO_COPY from the image")
    drawn.message(kernel, target, "goes on", dashed=True)
    drawn.note(manager, "fills the rest, and lets go")
    return drawn


PICTURES = {"life-of-a-fault": life_of_a_fault, "ending": ending, "hand-off": hand_off}
