"""What happens when a value arrives, or does not: image, windows, journal, quality record."""

from libc.string cimport memcmp, memset

from fastpath.image cimport slot_touch, slot_write
from fastpath.journal cimport journal_write, sample_write
from fastpath.types cimport *
from fastpath.windows cimport windows_take, windows_touch

cdef struct QualityPayload:  # records.PAYLOADS[TAG_QUALITY]
    uint32_t slot
    uint8_t old_quality
    uint8_t old_reason
    uint8_t quality
    uint8_t reason
    double value


cdef bint _due(
    const TagDef* tag, const TagRun* run, double value, uint8_t quality, uint8_t reason,
    int64_t mono_ns,
) noexcept nogil:
    """Does this sample enter the journal, by the tag's ``record``?"""
    if run.recorded_ns == 0 or tag.record == _RECORD_ALL:
        return True
    if quality != run.recorded_quality or reason != run.recorded_reason:
        return True
    if tag.record == _RECORD_ONE_SECOND:
        return mono_ns - run.recorded_ns >= 1_000_000_000
    # By its bits: a NaN equals itself here.
    return memcmp(&value, &run.recorded, sizeof(double)) != 0


cdef void _tell(
    Intake* intake, uint32_t slot, double value, uint8_t quality, uint8_t reason,
    const Stamp* now,
) noexcept nogil:
    """A record where the quality of an interlock's tag changed."""
    cdef TagRun* run = &intake.runs[slot]
    cdef QualityPayload payload
    if run.quality == quality and run.reason == reason:
        return
    if intake.program.tags[slot].flags & (_TAG_IN_INTERLOCK | _TAG_WATCHDOG):
        memset(&payload, 0, sizeof(payload))
        payload.slot = slot
        payload.old_quality = run.quality
        payload.old_reason = run.reason
        payload.quality = quality
        payload.reason = reason
        payload.value = value
        journal_write(
            intake.shm, now, _EV_TAG_QUALITY, 0, slot, intake.program.tags[slot].key,
            &payload, sizeof(payload))
    run.quality = quality
    run.reason = reason


cdef bint _stuck(
    TagRun* run, int64_t stuck_ns, double value, uint8_t quality, int64_t mono_ns,
) noexcept nogil:
    """Has it been the same to the last bit for that long? What failed in between does not count."""
    if quality == _Q_BAD:
        run.still_ns = 0
        return False
    if not run.watched or memcmp(&value, &run.still, sizeof(double)) != 0:
        run.stood_ns = 0
    elif run.still_ns != 0:
        run.stood_ns += max(mono_ns - run.still_ns, <int64_t>0)
    run.watched = 1
    run.still = value
    run.still_ns = mono_ns
    return run.stood_ns >= stuck_ns


cdef void intake_store(
    Intake* intake, uint32_t slot, double value, uint8_t quality, uint8_t reason,
    int64_t mono_ns, int64_t utc_ns, const Stamp* now,
) noexcept nogil:
    """One value into the image; a guard's own tag into the journal as well."""
    cdef const TagDef* tag = &intake.program.tags[slot]
    cdef TagRun* run = &intake.runs[slot]
    if tag.stuck_ns > 0 and _stuck(run, tag.stuck_ns, value, quality, mono_ns):
        quality = _Q_BAD
        reason = _REASON_STUCK
    slot_write(&intake.shm.image[slot], value, quality, reason, mono_ns, utc_ns, 0)
    windows_take(intake.windows, slot, value, quality, mono_ns)
    if tag.owner == _OWNER_GUARD and _due(tag, run, value, quality, reason, mono_ns):
        sample_write(intake.shm, slot, quality, reason, value, mono_ns, utc_ns)
        run.recorded = value
        run.recorded_ns = mono_ns
        run.recorded_quality = quality
        run.recorded_reason = reason
    _tell(intake, slot, value, quality, reason, now)


cdef void intake_touch(Intake* intake, uint32_t slot, int64_t mono_ns) noexcept nogil:
    """The tag still has the value that it had; its age alone is refreshed."""
    slot_touch(&intake.shm.image[slot], mono_ns)
    windows_touch(intake.windows, slot, mono_ns)


cdef void intake_age(Intake* intake, const Stamp* now, bint pause) noexcept nogil:
    """Make BAD what is too old; after a pause everything that was read before it.

    The age itself stays in the slot, so that a reading that comes late is still newer.
    """
    cdef const TagDef* tag
    cdef const Slot* slot
    cdef TagRun* run
    cdef uint8_t reason
    cdef uint32_t i
    for i in range(intake.program.tag_count):
        tag = &intake.program.tags[i]
        slot = &intake.shm.image[i]
        if tag.owner == _OWNER_SYSTEM or slot.mono_ns == 0:
            continue
        if not pause and (
            tag.stale_after_ns == 0 or now.mono_ns - slot.mono_ns <= tag.stale_after_ns
        ):
            continue
        if slot.quality == _Q_BAD and (
            slot.reason == _REASON_STALE or slot.reason == _REASON_COMM_FAILURE
        ):
            continue
        if (
            slot.quality == _Q_BAD and slot.reason == _REASON_DEVICE_FAILURE
            and tag.device != _NONE_U16 and intake.device_up[tag.device]
        ):
            continue  # a refused register is asked for rarely: its reason says more than its age
        run = &intake.runs[i]
        run.still_ns = 0
        if pause:
            windows_take(intake.windows, i, slot.value, _Q_BAD, now.mono_ns)
        reason = _REASON_STALE
        if tag.device != _NONE_U16 and not intake.device_up[tag.device]:
            reason = _REASON_COMM_FAILURE
        slot_write(
            &intake.shm.image[i], slot.value, _Q_BAD, reason, slot.mono_ns, slot.utc_ns,
            slot.source_utc_ns)
        if tag.owner == _OWNER_GUARD:
            sample_write(
                intake.shm, i, _Q_BAD, reason, slot.value, now.mono_ns, now.utc_ns)
            run.recorded_quality = _Q_BAD
            run.recorded_reason = reason
        _tell(intake, i, slot.value, _Q_BAD, reason, now)
