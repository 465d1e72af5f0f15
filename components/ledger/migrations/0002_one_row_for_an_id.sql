-- An id is one row of `entries`, also while it is only reserved: then its postings are `[]`, until the
-- reservation is posted or for good. `ids`, which held the callers' ids once more so that an entry and
-- a reservation could not both have one, cost every entry a row and a key. It goes first: whoever is
-- about to reserve something under an id of a caller's writes to it, so the reservation is there to be
-- read, or fails.
DROP TABLE ids;
INSERT INTO entries (id, kind, reference, reverses, metadata, created_by, created_at, postings, refusal)
    SELECT p.id, p.kind, p.reference, NULL, p.metadata, p.created_by, p.created_at, '[]', NULL
    FROM pending p WHERE NOT EXISTS (SELECT 1 FROM entries e WHERE e.id = p.id);
