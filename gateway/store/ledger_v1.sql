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
    body BLOB NOT NULL
) WITHOUT ROWID, STRICT;

-- How far each guard's journal is recorded; moves in the transaction of the alerts made of it.
CREATE TABLE journal (
    journal_id INTEGER NOT NULL,  -- two's complement of the unsigned id
    stream TEXT NOT NULL,  -- events, samples
    next_seq INTEGER NOT NULL,
    moved_ns INTEGER NOT NULL,
    PRIMARY KEY (journal_id, stream)
) WITHOUT ROWID, STRICT;

-- Who did what: a hash chain. hash = BLAKE2b-256(hash before, this entry).
CREATE TABLE audit (
    seq INTEGER PRIMARY KEY,
    utc_ns INTEGER NOT NULL,
    kind TEXT NOT NULL,  -- command, result, note, proof
    ref INTEGER,  -- result: the command's seq
    who TEXT NOT NULL,
    action TEXT NOT NULL,
    target TEXT NOT NULL,
    detail TEXT NOT NULL,  -- JSON
    hash BLOB NOT NULL
) STRICT;

-- The highest contiguous alert that an uplink has acknowledged.
CREATE TABLE cursor (
    uplink TEXT NOT NULL,
    lane TEXT NOT NULL,
    epoch INTEGER NOT NULL,
    seq INTEGER NOT NULL,
    PRIMARY KEY (uplink, lane)
) WITHOUT ROWID, STRICT;

-- What an uplink has refused for good, alerts and samples alike.
CREATE TABLE letter (
    uplink TEXT NOT NULL,
    lane TEXT NOT NULL,
    epoch INTEGER NOT NULL,  -- of the store that numbered it
    seq INTEGER NOT NULL,
    reason TEXT NOT NULL,
    utc_ns INTEGER NOT NULL,
    body BLOB NOT NULL,
    PRIMARY KEY (uplink, lane, epoch, seq)
) STRICT;
