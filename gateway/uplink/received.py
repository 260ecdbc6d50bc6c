"""What the small receiving platform has got: counts, order of arrival, doubles, the alerts."""

from collections import deque
from typing import Any, Final

ALERTS_MAX: Final = 20_000  # kept in memory; beyond that the oldest go, counted
RUNS_MAX: Final = 10_000


class Received:
    """Everything that arrived. A receiver drops doubles by (epoch, lane, seq) and by alert id."""

    def __init__(self) -> None:
        self._alerts: deque[dict[str, Any]] = deque(maxlen=ALERTS_MAX)
        self._alert_ids: set[str] = set()
        self._alerts_arrived = 0
        self._values = 0
        self._lanes: dict[str, _Sequence] = {}
        self._runs: deque[list[Any]] = deque(maxlen=RUNS_MAX)  # [lane, first, last] as they came
        self._duplicates = 0

    def alert(self, alert: dict[str, Any]) -> bool:
        """Take one alert; False for one that was here before."""
        self._alerts_arrived += 1
        self._arrived("alert", alert)
        ident = str(alert.get("id"))
        if ident in self._alert_ids:
            self._duplicates += 1
            return False
        self._alert_ids.add(ident)
        self._alerts.append(alert)
        return True

    def samples(self, message: dict[str, Any]) -> bool:
        """Take one message of samples; False for one that was here before."""
        lane = "backfill" if message.get("historical") else "live"
        if not self._arrived(lane, message):
            self._duplicates += 1
            return False
        self._values += sum(value is not None for row in message.get("v", []) for value in row)
        return True

    def summary(self) -> dict[str, Any]:
        """The answer to GET /received."""
        lanes = {name: lane.summary() for name, lane in self._lanes.items()}
        return {
            "alerts": len(self._alert_ids),
            "alerts_arrived": self._alerts_arrived,
            "values": self._values,
            "duplicates": self._duplicates,
            "lanes": lanes,
            "order": list(self._runs),
            "alert_list": list(self._alerts),
            "alerts_forgotten": len(self._alert_ids) - len(self._alerts),
        }

    def _arrived(self, lane: str, item: dict[str, Any]) -> bool:
        last = int(item.get("seq", 0))
        first = int((item.get("gap") or {}).get("first", last))
        runs = self._runs
        if runs and runs[-1][0] == lane and runs[-1][2] + 1 == first:
            runs[-1][2] = last
        else:
            runs.append([lane, first, last])
        sequence = self._lanes.setdefault(lane, _Sequence())
        return sequence.add(int(item.get("epoch", 0)), first, last)


class _Sequence:
    """The numbers of one lane, by epoch."""

    def __init__(self) -> None:
        self._arrived = 0
        self._seen: dict[int, set[int]] = {}

    def add(self, epoch: int, first: int, last: int) -> bool:
        """False where all of them were here before."""
        self._arrived += 1
        seen = self._seen.setdefault(epoch, set())
        before = len(seen)
        seen.update(range(first, last + 1))
        return len(seen) > before

    def summary(self) -> dict[str, Any]:
        """Messages, the highest number, and how many below it have not come."""
        epochs = {
            str(epoch): {"last": max(seen), "missing": max(seen) - len(seen)}
            for epoch, seen in self._seen.items()
        }
        return {"messages": self._arrived, "epochs": epochs}
