-- The rows come over by code (active.py), which drops active_v2 in the end.

ALTER TABLE active RENAME TO active_v2;
CREATE TABLE active (
    subject TEXT PRIMARY KEY,
    id TEXT NOT NULL,
    body BLOB NOT NULL,
    crc32 INTEGER NOT NULL  -- of all three
) WITHOUT ROWID, STRICT;
