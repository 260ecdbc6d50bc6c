"""A text template of a file uplink: jinja2's sandbox, with bounds, and an error for every slip.

jinja2 is an extra (``pip install sitewarden[templates]``) that is imported by who uses one.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any, Final
from zoneinfo import ZoneInfo

from gateway.errors import GatewayError

SOURCE_BYTES_MAX: Final = 64 * 1024
OUTPUT_BYTES_MAX: Final = 4 * 1024 * 1024
LANES: Final = ("alert", "live", "backfill")

# What an alert may have; what one does not have is none in a template, another name is an error.
ALERT_FIELDS: Final = (
    "id", "gateway", "epoch", "seq", "kind", "state", "site", "source", "time", "recorded",
    "clock_synced", "priority", "ref", "level", "value", "limit", "unit", "quality", "cause",
    "legs", "first_out", "reaction_ns", "outputs", "guidance", "armed", "unarmed_count",
    "exercise", "program", "was", "correction", "historical", "audit_head", "gap",
)  # fmt: skip
SAMPLE_FIELDS: Final = (
    "gateway", "uplink", "epoch", "seq", "historical", "t0_ns", "dt_ms", "tags", "v", "q",
    "exercise", "gap", "rows",
)  # fmt: skip

_ALERT: Final[Mapping[str, Any]] = {
    "id": "mine-7/1764000000000000000/1", "gateway": "mine-7", "epoch": 1764000000000000000,
    "seq": 1, "kind": "alarm", "state": "raised", "site": "mine-7",
    "source": {"kind": "tag", "id": "ch4.t1"}, "time": "2025-11-24T16:00:00.000000001Z",
    "recorded": "2025-11-24T16:00:00.000000002Z", "clock_synced": True, "priority": "high",
    "cause": "above 1 %CH4", "historical": False, "audit_head": "",
}  # fmt: skip
_SAMPLES: Final[Mapping[str, Any]] = {
    "gateway": "mine-7", "epoch": 1764000000000000001, "seq": 1, "historical": False,
    "t0_ns": 1764000000000000000, "dt_ms": [0], "tags": ["ch4.t1"], "v": [[0.5]],
    "rows": [
        {"time": "2025-11-24T16:00:00.000000000Z", "tag": "ch4.t1", "value": 0.5,
         "quality": "GOOD"},
    ],
}  # fmt: skip


class TemplateError(GatewayError):
    """A template is none, or cannot be used with what it is given; the text is for people."""


class FileTemplate:
    """One template. ``line`` of its errors is in their text."""

    def __init__(self, source: str) -> None:
        self._source = source

    @classmethod
    def read(cls, path: Path) -> "FileTemplate":
        """Raises TemplateError."""
        try:
            with path.open("rb") as file:
                data = file.read(SOURCE_BYTES_MAX + 1)
            source = data.decode("utf-8")
        except (OSError, UnicodeDecodeError) as error:
            said = getattr(error, "strerror", None) or "it is no UTF-8"
            msg = f"{path.name} cannot be read: {said}"
            raise TemplateError(msg) from error
        if len(data) > SOURCE_BYTES_MAX:
            msg = f"{path.name} is longer than {SOURCE_BYTES_MAX // 1024} KiB"
            raise TemplateError(msg)
        return cls(source)

    def render(self, **names: Any) -> bytes:
        """The text of one file: ``lane``, ``gateway``, ``site``, ``uplink`` and ``messages``.

        Raises TemplateError; it is not known then which message is at fault.
        """
        parts: list[bytes] = []
        size = 0
        try:
            for part in self._compiled.generate(**names):
                parts.append(part.encode("utf-8"))
                size += len(parts[-1])
                if size > OUTPUT_BYTES_MAX:
                    break
        except TemplateError:
            raise
        except Exception as error:  # whatever an expression does with its operands
            raise TemplateError(_said(error)) from error
        if size > OUTPUT_BYTES_MAX:
            msg = f"it makes more than {OUTPUT_BYTES_MAX // 1024**2} MiB of text"
            raise TemplateError(msg)
        return b"".join(parts)

    def attempt(self, lanes: Sequence[str]) -> None:
        """Use it once for each lane. Raises TemplateError."""
        for lane in lanes:
            sample = alert(_ALERT) if lane == "alert" else samples(_SAMPLES)
            self.render(lane=lane, gateway="mine-7", site="mine-7", uplink="x", messages=[sample])

    def compile(self) -> None:
        """Raises TemplateError where it is no template at all, whatever it is given."""
        _ = self._compiled

    @cached_property
    def _compiled(self) -> Any:
        try:
            import jinja2
            from jinja2.sandbox import ImmutableSandboxedEnvironment
        except ImportError as error:
            msg = "it needs jinja2: pip install sitewarden[templates]"
            raise TemplateError(msg) from error
        environment = ImmutableSandboxedEnvironment(
            undefined=jinja2.StrictUndefined, keep_trailing_newline=True, autoescape=False
        )
        environment.filters["local"] = _local
        try:
            return environment.from_string(self._source)
        except jinja2.TemplateSyntaxError as error:
            msg = f"line {error.lineno}: {error.message}"
            raise TemplateError(msg) from error


def alert(fields: Mapping[str, Any]) -> dict[str, Any]:
    """An alert as templates see it."""
    return {**dict.fromkeys(ALERT_FIELDS), **fields}


def samples(fields: Mapping[str, Any]) -> dict[str, Any]:
    """A message of samples as templates see it; ``rows`` has every sample by itself."""
    return {**dict.fromkeys(SAMPLE_FIELDS), **fields}


def _local(time: str, form: str, zone: str = "UTC") -> str:
    """``{{ a.time | local("%Y-%m-%d %H:%M:%S", "Asia/Shanghai") }}``."""
    return datetime.fromisoformat(time).astimezone(ZoneInfo(zone)).strftime(form)


def _said(error: Exception) -> str:
    trace, line = error.__traceback__, 0
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == "<template>":
            line = trace.tb_lineno
        trace = trace.tb_next
    text = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    return f"line {line}: {text}" if line else text
