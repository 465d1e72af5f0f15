//! SQL of the case service.

use innover_kit::{
    Batch, Cause, Db, Emit, Expect, Job, Row, Value,
    db::{DbError, column},
    ids, params,
};
use serde_json::json;

use crate::{
    jobs,
    model::{Case, PaymentFollows, Priority, ScoreState, State},
};

impl Case {
    /// The request that opened it, for what happens to it without one.
    pub fn cause(&self) -> Cause {
        Cause {
            traceparent: Some(self.traceparent.clone()),
            correlation_id: Some(self.correlation_id.clone()),
            ..Cause::default()
        }
    }
}

macro_rules! columns {
    () => {
        "id, title, owner_id, priority, state, payment_id, payment_follows, score_state, score,
         score_reasons, score_model, scored_at, score_attempts, score_at, decision_reason,
         decided_by, asked_as, decided_at, version, traceparent, correlation_id, created_by,
         created_at, updated_at"
    };
}

macro_rules! select {
    ($rest:literal) => {
        concat!("SELECT ", columns!(), " FROM cases ", $rest)
    };
}

const BY_IDS: &str = select!("WHERE id IN (SELECT id FROM rows($1: id TEXT))");

const BY_PAYMENTS: &str = select!("WHERE payment_id IN (SELECT id FROM rows($1: id TEXT))");

const PAGE: &str = select!(
    "WHERE (CAST($1 AS TEXT) = '' OR state = $1)
       AND (CAST($2 AS TEXT) = '' OR owner_id = $2)
       AND (CAST($3 AS TEXT) = '' OR score_state = $3)
       AND (CAST($4 AS TEXT) = '' OR payment_id = $4)
       AND (CAST($5 AS TEXT) = '' OR id < $5)
     ORDER BY id DESC LIMIT $6"
);

const OVERDUE: &str =
    select!("WHERE score_at IS NOT NULL AND score_at < $1 ORDER BY score_at LIMIT $2");

/// By lot: those that wait for a frozen wallet stay here until it is not, and must not hide the rest.
const ASKING: &str =
    select!("WHERE payment_follows = 'asked' AND decided_at < $1 ORDER BY random() LIMIT $2");

/// One statement for any number of new cases. A payment has one case: of two deliveries of its
/// event at once the second writes fewer rows than it expected and reads again.
const INSERT: &str = concat!(
    "INSERT INTO cases (",
    columns!(),
    ") SELECT ",
    columns!(),
    " FROM rows($1: id TEXT, title TEXT, owner_id TEXT, priority TEXT, state TEXT, payment_id TEXT,
                payment_follows TEXT, score_state TEXT, score BIGINT, score_reasons TEXT,
                score_model TEXT, scored_at TEXT, score_attempts BIGINT, score_at BIGINT,
                decision_reason TEXT, decided_by TEXT, asked_as TEXT, decided_at BIGINT,
                version BIGINT, traceparent TEXT, correlation_id TEXT, created_by TEXT,
                created_at BIGINT, updated_at BIGINT) r WHERE true
      ON CONFLICT DO NOTHING"
);

/// One statement for any number of cases, each as it is after the version before.
const UPDATE: &str = "UPDATE cases SET
        owner_id = r.owner_id, priority = r.priority, state = r.state,
        payment_follows = r.payment_follows, score_state = r.score_state, score = r.score,
        score_reasons = r.score_reasons, score_model = r.score_model, scored_at = r.scored_at,
        score_attempts = r.score_attempts, score_at = r.score_at,
        decision_reason = r.decision_reason, decided_by = r.decided_by, asked_as = r.asked_as,
        decided_at = r.decided_at, version = r.version, updated_at = r.updated_at
    FROM rows($1: id TEXT, owner_id TEXT, priority TEXT, state TEXT, payment_follows TEXT,
              score_state TEXT, score BIGINT, score_reasons TEXT, score_model TEXT, scored_at TEXT,
              score_attempts BIGINT, score_at BIGINT, decision_reason TEXT, decided_by TEXT,
              asked_as TEXT, decided_at BIGINT, version BIGINT, updated_at BIGINT) r
    WHERE cases.id = r.id AND cases.version = r.version - 1";

const COMMENT: &str = "INSERT INTO comments (id, case_id, author, body, created_at)
    VALUES ($1, $2, $3, $4, $5)";

const COMMENTS: &str = "SELECT id, author, body, created_at FROM comments
    WHERE case_id = $1 AND id > $2 ORDER BY id LIMIT $3";

/// The cases among `ids` that exist.
pub async fn by_ids(db: &Db, ids: impl IntoIterator<Item = String>) -> Result<Vec<Case>, DbError> {
    cases(&db.query(BY_IDS, vec![column(ids)]).await?)
}

/// One case.
pub async fn by_id(db: &Db, id: &str) -> Result<Option<Case>, DbError> {
    Ok(by_ids(db, [id.to_owned()]).await?.pop())
}

/// The cases of these payments.
pub async fn by_payments(
    db: &Db,
    payments: impl IntoIterator<Item = String>,
) -> Result<Vec<Case>, DbError> {
    cases(&db.query(BY_PAYMENTS, vec![column(payments)]).await?)
}

/// What a list is narrowed by; empty means all.
#[derive(Clone, Copy, Debug, Default)]
pub struct Filter<'a> {
    pub state: &'a str,
    pub owner: &'a str,
    pub score_state: &'a str,
    pub payment: &'a str,
}

/// Cases, newest first, after the id `after`.
pub async fn page(
    db: &Db,
    filter: Filter<'_>,
    after: &str,
    limit: i64,
) -> Result<Vec<Case>, DbError> {
    let Filter {
        state,
        owner,
        score_state,
        payment,
    } = filter;
    let rows = db.query(
        PAGE,
        params![state, owner, score_state, payment, after, limit],
    );
    cases(&rows.await?)
}

/// Cases whose next attempt to score was due before `before_us`.
pub async fn overdue(db: &Db, before_us: i64, limit: i64) -> Result<Vec<Case>, DbError> {
    cases(&db.query(OVERDUE, params![before_us, limit]).await?)
}

/// Cases decided before `before_us` whose payments have not followed.
pub async fn asking(db: &Db, before_us: i64, limit: i64) -> Result<Vec<Case>, DbError> {
    cases(&db.query(ASKING, params![before_us, limit]).await?)
}

/// A comment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Comment {
    pub id: String,
    pub author: String,
    pub body: String,
    pub created_at: i64,
}

/// Comments on a case, oldest first, after the id `after`.
pub async fn comments(
    db: &Db,
    case_id: &str,
    after: &str,
    limit: i64,
) -> Result<Vec<Comment>, DbError> {
    let rows = db.query(COMMENTS, params![case_id, after, limit]).await?;
    rows.iter()
        .map(|row| {
            Ok(Comment {
                id: row.text(0)?.to_owned(),
                author: row.text(1)?.to_owned(),
                body: row.text(2)?.to_owned(),
                created_at: row.int(3)?,
            })
        })
        .collect()
}

/// Collects changes of any number of cases, with their events and jobs, into one batch: one
/// modifying step per table.
#[derive(Default)]
pub struct Writer {
    new: Vec<Vec<Value>>,
    changed: Vec<Vec<Value>>,
    batch: Batch,
}

impl Writer {
    /// Stores a new case, announces it and has it scored.
    pub fn open(&mut self, case: &Case, cause: &Cause) {
        self.new.push(params![
            &case.id,
            &case.title,
            case.owner_id.as_ref(),
            case.priority.as_str(),
            case.state.as_str(),
            case.payment_id.as_ref(),
            case.payment_follows.as_str(),
            case.score_state.as_str(),
            case.score,
            &case.score_reasons,
            case.score_model.as_ref(),
            case.scored_at.as_ref(),
            case.score_attempts,
            case.score_at,
            &case.decision_reason,
            case.decided_by.as_ref(),
            case.asked_as.as_ref(),
            case.decided_at,
            case.version,
            &case.traceparent,
            &case.correlation_id,
            case.created_by.as_ref(),
            case.created_at,
            case.updated_at
        ]);
        self.announce(case, "case.opened", None, cause);
        self.enqueue(jobs::score_job(case), cause);
    }

    /// Stores a changed case and announces what changed.
    pub fn update(&mut self, case: &Case, change: &str, cause: &Cause) {
        self.store(case);
        self.announce(case, "case.updated", Some(change), cause);
    }

    /// Stores a decided case, and announces it.
    pub fn decide(&mut self, case: &Case, cause: &Cause) {
        self.store(case);
        self.announce(case, "case.decided", None, cause);
        if case.payment_follows == PaymentFollows::Asked {
            self.enqueue(jobs::payment_job(case), cause);
        }
    }

    /// Stores a case that could not be scored, announces that and has it tried again. `code` says
    /// why.
    pub fn score_failed(&mut self, case: &Case, code: &str, cause: &Cause) {
        self.store(case);
        let due = case.score_at.unwrap_or(case.updated_at);
        self.batch.emit(Emit {
            kind: "score_pending",
            key: case.id.clone(),
            key_version: case.version,
            data: json!({
                "case_id": case.id, "version": case.version, "attempts": case.score_attempts,
                "code": code, "retry_at": innover_kit::contract::time::rfc3339(due),
            }),
            cause: cause.clone(),
        });
        self.enqueue(jobs::score_job(case), cause);
    }

    /// Stores a comment.
    pub fn comment(&mut self, case_id: &str, comment: &Comment) {
        self.batch.step(
            "comment",
            COMMENT,
            params![
                &comment.id,
                case_id,
                &comment.author,
                &comment.body,
                comment.created_at
            ],
            Expect::Rows(1),
        );
    }

    /// Enqueues a job.
    pub fn enqueue(&mut self, job: Job, cause: &Cause) {
        self.batch.enqueue(jobs::QUEUE, job, cause.clone());
    }

    fn store(&mut self, case: &Case) {
        self.changed.push(params![
            &case.id,
            case.owner_id.as_ref(),
            case.priority.as_str(),
            case.state.as_str(),
            case.payment_follows.as_str(),
            case.score_state.as_str(),
            case.score,
            &case.score_reasons,
            case.score_model.as_ref(),
            case.scored_at.as_ref(),
            case.score_attempts,
            case.score_at,
            &case.decision_reason,
            case.decided_by.as_ref(),
            case.asked_as.as_ref(),
            case.decided_at,
            case.version,
            case.updated_at
        ]);
    }

    /// Titles, comments and reasons are people's words and stay out of events, which are kept for
    /// good.
    fn announce(&mut self, case: &Case, kind: &'static str, change: Option<&str>, cause: &Cause) {
        let mut data = json!({
            "case_id": case.id, "version": case.version, "state": case.state,
            "priority": case.priority, "owner_id": case.owner_id, "payment_id": case.payment_id,
            "payment_follows": case.payment_follows, "score_state": case.score_state,
            "score": case.score,
        });
        match change {
            Some(change) => data["change"] = change.into(),
            None if case.state.is_final() => data["decided_by"] = json!(case.decided_by),
            None => {}
        }
        self.batch.emit(Emit {
            kind,
            key: case.id.clone(),
            key_version: case.version,
            data,
            cause: cause.clone(),
        });
    }

    /// The batch with everything collected.
    pub fn finish(mut self) -> Batch {
        let collected = [
            ("new cases", INSERT, self.new),
            ("cases", UPDATE, self.changed),
        ];
        for (name, sql, rows) in collected {
            if !rows.is_empty() {
                let expected = Expect::Rows(rows.len() as u64);
                self.batch
                    .step(name, sql, vec![Value::Rows(rows)], expected);
            }
        }
        self.batch
    }
}

/// A new comment.
pub fn new_comment(author: &str, body: String) -> Comment {
    Comment {
        id: ids::new_id("com"),
        author: author.to_owned(),
        body,
        created_at: ids::now_us(),
    }
}

fn cases(rows: &[Row]) -> Result<Vec<Case>, DbError> {
    rows.iter().map(read).collect()
}

fn read(row: &Row) -> Result<Case, DbError> {
    let text = |i| row.text(i).map(str::to_owned);
    let opt = |i| row.opt_text(i).map(|t| t.map(str::to_owned));
    let unknown = |i: usize| DbError::Shape(format!("unknown name {:?}", row.text(i)));
    Ok(Case {
        id: text(0)?,
        title: text(1)?,
        owner_id: opt(2)?,
        priority: Priority::parse(row.text(3)?).ok_or_else(|| unknown(3))?,
        state: State::parse(row.text(4)?).ok_or_else(|| unknown(4))?,
        payment_id: opt(5)?,
        payment_follows: PaymentFollows::parse(row.text(6)?).ok_or_else(|| unknown(6))?,
        score_state: ScoreState::parse(row.text(7)?).ok_or_else(|| unknown(7))?,
        score: row.opt_int(8)?,
        score_reasons: text(9)?,
        score_model: opt(10)?,
        scored_at: opt(11)?,
        score_attempts: row.int(12)?,
        score_at: row.opt_int(13)?,
        decision_reason: text(14)?,
        decided_by: opt(15)?,
        asked_as: opt(16)?,
        decided_at: row.opt_int(17)?,
        version: row.int(18)?,
        traceparent: text(19)?,
        correlation_id: text(20)?,
        created_by: opt(21)?,
        created_at: row.int(22)?,
        updated_at: row.int(23)?,
    })
}
