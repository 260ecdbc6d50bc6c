-- Alerts, audit, operator state. Times are UTC nanoseconds. STRICT: quick_check looks at the types.

CREATE TABLE meta (
    key TEXT PRIMARY KEY,
    value ANY
) WITHOUT ROWID, STRICT;

-- What leaves, in the order in which it leaves. Gap-free from 1.
CREATE TABLE alert (
    seq INTEGER PRIMARY KEY,
    kind TEXT NOT NULL,
    recorded_ns INTEGER NOT NULL,
    crc32 INTEGER NOT NULL,  -- of body
    body BLOB NOT NULL  -- JSON without audit_head and historical
) STRICT;

-- Raises that nothing has ended yet.
CREATE TABLE active (
    subject TEXT PRIMARY KEY,
    id TEXT NOT NULL,
    body BLOB NOT NULL,
    crc32 INTEGER NOT NULL  -- of all three
) WITHOUT ROWID, STRICT;

-- How far each guard's journal is recorded; moves in the transaction of the alerts made of it.
CREATE TABLE journal (
    journal_id INTEGER NOT NULL,  -- two's complement of the unsigned id
    stream TEXT NOT NULL,  -- events, samples
    next_seq INTEGER NOT NULL,
    moved_ns INTEGER NOT NULL,
    PRIMARY KEY (journal_id, stream)
) WITHOUT ROWID, STRICT;

-- Who did what: a hash chain, gap-free from 1.
CREATE TABLE audit (
    seq INTEGER PRIMARY KEY,
    kind TEXT NOT NULL,  -- of body, for searching: command, result, note, proof
    action TEXT NOT NULL,  -- of body
    body BLOB NOT NULL,  -- canonical JSON, with the hash before it as prev
    hash BLOB NOT NULL  -- SHA-256(body)
) STRICT;

-- The highest contiguous alert that an uplink has acknowledged.
CREATE TABLE cursor (
    uplink TEXT NOT NULL,
    lane TEXT NOT NULL,
    epoch INTEGER NOT NULL,
    seq INTEGER NOT NULL,
    PRIMARY KEY (uplink, lane)
) WITHOUT ROWID, STRICT;

-- What an uplink has refused for good, alerts and samples alike. None is ever forgotten.
CREATE TABLE letter (
    id INTEGER PRIMARY KEY,
    uplink TEXT NOT NULL,
    lane TEXT NOT NULL,
    epoch INTEGER NOT NULL,  -- of the store that numbered it
    seq INTEGER NOT NULL,
    reason TEXT NOT NULL,
    utc_ns INTEGER NOT NULL,
    state TEXT NOT NULL,  -- dead, queued (to be sent again), resent (and taken), discarded
    changed_ns INTEGER NOT NULL,
    note TEXT NOT NULL,  -- discarded: why; queued in vain: the newest refusal
    body BLOB NOT NULL,  -- empty once it is resent or discarded
    UNIQUE (uplink, lane, epoch, seq)
) STRICT;
