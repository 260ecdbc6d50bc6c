-- Samples. A piece is what one commit adds for one poll group; a chunk is one poll group's samples
-- of a window of pieces. A message is what leaves: a piece while the link is up, otherwise one of
-- the parts into which a chunk is cut. Numbers are given once and never again. Times are UTC
-- nanoseconds.

CREATE TABLE meta (
    key TEXT PRIMARY KEY,
    value ANY
) WITHOUT ROWID, STRICT;

-- How far everything is; one line, moved in the transaction of what it counts.
CREATE TABLE progress (
    id INTEGER PRIMARY KEY CHECK (id = 1),
    next_piece INTEGER NOT NULL,
    next_message INTEGER NOT NULL,
    packed_to INTEGER NOT NULL,  -- the last piece that is in a chunk, or was shed
    samples INTEGER NOT NULL,  -- ever stored
    shed_pieces INTEGER NOT NULL,
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

-- Pieces that are not packed, and up to packed_to those that an uplink is still owed live.
CREATE TABLE tail (
    piece INTEGER PRIMARY KEY,
    group_id INTEGER NOT NULL REFERENCES poll_group (id),
    members BLOB NOT NULL,  -- places in the group's tags, uint16 each; empty: all of them
    t_first INTEGER NOT NULL,
    t_last INTEGER NOT NULL,
    n INTEGER NOT NULL,  -- samples
    codec INTEGER NOT NULL,
    crc32 INTEGER NOT NULL,  -- of body
    body BLOB NOT NULL
) STRICT;

-- All pieces of one group in first_piece .. last_piece. Chunks of one window share those two.
CREATE TABLE chunk (
    id INTEGER PRIMARY KEY,
    first_piece INTEGER NOT NULL,
    last_piece INTEGER NOT NULL,
    group_id INTEGER NOT NULL REFERENCES poll_group (id),
    members BLOB NOT NULL,
    t_first INTEGER NOT NULL,
    t_last INTEGER NOT NULL,
    n INTEGER NOT NULL,
    first_message INTEGER NOT NULL,
    messages INTEGER NOT NULL,  -- 0: no uplink gets it as backfill
    codec INTEGER NOT NULL,
    crc32 INTEGER NOT NULL,
    body BLOB NOT NULL
) STRICT;
CREATE INDEX chunk_window ON chunk (last_piece);
CREATE INDEX chunk_message ON chunk (first_message) WHERE messages > 0;
CREATE INDEX chunk_time ON chunk (group_id, t_last);

-- Which pieces an uplink gets in which lane; last_piece NULL: open. first_seq: the number of
-- first_piece in the live lane; 0 in backfill, which numbers messages.
CREATE TABLE lane_range (
    uplink TEXT NOT NULL,
    lane TEXT NOT NULL,
    first_piece INTEGER NOT NULL,
    last_piece INTEGER,
    first_seq INTEGER NOT NULL,
    PRIMARY KEY (uplink, lane, first_piece)
) WITHOUT ROWID, STRICT;

-- Which messages an uplink gets as backfill; first_message has first_seq there.
CREATE TABLE message_range (
    uplink TEXT NOT NULL,
    first_message INTEGER NOT NULL,
    last_message INTEGER NOT NULL,
    first_seq INTEGER NOT NULL,
    PRIMARY KEY (uplink, first_message)
) WITHOUT ROWID, STRICT;

-- The highest contiguous sequence that an uplink has acknowledged.
CREATE TABLE cursor (
    uplink TEXT NOT NULL,
    lane TEXT NOT NULL,
    epoch INTEGER NOT NULL,
    seq INTEGER NOT NULL,
    PRIMARY KEY (uplink, lane)
) WITHOUT ROWID, STRICT;

-- Messages that were shed before the uplink had them.
CREATE TABLE shed (
    uplink TEXT NOT NULL,
    lane TEXT NOT NULL,
    messages INTEGER NOT NULL,
    PRIMARY KEY (uplink, lane)
) WITHOUT ROWID, STRICT;

-- The samples of a window of pieces of one group by buckets of time; a bucket may stand in parts in
-- several lines. The id has the last piece of the window (tiers.line_id), so the lines go with their
-- chunks. Body: codec 1, of each tag of the group five places.
CREATE TABLE summary (
    id INTEGER PRIMARY KEY,
    group_id INTEGER NOT NULL REFERENCES poll_group (id),
    t_first INTEGER NOT NULL,
    t_last INTEGER NOT NULL,
    n INTEGER NOT NULL,  -- values: five of each bucket
    crc32 INTEGER NOT NULL,
    body BLOB NOT NULL
) STRICT;
CREATE INDEX summary_time ON summary (group_id, t_last);

-- What the summaries come to; moved in the transaction of what it counts.
CREATE TABLE tier (
    id INTEGER PRIMARY KEY CHECK (id = 1),
    buckets INTEGER NOT NULL,
    bytes INTEGER NOT NULL,
    shed_buckets INTEGER NOT NULL
) STRICT;
