-- The database that bridges share: jobs, schedules, and what could not be delivered. Times are
-- microseconds since the epoch by the server's clock, but for `last_fire`.

CREATE TABLE jobs (
    id          TEXT   PRIMARY KEY,
    -- Age among jobs of one priority: when it was put, and its place among those put with it.
    seq         BIGINT NOT NULL,
    queue       TEXT   NOT NULL,
    task        TEXT   NOT NULL,
    envelope    TEXT   NOT NULL,
    priority    BIGINT NOT NULL,
    -- queued | delayed (until eta) | leased | done | revoked (expired) | failed (refused for good)
    -- | dead (tries used up)
    state       TEXT   NOT NULL,
    alone       BIGINT NOT NULL,
    eta         BIGINT NOT NULL,
    lease_until BIGINT NOT NULL DEFAULT 0,
    -- <bridge>/<its life>
    lease_owner TEXT   NOT NULL DEFAULT '',
    attempts    BIGINT NOT NULL DEFAULT 0,
    enqueued_at BIGINT NOT NULL,
    started_at  BIGINT,
    finished_at BIGINT,
    result      TEXT,
    error       TEXT
);
CREATE INDEX jobs_queued   ON jobs (queue, priority, seq, id) WHERE state = 'queued';
CREATE INDEX jobs_delayed  ON jobs (queue, eta)               WHERE state = 'delayed';
CREATE INDEX jobs_leased   ON jobs (lease_until)              WHERE state = 'leased';
CREATE INDEX jobs_finished ON jobs (finished_at)              WHERE state IN ('done', 'revoked');
CREATE INDEX jobs_newest   ON jobs (seq);

CREATE TABLE schedules (
    id        TEXT   PRIMARY KEY,
    -- Fire times up to here are enqueued or left out on purpose.
    last_fire BIGINT NOT NULL
);

CREATE TABLE dead_letters (
    -- job: target is the queue; outbox: the service whose row was unreadable.
    kind     TEXT   NOT NULL,
    target   TEXT   NOT NULL,
    id       TEXT   NOT NULL,
    -- The topic or task.
    name     TEXT   NOT NULL,
    key      TEXT   NOT NULL,
    envelope TEXT   NOT NULL,
    error    TEXT   NOT NULL,
    attempts BIGINT NOT NULL,
    dead_at  BIGINT NOT NULL,
    PRIMARY KEY (kind, target, id)
);

-- One row per bridge, written for its commit alone: once it is on disk, so is everything before it.
CREATE TABLE barriers (
    bridge TEXT   PRIMARY KEY,
    at     BIGINT NOT NULL
);
