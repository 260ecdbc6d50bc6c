"""Text tags: the newest text of each, and an alert of kind event when it changes.

They live in the gateway alone: no condition, alarm or chunk has them. A text that changes often is
sent as it is then, once in ten seconds; what was sent by no alert is counted.
"""

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

    from gateway.life.problems import Problems

SENT_EVERY_NS: Final = 10_000_000_000
SUBJECT: Final = "text"  # of its alerts, with the tag's id


class Texts:
    """The texts of one device's tags. ``ids`` are the tags' by the driver's points."""

    def __init__(self, ids: "Mapping[int, str]", problems: "Problems") -> None:
        self._ids = ids
        self._problems = problems
        self.overtaken = 0  # texts that were another before they were sent
        self._sent: dict[int, tuple[str, int]] = {}  # by point: what, and when (monotonic)
        self._newest: dict[int, str] = {}

    def __bool__(self) -> bool:
        return bool(self._ids)

    def __contains__(self, point: int) -> bool:
        return point in self._ids

    def take(self, texts: "Mapping[int, str]", now_ns: int) -> None:
        """What was read now; tells of what is another text than was sent."""
        for point, ident in self._ids.items():
            text = texts.get(point)
            if text is None:
                continue
            sent, sent_ns = self._sent.get(point, (None, 0))
            before = self._newest.get(point, sent)
            self._newest[point] = text
            if before not in (text, sent):
                self.overtaken += 1
            if text == sent or (sent is not None and now_ns - sent_ns < SENT_EVERY_NS):
                continue
            self._sent[point] = text, now_ns
            self._problems.event(SUBJECT, ident, f'now "{text}"')

    def by_tag(self) -> "dict[str, str]":
        """The newest text of each tag that has one."""
        return {self._ids[point]: text for point, text in self._newest.items()}
