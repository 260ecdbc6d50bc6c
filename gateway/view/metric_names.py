"""Every metric by name: its help, type and labels, in the order in which they are shown."""

from dataclasses import dataclass
from typing import Final, Literal

PREFIX: Final = "sitewarden_"


@dataclass(frozen=True, slots=True)
class MetricSpec:
    """One metric: its name without the prefix, its help, type and labels."""

    name: str
    help: str
    kind: Literal["gauge", "counter", "histogram"]
    labels: tuple[str, ...] = ()


METRICS: Final = (
    MetricSpec(
        "build_info",
        "Always 1; the version of the gateway.",
        "gauge",
        ("version",),
    ),
    MetricSpec(
        "simulated",
        "1 where every device is simulated and nothing here is about a real plant.",
        "gauge",
    ),
    MetricSpec(
        "start_time_seconds",
        "When this gateway process started, in seconds of Unix time.",
        "gauge",
    ),
    MetricSpec(
        "gateway_unclean_ends",
        "Gateway processes that ended without being told to since the last ordered stop.",
        "gauge",
    ),
    MetricSpec(
        "problem",
        "1 while something outside the guard is wrong: port in use, device away, store full ...",
        "gauge",
        ("kind", "id"),
    ),
    MetricSpec(
        "runtime_tmpfs",
        "1 where the runtime directory lives in memory, 0 where a page of guard.shm may wait.",
        "gauge",
    ),
    MetricSpec(
        "descriptors_open",
        "Descriptors that the gateway has open, those in reserve included.",
        "gauge",
    ),
    MetricSpec(
        "descriptors_max",
        "How many the gateway may have open; callers of the page wait below 32 free ones.",
        "gauge",
    ),
    MetricSpec(
        "clock_synchronised",
        "1 while the kernel says that the wall clock is synchronised.",
        "gauge",
    ),
    MetricSpec(
        "sqlite_outdated",
        "1 where SQLite is older than 3.51.3: a second process that writes may spoil a database.",
        "gauge",
    ),
    MetricSpec(
        "tag_value",
        "Newest value of a tag in its unit; left out while its quality is bad.",
        "gauge",
        ("tag", "unit"),
    ),
    MetricSpec(
        "tag_quality",
        "Quality of a tag: 0 bad, 1 uncertain, 2 good.",
        "gauge",
        ("tag",),
    ),
    MetricSpec(
        "device_up",
        "1 while a device answers and its readings are used.",
        "gauge",
        ("device",),
    ),
    MetricSpec(
        "device_requests_total",
        "Requests to a device by result: good, timeout, exception, refused, lost, connect; "
        "of serial instruments others, too.",
        "counter",
        ("device", "result"),
    ),
    MetricSpec(
        "device_on_backup",
        "1 while a device is reached by its second address, where it has one.",
        "gauge",
        ("device",),
    ),
    MetricSpec(
        "device_certificate_expiry_seconds",
        "Seconds until the certificate ends that a device showed.",
        "gauge",
        ("device",),
    ),
    MetricSpec(
        "device_clock_ahead_seconds",
        "How far a device's clock is ahead of ours, as it was told last.",
        "gauge",
        ("device",),
    ),
    MetricSpec(
        "device_poll_lateness_seconds",
        "How late the newest poll of a device began, for the devices that the gateway polls.",
        "gauge",
        ("device",),
    ),
    MetricSpec(
        "device_round_trip_seconds",
        "How long a device's newest request took (fast), or its newest poll of several.",
        "gauge",
        ("device",),
    ),
    MetricSpec(
        "device_polls_missed_total",
        "Polls that fell due while another one ran or the device was away.",
        "counter",
        ("device",),
    ),
    MetricSpec(
        "heartbeat_withheld",
        "1 while the guard withholds a device's heartbeat because an output cannot be confirmed.",
        "gauge",
        ("device",),
    ),
    MetricSpec(
        "lease_lost",
        "1 while another guard owns a device's outputs and this one writes nothing there.",
        "gauge",
        ("device",),
    ),
    MetricSpec(
        "watchdog_registers_wrong",
        "1 while a register of a device's watchdog is not as the site file says.",
        "gauge",
        ("device",),
    ),
    MetricSpec(
        "guard_up",
        "1 while a guard process holds guard.shm.",
        "gauge",
    ),
    MetricSpec(
        "guard_connected",
        "1 while the gateway has a session with the guard.",
        "gauge",
    ),
    MetricSpec(
        "guard_realtime",
        "1 where the scan thread runs under SCHED_FIFO.",
        "gauge",
    ),
    MetricSpec(
        "guard_locked",
        "1 where the guard's shared file, programs and stack are locked in memory.",
        "gauge",
    ),
    MetricSpec(
        "guard_starts_total",
        "Starts of the guard since this machine started.",
        "counter",
    ),
    MetricSpec(
        "guard_scans_total",
        "Scans of the guard.",
        "counter",
    ),
    MetricSpec(
        "guard_overruns_total",
        "Scans of the guard that took longer than their budget.",
        "counter",
    ),
    MetricSpec(
        "guard_scans_late_total",
        "Scans of the guard that began late by more than their tick.",
        "counter",
    ),
    MetricSpec(
        "guard_scan_max_seconds",
        "Longest scan since the guard's start.",
        "gauge",
    ),
    MetricSpec(
        "interlock_state",
        "State of an interlock: 1 normal, 2 pending, 3 tripped, 4 ready to reset.",
        "gauge",
        ("interlock",),
    ),
    MetricSpec(
        "interlock_trips_total",
        "Trips of an interlock; of an unarmed one: how often it would have tripped.",
        "counter",
        ("interlock",),
    ),
    MetricSpec(
        "interlock_withheld_demands_total",
        "Demands of an interlock that a bypass kept from its outputs.",
        "counter",
        ("interlock",),
    ),
    MetricSpec(
        "interlock_bypassed",
        "1 while an interlock is bypassed.",
        "gauge",
        ("interlock",),
    ),
    MetricSpec(
        "interlock_withheld",
        "1 while a bypass keeps an interlock from its outputs.",
        "gauge",
        ("interlock",),
    ),
    MetricSpec(
        "interlock_bypass_left_seconds",
        "Time until the end of an interlock's bypass, 0 where there is none.",
        "gauge",
        ("interlock",),
    ),
    MetricSpec(
        "interlock_proof_tests_total",
        "Proof tests of an interlock on record.",
        "counter",
        ("interlock",),
    ),
    MetricSpec(
        "interlock_proof_test_timestamp_seconds",
        "When a proof test of an interlock passed last, in seconds of Unix time; 0: never.",
        "gauge",
        ("interlock",),
    ),
    MetricSpec(
        "interlock_proof_test_overdue",
        "1 while the proof test of an interlock with test_every is overdue.",
        "gauge",
        ("interlock",),
    ),
    MetricSpec(
        "tag_bypassed",
        "1 while comparisons on a tag that an interlock reads abstain.",
        "gauge",
        ("tag",),
    ),
    MetricSpec(
        "interlocks_unarmed",
        "Interlocks that are evaluated but move no output.",
        "gauge",
    ),
    MetricSpec(
        "trip_reaction_seconds",
        "From the arrival of the deciding sample to the first write of the trip, confirmed trips.",
        "histogram",
    ),
    MetricSpec(
        "outputs_unconfirmed",
        "Outputs commanded to their trip value that have not confirmed it.",
        "gauge",
    ),
    MetricSpec(
        "output_state",
        "State: 1 released, 2 tripping, 3 tripped, 4 trip failed, 5 releasing, 6 held.",
        "gauge",
        ("output",),
    ),
    MetricSpec(
        "output_silenced",
        "1 while an output is demanded and silenced for a time.",
        "gauge",
        ("output",),
    ),
    MetricSpec(
        "output_stands_in",
        "1 while an output trips as the fallback of one that is not confirmed.",
        "gauge",
        ("output",),
    ),
    MetricSpec(
        "output_unverified",
        "1 while an output is tripped but nobody hears of it.",
        "gauge",
        ("output",),
    ),
    MetricSpec(
        "output_writes_total",
        "Writes of an output by the gateway, by result: good, failed.",
        "counter",
        ("output", "result"),
    ),
    MetricSpec(
        "alarms_active",
        "Raised alarms, trips and other alerts that nothing has ended yet.",
        "gauge",
        ("kind", "priority"),
    ),
    MetricSpec(
        "uplink_up",
        "1 while the other end of an uplink accepts what is sent.",
        "gauge",
        ("uplink",),
    ),
    MetricSpec(
        "uplink_backlog_items",
        "What waits to be sent: alerts, and messages of samples.",
        "gauge",
        ("uplink", "lane"),
    ),
    MetricSpec(
        "uplink_oldest_seconds",
        "Age of the oldest item that waits to be sent, 0 where nothing waits.",
        "gauge",
        ("uplink", "lane"),
    ),
    MetricSpec(
        "uplink_backlog_bytes",
        "Stored bytes from the oldest item that waits on; of many alerts an estimate.",
        "gauge",
        ("uplink", "lane"),
    ),
    MetricSpec(
        "uplink_backlog_ratio",
        "The same as a share of the bound beyond which the oldest would be lost.",
        "gauge",
        ("uplink", "lane"),
    ),
    MetricSpec(
        "uplink_full_seconds",
        "Time until that bound at the rate of ten minutes; infinite where it does not grow.",
        "gauge",
        ("uplink", "lane"),
    ),
    MetricSpec(
        "uplink_sent_total",
        "Items that the other end of an uplink has acknowledged.",
        "counter",
        ("uplink", "lane"),
    ),
    MetricSpec(
        "letters_total",
        "Items that an uplink refused for good, set aside as dead letters.",
        "counter",
        ("uplink", "reason"),
    ),
    MetricSpec(
        "letters_by_state",
        "Dead letters by state: dead, queued to be sent again, resent, discarded.",
        "gauge",
        ("uplink", "state"),
    ),
    MetricSpec(
        "audit_info",
        "Always 1; the head of the audit's hash chain.",
        "gauge",
        ("head",),
    ),
    MetricSpec(
        "audit_entries",
        "Entries of the audit's hash chain.",
        "gauge",
    ),
    MetricSpec(
        "certificate_expiry_seconds",
        "Seconds until a certificate ends: an uplink's own (client), its other end's (server).",
        "gauge",
        ("uplink", "side"),
    ),
    MetricSpec(
        "store_up",
        "1 while a store takes what it is given.",
        "gauge",
        ("store",),
    ),
    MetricSpec(
        "store_bytes",
        "Size of a store on disk.",
        "gauge",
        ("store",),
    ),
    MetricSpec(
        "store_bytes_written_total",
        "Bytes written to the disk by a store.",
        "counter",
        ("store",),
    ),
    MetricSpec(
        "recorder_events_total",
        "Journal records of the guard that the recorder has taken.",
        "counter",
    ),
    MetricSpec(
        "recorder_samples_total",
        "Samples that the recorder has taken, from the guard and from the gateway's devices.",
        "counter",
    ),
    MetricSpec(
        "dropped_total",
        "What was dropped, refused or shed, by part and reason.",
        "counter",
        ("part", "reason"),
    ),
)
