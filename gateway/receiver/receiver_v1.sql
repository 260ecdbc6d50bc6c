-- What a receiving platform keeps. Everything of one answer is in one transaction before it leaves.

CREATE TABLE property (name TEXT PRIMARY KEY, value) WITHOUT ROWID;

-- One sequence: numbers without a gap per gateway, epoch and lane (and uplink, for samples).
CREATE TABLE stream (
    id INTEGER PRIMARY KEY,
    gateway TEXT NOT NULL,
    uplink TEXT NOT NULL, -- '' for alerts
    epoch INTEGER NOT NULL, -- UTC ns
    lane TEXT NOT NULL, -- alert, live, backfill
    messages INTEGER NOT NULL, -- taken; doubles and gap markers are not among them
    samples INTEGER NOT NULL,
    doubles INTEGER NOT NULL, -- came again, the same
    differing INTEGER NOT NULL, -- came again with other content: kept as it came first
    t_first INTEGER NOT NULL, -- UTC ns of samples, 0: none yet
    t_last INTEGER NOT NULL,
    UNIQUE (gateway, uplink, epoch, lane)
);

-- The numbers that have come, as ranges that do not meet.
CREATE TABLE came (
    stream INTEGER NOT NULL,
    first INTEGER NOT NULL,
    last INTEGER NOT NULL,
    PRIMARY KEY (stream, first)
) WITHOUT ROWID;

-- The numbers of which the gateway has said that they will not come.
CREATE TABLE gap (
    stream INTEGER NOT NULL,
    first INTEGER NOT NULL,
    last INTEGER NOT NULL,
    reason TEXT NOT NULL,
    PRIMARY KEY (stream, first, last)
) WITHOUT ROWID;

CREATE TABLE alert (
    arrival INTEGER PRIMARY KEY, -- in this order
    id TEXT NOT NULL UNIQUE,
    stream INTEGER NOT NULL,
    seq INTEGER NOT NULL,
    kind TEXT NOT NULL,
    state TEXT NOT NULL, -- raised, cleared, event
    ref TEXT, -- id of the raise that this one ends, follows or repeats
    time TEXT NOT NULL, -- RFC 3339, UTC
    digest BLOB NOT NULL,
    body BLOB NOT NULL -- JSON as it came
);
CREATE INDEX alert_ref ON alert (ref) WHERE ref IS NOT NULL;

CREATE TABLE message (
    arrival INTEGER PRIMARY KEY,
    stream INTEGER NOT NULL,
    seq INTEGER NOT NULL,
    t_first INTEGER NOT NULL, -- UTC ns
    t_last INTEGER NOT NULL,
    n INTEGER NOT NULL, -- samples
    digest BLOB NOT NULL,
    body BLOB NOT NULL, -- JSON as it came, zlib
    UNIQUE (stream, seq)
);

-- Doubles with other content: the first thousand, for whoever looks into it.
CREATE TABLE differing (
    arrival INTEGER PRIMARY KEY,
    stream INTEGER NOT NULL,
    seq INTEGER NOT NULL,
    body BLOB NOT NULL
);

-- What an uplink of a gateway last said of itself, and when that came.
CREATE TABLE gateway (
    gateway TEXT NOT NULL,
    uplink TEXT NOT NULL,
    state TEXT NOT NULL,
    utc_ns INTEGER NOT NULL,
    PRIMARY KEY (gateway, uplink)
) WITHOUT ROWID;

-- What was not taken, by reason.
CREATE TABLE refused (reason TEXT PRIMARY KEY, count INTEGER NOT NULL) WITHOUT ROWID;
