"""Alarms and conditions of an OPC UA server (OPC 10000-9): what it tells of them as events.

One monitored item for the events of one notifier, on a subscription that is there anyway. What
stands when a session begins is asked for by ConditionRefresh; what stood in the session before and
is not told again is over.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final

from asyncua import ua
from asyncua.ua.status_codes import StatusCodes

from drivers.base import Condition
from drivers.opcua_client import OpcUaClient, mapped
from drivers.opcua_items import checked_count, node_id
from drivers.opcua_points import parse_node
from drivers.opcua_status import status_text
from drivers.opcua_values import utc_ns_of

HANDLE: Final = 0x7FFF_FFFF  # of the item; a point's is its index + 1, the largest is none to some
QUEUE: Final = 1_000  # events that the server keeps between two messages
STANDING_MAX: Final = 1_000  # of one device: what is beyond is counted, not kept
TEXT_MAX: Final = 200
_CONDITION: Final = ua.NodeId(ua.ObjectIds.ConditionType)
_EVENT: Final = ua.NodeId(ua.ObjectIds.BaseEventType)
_ALARM: Final = ua.NodeId(ua.ObjectIds.AlarmConditionType)
_REFRESH: Final = ua.NodeId(ua.ObjectIds.ConditionType_ConditionRefresh)
_STARTS: Final = ua.NodeId(ua.ObjectIds.RefreshStartEventType)
_ENDS: Final = ua.NodeId(ua.ObjectIds.RefreshEndEventType)
_ANEW: Final = (
    ua.NodeId(ua.ObjectIds.RefreshRequiredEventType),
    ua.NodeId(ua.ObjectIds.EventQueueOverflowEventType),
)
# The fields that are asked for, in this order (OPC 10000-9, 5.5.2 and 5.8.2).
_FIELDS: Final = (
    (_EVENT, ("EventType",)),
    (_EVENT, ("SourceName",)),
    (_EVENT, ("Time",)),
    (_EVENT, ("Message",)),
    (_EVENT, ("Severity",)),
    (_CONDITION, ("ConditionName",)),
    (_CONDITION, ("BranchId",)),
    (_CONDITION, ("Retain",)),
    (_ALARM, ("ActiveState", "Id")),
    (_CONDITION, ()),  # the condition's own node id
)


class Conditions:
    """Those of one session. ``source`` is the notifier's node id as text."""

    def __init__(self, source: str, severity_min: int) -> None:
        self._source = source
        self._severity_min = severity_min
        self._standing: set[str] = set()
        self._listing: set[str] | None = None  # what a refresh has told so far
        self._refused = 0  # the status of the item
        self._unlisted = 0  # the status of the refresh
        self._beyond = 0
        self.again = False  # what stands has to be asked for

    def item(self) -> ua.MonitoredItemCreateRequest:
        """The monitored item."""
        item = ua.MonitoredItemCreateRequest()
        node = node_id(parse_node(self._source))
        item.ItemToMonitor.NodeId = node
        item.ItemToMonitor.AttributeId = ua.AttributeIds.EventNotifier
        item.MonitoringMode = ua.MonitoringMode.Reporting
        item.RequestedParameters.ClientHandle = HANDLE
        item.RequestedParameters.SamplingInterval = 0
        item.RequestedParameters.QueueSize = QUEUE
        item.RequestedParameters.DiscardOldest = True
        item.RequestedParameters.Filter = ua.EventFilter(
            SelectClauses=[_operand(node, path) for node, path in _FIELDS]
        )
        return item

    def created(self, result: ua.MonitoredItemCreateResult) -> None:
        """What the server said to the item."""
        self._refused = 0 if result.StatusCode.is_good() else int(result.StatusCode.value)
        self.again = not self._refused

    def asked_again(self) -> bool:
        """Whether the item is to be created once more; what was not listed is asked for."""
        self.again = self.again or bool(self._unlisted)
        return bool(self._refused)

    def trouble(self) -> str:
        """Why the server's conditions are not all known; empty while they are."""
        if code := self._refused or self._unlisted:
            return f"no conditions of {self._source}: {status_text(code)}"
        if self._beyond:
            return f"more than {STANDING_MAX} conditions stand: {self._beyond} were not told"
        return ""

    async def refresh(self, client: OpcUaClient, subscription: int) -> None:
        """Ask for all that stands; it comes as events. Raises LinkError or ProtocolError."""
        self.again = False
        call = ua.CallMethodRequest()
        call.ObjectId, call.MethodId = _CONDITION, _REFRESH
        call.InputArguments = [ua.Variant(subscription, ua.VariantType.UInt32)]
        with mapped("condition refresh"):
            [result] = checked_count(await client.uaclient.call([call]), 1)
        code = int(result.StatusCode.value)
        known = result.StatusCode.is_good() or code == StatusCodes.BadRefreshInProgress
        self._unlisted = 0 if known else code

    def take(self, events: Sequence[ua.EventFieldList]) -> tuple[list[Condition], set[str] | None]:
        """What changed, in order; and all that stand, where the events listed them to the end."""
        changed: list[Condition] = []
        standing: set[str] | None = None
        for each in events:
            if each.ClientHandle != HANDLE or len(each.EventFields or []) != len(_FIELDS):
                continue
            fields = [field.Value for field in each.EventFields]
            if fields[0] == _STARTS:
                self._listing = set()
            elif fields[0] == _ENDS and self._listing is not None:
                standing, self._listing = self._listing, None
                self._standing = set(standing)
            elif fields[0] in _ANEW:
                self.again = True
            elif (condition := self._condition(fields)) is not None:
                changed.append(condition)
        return changed, standing

    def _condition(self, fields: list[Any]) -> Condition | None:
        """One that counts: of the present (no branch), severe enough, within the bound."""
        _, source, time, message, severity, name, branch, retain, active, node = fields
        if not isinstance(node, ua.NodeId) or node.is_null() or not isinstance(severity, int):
            return None
        if isinstance(branch, ua.NodeId) and not branch.is_null():
            return None
        ident = node.to_string()[:TEXT_MAX]
        # Retain is false once nobody need look; a condition that is no alarm has it alone.
        on = retain is True and active is not False and severity >= self._severity_min
        if not on:
            self._standing.discard(ident)
        elif ident not in self._standing and len(self._standing) >= STANDING_MAX:
            self._beyond += 1
            return None
        else:
            self._standing.add(ident)
            if self._listing is not None:
                self._listing.add(ident)
        said = ", ".join(filter(None, (_text(name), _text(message))))
        text = f"{_text(source)}: {said}" if _text(source) else said
        when_ns = utc_ns_of(time) if isinstance(time, datetime) else 0
        return Condition(ident, text or ident, on, severity, when_ns)


def _operand(node: ua.NodeId, path: tuple[str, ...]) -> ua.SimpleAttributeOperand:
    operand = ua.SimpleAttributeOperand()
    operand.TypeDefinitionId = node
    operand.BrowsePath = [ua.QualifiedName(name, 0) for name in path]
    operand.AttributeId = ua.AttributeIds.Value if path else ua.AttributeIds.NodeId
    return operand


def _text(value: object) -> str:
    """A server's word, for people."""
    text = value.Text if isinstance(value, ua.LocalizedText) else value
    if not isinstance(text, str):
        return ""
    return "".join(letter if letter.isprintable() else " " for letter in text[:TEXT_MAX]).strip()
