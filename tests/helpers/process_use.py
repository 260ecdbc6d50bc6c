"""Memory, page faults and writing of a process, as the kernel counts them."""

from pathlib import Path

_KIB = 1024


def private_bytes(pid: int) -> int:
    """Resident memory that no other process shares and that is not a shared file's."""
    rollup = _fields(Path(f"/proc/{pid}/smaps_rollup"))
    status = _fields(Path(f"/proc/{pid}/status"))
    shared = rollup["Shared_Clean"] + rollup["Shared_Dirty"]
    # Pages of guard.shm that nobody else has touched yet count as private.
    return (rollup["Rss"] - max(shared, status["RssShmem"])) * _KIB


def written_bytes(pid: int) -> int:
    """What it has had written to a disk since its start, and did not take back before it was."""
    fields = _fields(Path(f"/proc/{pid}/io"))
    return fields["write_bytes"] - fields["cancelled_write_bytes"]


def major_faults(pid: int) -> int:
    """Of all threads since the start of the process."""
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[9])


def _fields(path: Path) -> dict[str, int]:
    lines = (line.split() for line in path.read_text().splitlines())
    return {
        words[0].rstrip(":"): int(words[1])
        for words in lines
        if len(words) > 1 and words[1].isdigit()
    }
