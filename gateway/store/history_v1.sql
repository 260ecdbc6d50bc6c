-- Samples. A row is one poll group's samples of one commit and one upstream message; its number is
-- given once and never again. Times are UTC nanoseconds.

CREATE TABLE meta (
    key TEXT PRIMARY KEY,
    value ANY
) WITHOUT ROWID, STRICT;

-- How far everything is; one line, moved in the transaction of the rows.
CREATE TABLE progress (
    id INTEGER PRIMARY KEY CHECK (id = 1),
    next_row INTEGER NOT NULL,
    samples INTEGER NOT NULL,  -- ever stored
    shed_rows INTEGER NOT NULL,
    shed_samples INTEGER NOT NULL,
    journal_id INTEGER,  -- two's complement of the unsigned id
    next_sample INTEGER  -- of that journal's sample ring
) STRICT;

-- The tags of one device and period. A site file that changes them makes a new line.
CREATE TABLE poll_group (
    id INTEGER PRIMARY KEY,
    group_key TEXT NOT NULL,
    tags TEXT NOT NULL,  -- JSON list of ids
    UNIQUE (group_key, tags)
) STRICT;

-- The unpacked end: one line per row.
CREATE TABLE tail (
    row INTEGER PRIMARY KEY,
    group_id INTEGER NOT NULL REFERENCES poll_group (id),
    members BLOB NOT NULL,  -- places in the group's tags, uint16 each; empty: all of them
    t_first INTEGER NOT NULL,
    t_last INTEGER NOT NULL,
    n INTEGER NOT NULL,  -- samples
    codec INTEGER NOT NULL,
    crc32 INTEGER NOT NULL,  -- of body
    body BLOB NOT NULL
) STRICT;

-- All rows of one group in first_row .. last_row. Chunks of one packing share that window.
CREATE TABLE chunk (
    id INTEGER PRIMARY KEY,
    first_row INTEGER NOT NULL,
    last_row INTEGER NOT NULL,
    group_id INTEGER NOT NULL REFERENCES poll_group (id),
    t_first INTEGER NOT NULL,
    t_last INTEGER NOT NULL,
    n INTEGER NOT NULL,
    codec INTEGER NOT NULL,
    crc32 INTEGER NOT NULL,  -- of rows and body
    rows BLOB NOT NULL,  -- where each row stands in body
    body BLOB NOT NULL
) STRICT;
CREATE INDEX chunk_window ON chunk (first_row);
CREATE INDEX chunk_time ON chunk (group_id, t_last);

-- Which rows an uplink gets in which lane; row first_row has first_seq there. last_row NULL: open.
CREATE TABLE lane_range (
    uplink TEXT NOT NULL,
    lane TEXT NOT NULL,
    first_row INTEGER NOT NULL,
    last_row INTEGER,
    first_seq INTEGER NOT NULL,
    PRIMARY KEY (uplink, lane, first_row)
) WITHOUT ROWID, STRICT;

-- The highest contiguous row, by its number in the lane, that an uplink has acknowledged.
CREATE TABLE cursor (
    uplink TEXT NOT NULL,
    lane TEXT NOT NULL,
    epoch INTEGER NOT NULL,
    seq INTEGER NOT NULL,
    PRIMARY KEY (uplink, lane)
) WITHOUT ROWID, STRICT;
