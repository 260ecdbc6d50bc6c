"""Monitored items of an OPC UA subscription: how they are asked for, made and deleted."""

import contextlib
from collections.abc import Sequence

from asyncua import ua
from asyncua.ua.status_codes import StatusCodes

from drivers.opcua_client import OpcUaClient, StatusError, mapped
from drivers.opcua_items import Limits, checked_count, in_batches


def monitored(
    handle: int, node: ua.ReadValueId, sampling_ns: int, queue: int, deadband: float | None = None
) -> ua.MonitoredItemCreateRequest:
    """What to ask for: ``queue`` values that the server keeps, changes above ``deadband``."""
    item = ua.MonitoredItemCreateRequest()
    item.ItemToMonitor = node
    item.MonitoringMode = ua.MonitoringMode.Reporting
    parameters = item.RequestedParameters
    parameters.ClientHandle = handle
    parameters.SamplingInterval = sampling_ns / 1e6
    parameters.QueueSize = queue
    parameters.DiscardOldest = True
    if deadband is not None:
        parameters.Filter = ua.DataChangeFilter(
            Trigger=ua.DataChangeTrigger.StatusValue,
            DeadbandType=int(ua.DeadbandType.Absolute),
            DeadbandValue=deadband,
        )
    return item


async def create_items(
    client: OpcUaClient,
    subscription: int,
    items: Sequence[ua.MonitoredItemCreateRequest],
    limits: Limits,
) -> list[ua.MonitoredItemCreateResult]:
    """Create items; what the server said to each. Raises LinkError or ProtocolError."""

    async def create(
        batch: Sequence[ua.MonitoredItemCreateRequest],
    ) -> list[ua.MonitoredItemCreateResult]:
        parameters = ua.CreateMonitoredItemsParameters()
        parameters.SubscriptionId = subscription
        parameters.TimestampsToReturn = ua.TimestampsToReturn.Both
        parameters.ItemsToCreate = list(batch)
        with mapped("monitored items"):
            answers = await client.uaclient.create_monitored_items(parameters)
            return checked_count(answers, len(batch))

    results: list[ua.MonitoredItemCreateResult] = []
    async for answers in in_batches(items, limits.items, create):
        results += answers
    return results


async def delete_items(
    client: OpcUaClient, subscription: int, ids: Sequence[int], limits: Limits
) -> set[int]:
    """Delete items; those that the server has no more. Raises LinkError or ProtocolError.

    A request that is refused deletes nothing, and ends no session: not all have the service.
    """

    async def delete(batch: Sequence[int]) -> list[ua.StatusCode]:
        parameters = ua.DeleteMonitoredItemsParameters()
        parameters.SubscriptionId = subscription
        parameters.MonitoredItemIds = list(batch)
        with mapped("monitored items"):
            answers = await client.uaclient.delete_monitored_items(parameters)
            return checked_count(list(answers), len(batch))

    results: list[ua.StatusCode] = []
    with contextlib.suppress(StatusError):
        async for answers in in_batches(ids, limits.items, delete):
            results += answers
    return {item for item, said in zip(ids, results, strict=False) if _is_gone(said)}


def _is_gone(said: ua.StatusCode) -> bool:
    return bool(said.is_good()) or int(said.value) == StatusCodes.BadMonitoredItemIdInvalid
