-- The audit is chained anew by code (rechain.py), which drops audit_v1 in the end.

ALTER TABLE audit RENAME TO audit_v1;
CREATE TABLE audit (
    seq INTEGER PRIMARY KEY,
    kind TEXT NOT NULL,  -- of body, for searching: command, result, note, proof
    action TEXT NOT NULL,  -- of body
    body BLOB NOT NULL,  -- canonical JSON, with the hash before it as prev
    hash BLOB NOT NULL  -- SHA-256(body)
) STRICT;

ALTER TABLE letter RENAME TO letter_v1;
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
INSERT INTO letter (uplink, lane, epoch, seq, reason, utc_ns, state, changed_ns, note, body)
    SELECT uplink, lane, epoch, seq, reason, utc_ns, 'dead', utc_ns, '', body
    FROM letter_v1 ORDER BY utc_ns, rowid;
DROP TABLE letter_v1;
