CREATE TABLE users (
    id TEXT PRIMARY KEY,
    username TEXT NOT NULL UNIQUE,
    email TEXT NOT NULL UNIQUE,
    -- Argon2id in PHC form, or `dev` for a dev identity whose password was never used.
    password TEXT NOT NULL,
    -- Separated by one space.
    roles TEXT NOT NULL,
    -- active, disabled
    state TEXT NOT NULL,
    version BIGINT NOT NULL,
    created_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL
);

CREATE TABLE clients (
    id TEXT PRIMARY KEY,
    name TEXT NOT NULL,
    -- SHA-256 of the secret, base64url; NULL for a public client.
    secret TEXT,
    -- Separated by one space.
    grants TEXT NOT NULL,
    roles TEXT NOT NULL,
    created_at BIGINT NOT NULL
);
INSERT INTO clients (id, name, secret, grants, roles, created_at)
VALUES ('innover-cli', 'The innover command line', NULL, 'password refresh_token', '', 0);

-- One row per sign-in: every refresh token that descends from it belongs to it.
CREATE TABLE refresh_families (
    id TEXT PRIMARY KEY,
    client_id TEXT NOT NULL,
    subject TEXT NOT NULL,
    scope TEXT NOT NULL,
    -- The one refresh token that is good now.
    current TEXT NOT NULL,
    version BIGINT NOT NULL,
    revoked_at BIGINT,
    expires_at BIGINT NOT NULL,
    created_at BIGINT NOT NULL
);
CREATE INDEX refresh_families_subject ON refresh_families (subject);

-- Every refresh token ever handed out, by its SHA-256, so that a used one is recognised.
CREATE TABLE refresh_tokens (
    id TEXT PRIMARY KEY,
    family TEXT NOT NULL,
    created_at BIGINT NOT NULL
);

CREATE TABLE revoked_tokens (
    jti TEXT PRIMARY KEY,
    expires_at BIGINT NOT NULL
);

-- Failed sign-ins per account name, known or not.
CREATE TABLE throttle (
    id TEXT PRIMARY KEY,
    failures BIGINT NOT NULL,
    locked_until BIGINT NOT NULL,
    updated_at BIGINT NOT NULL
);

CREATE TABLE outbox (id TEXT PRIMARY KEY, topic TEXT NOT NULL, key TEXT NOT NULL, key_version BIGINT NOT NULL, type TEXT NOT NULL, payload TEXT NOT NULL, headers TEXT NOT NULL, created_at BIGINT NOT NULL);
CREATE TABLE inbox (id TEXT PRIMARY KEY, handled_at BIGINT NOT NULL, result TEXT);
CREATE TABLE idempotency (id TEXT PRIMARY KEY, fields TEXT NOT NULL, status BIGINT NOT NULL, response TEXT NOT NULL, created_at BIGINT NOT NULL);
