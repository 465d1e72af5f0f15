//! SQL, nothing else.

use innover_kit::{Batch, Db, Expect, Row, db::DbError, params};

/// A scoring as stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scoring {
    /// The case.
    pub case_id: String,
    /// Counts the scorings of the case, 1 and up.
    pub seq: i64,
    /// The case's title at that time.
    pub title: String,
    /// 0 to 1000.
    pub score: i64,
    /// The model's name and version.
    pub model: String,
    /// Why, as JSON.
    pub reasons: String,
    /// What the model was given, as JSON.
    pub features: String,
    /// Microseconds.
    pub scored_at: i64,
    /// A subject, a client or a service.
    pub scored_by: String,
}

/// The number of the newest scoring of a case, 0 when there is none.
pub async fn newest(db: &Db, case_id: &str) -> Result<i64, DbError> {
    let rows = db
        .query(
            "SELECT COALESCE(MAX(seq), 0) FROM scorings WHERE case_id = $1",
            params![case_id],
        )
        .await?;
    rows.first().map_or(Ok(0), |row| row.int(0))
}

/// Scorings of a case below `before`, newest first.
pub async fn page(
    db: &Db,
    case_id: &str,
    before: i64,
    limit: i64,
) -> Result<Vec<Scoring>, DbError> {
    let rows = db
        .query(
            "SELECT case_id, seq, title, score, model, reasons, features, scored_at, scored_by
             FROM scorings WHERE case_id = $1 AND seq < $2 ORDER BY seq DESC LIMIT $3",
            params![case_id, before, limit],
        )
        .await?;
    rows.iter().map(read).collect()
}

fn read(row: &Row) -> Result<Scoring, DbError> {
    let text = |i| row.text(i).map(str::to_owned);
    Ok(Scoring {
        case_id: text(0)?,
        seq: row.int(1)?,
        title: text(2)?,
        score: row.int(3)?,
        model: text(4)?,
        reasons: text(5)?,
        features: text(6)?,
        scored_at: row.int(7)?,
        scored_by: text(8)?,
    })
}

/// The step that inserts a scoring; it fails the batch when another request took the number.
pub fn insert(batch: &mut Batch, scoring: &Scoring) {
    batch.step(
        "scoring",
        "INSERT INTO scorings (case_id, seq, title, score, model, reasons, features, scored_at,
             scored_by)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9) ON CONFLICT (case_id, seq) DO NOTHING",
        params![
            &scoring.case_id,
            scoring.seq,
            &scoring.title,
            scoring.score,
            &scoring.model,
            &scoring.reasons,
            &scoring.features,
            scoring.scored_at,
            &scoring.scored_by
        ],
        Expect::Rows(1),
    );
}
