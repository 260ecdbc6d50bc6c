# cython: cdivision=True
"""Which heartbeats are withheld on purpose, so that a PLC's own watchdog acts.

An output that stays TRIP_FAILED for the watchdog's time, with no fallback that is confirmed, stops
the heartbeats of its device and of its fallbacks' devices, until it is confirmed or released; also
over a restart. Nothing here sends: ``writer`` does not beat where ``withheld`` says so.
"""

from libc.stdint cimport INT64_MAX, int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memset

from fastpath.bank cimport OutputRun
from fastpath.journal cimport journal_write, output_store
from fastpath.types cimport *

cdef enum:
    PASSES_MAX = 4  # fallbacks are at most four deep
    STOP_HEARTBEAT = 1  # on_output_failure

cdef struct HeartbeatPayload:  # records.PAYLOADS[HEARTBEAT_*]
    uint32_t device
    uint32_t reason
    uint64_t output_key


cdef void heartbeats_plan(Bank* bank) noexcept nogil:
    """For a program that begins to run: devices that it took over stay as they are."""
    cdef uint32_t i
    for i in range(bank.program.device_count):
        bank.withheld[i] = (
            1 if bank.shm.devices[i].flags & _DEVST_HEARTBEAT_WITHHELD else 0)
        bank.withheld_by[i] = 0


cdef void _cover(const Bank* bank, uint8_t* covered) noexcept nogil:
    """1 for every output whose purpose is confirmed: by itself, or by a fallback down its chain."""
    cdef const FallbackDef* f
    cdef uint32_t i
    cdef int _k
    for i in range(bank.program.output_count):
        covered[i] = (
            bank.runs[i].latch.state == _OUTS_TRIPPED and bank.runs[i].latch.confirmed != 0)
    for _k in range(PASSES_MAX):
        for i in range(bank.program.fallback_count):
            f = &bank.program.fallbacks[i]
            covered[f.output] |= covered[f.fallback]


cdef bint _beats(const Bank* bank, uint32_t output) noexcept nogil:
    """Its device has a heartbeat."""
    cdef uint32_t device = bank.program.outputs[output].device
    return device < bank.program.device_count and (
        bank.program.devices[device].flags & _DEVICE_HAS_HEARTBEAT) != 0


cdef int64_t _patience_ns(const Bank* bank, uint32_t output) noexcept nogil:
    """The watchdog of its device; without one the shortest of its fallbacks' devices."""
    cdef const FallbackDef* f
    cdef int64_t shortest_ns = INT64_MAX
    cdef uint32_t i
    if _beats(bank, output):
        return bank.program.devices[bank.program.outputs[output].device].watchdog_ns
    for i in range(bank.program.fallback_count):
        f = &bank.program.fallbacks[i]
        if f.output == output and _beats(bank, f.fallback):
            shortest_ns = min(
                shortest_ns,
                bank.program.devices[bank.program.outputs[f.fallback].device].watchdog_ns)
    return shortest_ns


cdef void _stop(Bank* bank, const uint8_t* covered, const Stamp* now) noexcept nogil:
    """Outputs whose failure nobody made good in time, into their latches."""
    cdef OutputRun* run
    cdef uint32_t i
    for i in range(bank.program.output_count):
        run = &bank.runs[i]
        if (
            run.latch.state == _OUTS_TRIP_FAILED
            and not run.latch.demand & _DEMAND_BEAT_STOPPED and not covered[i]
            and now.mono_ns - run.entered_ns >= _patience_ns(bank, i)
        ):
            run.latch.demand |= _DEMAND_BEAT_STOPPED
            output_store(&bank.shm.outputs[i], &run.latch)


cdef void _tell(Bank* bank, uint32_t device, bint stopped, const Stamp* now) noexcept nogil:
    cdef const OutputRun* run = &bank.runs[bank.withheld_by[device]]
    cdef DeviceStats* stats = &bank.shm.devices[device]
    cdef HeartbeatPayload payload
    memset(&payload, 0, sizeof(payload))
    payload.device = device
    payload.reason = run.failure
    payload.output_key = run.latch.key
    bank.withheld[device] = stopped
    stats.flags &= ~<uint32_t>_DEVST_HEARTBEAT_WITHHELD
    if stopped:
        stats.flags |= _DEVST_HEARTBEAT_WITHHELD
    journal_write(
        bank.shm, now, _EV_HEARTBEAT_STOP if stopped else _EV_HEARTBEAT_START, 0, device,
        bank.program.devices[device].key, &payload, sizeof(payload))


cdef void heartbeats_scan(Bank* bank, const Stamp* now) noexcept nogil:
    """After the outputs: who fails for how long, and whose heartbeats that stops."""
    cdef uint8_t covered[_OUTPUTS_MAX]
    cdef uint8_t stopped[_DEVICES_MAX]
    cdef const FallbackDef* f
    cdef uint32_t i, device
    if not bank.failing and not bank.withholding:
        return
    memset(stopped, 0, sizeof(stopped))
    if bank.program.on_output_failure == STOP_HEARTBEAT:
        _cover(bank, covered)
        _stop(bank, covered, now)
        for i in range(bank.program.output_count):
            if bank.runs[i].latch.demand & _DEMAND_BEAT_STOPPED:
                _mark(bank, i, i, stopped)
        for i in range(bank.program.fallback_count):
            f = &bank.program.fallbacks[i]
            if bank.runs[f.output].latch.demand & _DEMAND_BEAT_STOPPED:
                _mark(bank, f.fallback, f.output, stopped)
    bank.withholding = False
    for device in range(bank.program.device_count):
        bank.withholding |= stopped[device]
        if stopped[device] != bank.withheld[device]:
            _tell(bank, device, stopped[device], now)


cdef void _mark(
    Bank* bank, uint32_t output, uint32_t failed, uint8_t* stopped,
) noexcept nogil:
    """The heartbeat of the device that carries ``output`` stops because of ``failed``."""
    if not _beats(bank, output) or stopped[bank.program.outputs[output].device]:
        return
    stopped[bank.program.outputs[output].device] = 1
    bank.withheld_by[bank.program.outputs[output].device] = failed
