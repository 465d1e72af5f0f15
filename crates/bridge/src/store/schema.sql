-- The bridge's own file: the embedded bus, the job queue, and what could not be delivered.
-- Times are microseconds since the epoch.

CREATE TABLE meta (
    key   TEXT PRIMARY KEY,
    value TEXT NOT NULL
) STRICT, WITHOUT ROWID;

-- AUTOINCREMENT: a cursor names a seq, so one must not be given twice even when retention has
-- emptied the table.
CREATE TABLE event_log (
    seq         INTEGER PRIMARY KEY AUTOINCREMENT,
    -- A relay that died between publishing and deleting publishes again; this makes it once.
    id          TEXT    NOT NULL UNIQUE,
    topic       TEXT    NOT NULL,
    key         TEXT    NOT NULL,
    -- The whole CloudEvent as JSON: a delivery joins envelopes, it does not parse them.
    envelope    TEXT    NOT NULL,
    appended_at INTEGER NOT NULL
) STRICT;

CREATE TABLE cursors (
    subscriber TEXT    PRIMARY KEY,
    -- Every event up to here is acknowledged, in `retries`, or in `dead_letters`.
    seq        INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE retries (
    subscriber TEXT    NOT NULL,
    seq        INTEGER NOT NULL,
    key        TEXT    NOT NULL,
    -- 0: never delivered, it waits behind an earlier event of its key.
    attempts   INTEGER NOT NULL,
    next_at    INTEGER NOT NULL,
    -- 1: suspected of failing whole batches, delivered by itself.
    alone      INTEGER NOT NULL,
    error      TEXT    NOT NULL,
    PRIMARY KEY (subscriber, seq)
) STRICT, WITHOUT ROWID;

CREATE TABLE jobs (
    seq         INTEGER PRIMARY KEY AUTOINCREMENT,
    id          TEXT    NOT NULL UNIQUE,
    queue       TEXT    NOT NULL,
    task        TEXT    NOT NULL,
    envelope    TEXT    NOT NULL,
    priority    INTEGER NOT NULL,
    -- queued | delayed (until eta) | leased | done | revoked (expired) | failed (refused for good)
    -- | dead (tries used up)
    state       TEXT    NOT NULL,
    alone       INTEGER NOT NULL DEFAULT 0,
    eta         INTEGER NOT NULL,
    lease_until INTEGER NOT NULL DEFAULT 0,
    lease_owner TEXT    NOT NULL DEFAULT '',
    attempts    INTEGER NOT NULL DEFAULT 0,
    enqueued_at INTEGER NOT NULL,
    started_at  INTEGER,
    finished_at INTEGER,
    result      TEXT,
    error       TEXT
) STRICT;
CREATE INDEX jobs_queued   ON jobs (queue, priority, seq) WHERE state = 'queued';
CREATE INDEX jobs_delayed  ON jobs (queue, eta)           WHERE state = 'delayed';
CREATE INDEX jobs_leased   ON jobs (lease_until)          WHERE state = 'leased';
CREATE INDEX jobs_finished ON jobs (finished_at)          WHERE state IN ('done', 'revoked');

CREATE TABLE schedules (
    id        TEXT    PRIMARY KEY,
    -- Fire times up to here are enqueued or left out on purpose.
    last_fire INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE dead_letters (
    seq      INTEGER PRIMARY KEY AUTOINCREMENT,
    -- event: target is the subscriber; job: the queue; outbox: the service whose row was unreadable.
    kind     TEXT    NOT NULL,
    target   TEXT    NOT NULL,
    id       TEXT    NOT NULL,
    -- The topic or task.
    name     TEXT    NOT NULL,
    key      TEXT    NOT NULL,
    envelope TEXT    NOT NULL,
    error    TEXT    NOT NULL,
    attempts INTEGER NOT NULL,
    dead_at  INTEGER NOT NULL,
    UNIQUE (kind, target, id)
) STRICT;
