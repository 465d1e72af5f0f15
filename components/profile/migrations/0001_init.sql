-- What the fields of one owner are encrypted under: `person:<subject>`, and `house:numbers` for the
-- digests by which numbers of documents are compared. `wrapped` is the data key, encrypted under the
-- key `kek_id` of the environment; a destroyed one is overwritten with a filler of the same length.
CREATE TABLE data_keys (
    owner TEXT PRIMARY KEY,
    id TEXT NOT NULL,
    kek_id TEXT NOT NULL,
    wrapped TEXT NOT NULL,
    destroyed BIGINT NOT NULL,
    updated_at BIGINT NOT NULL
);
CREATE INDEX data_keys_by_kek ON data_keys (kek_id, owner);

-- One per subject of the identity service. username, email, display_name and country are encrypted
-- under the subject's data key, and empty once it is erased.
CREATE TABLE profiles (
    id TEXT PRIMARY KEY,
    username TEXT NOT NULL,
    email TEXT NOT NULL,
    display_name TEXT NOT NULL,
    country TEXT,
    kyc_tier BIGINT NOT NULL,
    tier_override BIGINT,
    -- What the tier follows from: whether there is an address (0 or 1), how many documents are verified.
    has_email BIGINT NOT NULL,
    identity_documents BIGINT NOT NULL,
    address_documents BIGINT NOT NULL,
    -- Documents ever submitted, and bytes of the files held: both bounded.
    documents BIGINT NOT NULL,
    content_bytes BIGINT NOT NULL,
    state TEXT NOT NULL,
    version BIGINT NOT NULL,
    created_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL
);

-- country and number are encrypted under the subject's data key; number_digest is keyed with the
-- house's, so that equal numbers are found and none can be guessed. expires_on is plain: a job looks
-- for it.
CREATE TABLE documents (
    id TEXT PRIMARY KEY,
    profile_id TEXT NOT NULL,
    type TEXT NOT NULL,
    country TEXT NOT NULL,
    number TEXT,
    number_digest TEXT,
    expires_on TEXT,
    media_type TEXT,
    content_bytes BIGINT NOT NULL,
    state TEXT NOT NULL,
    findings TEXT NOT NULL,
    version BIGINT NOT NULL,
    created_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL
);
CREATE INDEX documents_of_profile ON documents (profile_id, id);
CREATE INDEX documents_by_number ON documents (number_digest);
CREATE INDEX documents_by_state ON documents (state, id);
CREATE INDEX documents_by_expiry ON documents (state, expires_on);

-- The files, encrypted; apart, so that a list of documents does not read them.
CREATE TABLE document_contents (
    document_id TEXT PRIMARY KEY,
    profile_id TEXT NOT NULL,
    content TEXT NOT NULL
);
CREATE INDEX document_contents_of_profile ON document_contents (profile_id);

-- Who decided or looked at what (a profile or a document), when and why; never changed afterwards.
-- The reason is encrypted under the subject's data key where sealed is 1.
CREATE TABLE decisions (
    id TEXT PRIMARY KEY,
    profile_id TEXT NOT NULL,
    target TEXT NOT NULL,
    field TEXT NOT NULL,
    before_value TEXT NOT NULL,
    after_value TEXT NOT NULL,
    reason TEXT NOT NULL,
    sealed BIGINT NOT NULL,
    decided_by TEXT NOT NULL,
    decided_at BIGINT NOT NULL
);
CREATE INDEX decisions_of_profile ON decisions (profile_id, id);

CREATE TABLE outbox (id TEXT PRIMARY KEY, topic TEXT NOT NULL, key TEXT NOT NULL, key_version BIGINT NOT NULL, type TEXT NOT NULL, payload TEXT NOT NULL, headers TEXT NOT NULL, created_at BIGINT NOT NULL);
CREATE TABLE inbox (id TEXT PRIMARY KEY, handled_at BIGINT NOT NULL, result TEXT);
-- fields are digests under the subject's data key, and response is encrypted under it.
CREATE TABLE idempotency (id TEXT PRIMARY KEY, fields TEXT NOT NULL, status BIGINT NOT NULL, response TEXT NOT NULL, created_at BIGINT NOT NULL);
