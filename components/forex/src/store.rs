//! SQL, nothing else.

use innover_kit::{
    Batch, Db, Expect, Row, Value,
    db::{DbError, column},
    params,
};

use crate::model::Side;

/// Names one set: its day and revision, who published it, when it was loaded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SetRow {
    /// The day, `YYYY-MM-DD`.
    pub date: String,
    /// 1 and up.
    pub revision: i64,
    /// E.g. `ECB`.
    pub source: String,
    /// SHA-256 of its content.
    pub digest: String,
    /// Microseconds.
    pub loaded_at: i64,
}

fn set(row: &Row) -> Result<SetRow, DbError> {
    Ok(SetRow {
        date: row.text(0)?.into(),
        revision: row.int(1)?,
        source: row.text(2)?.into(),
        digest: row.text(3)?.into(),
        loaded_at: row.int(4)?,
    })
}

/// The set in force: the newest day's newest revision, of no day after `last`.
pub async fn newest(db: &Db, last: &str) -> Result<Option<SetRow>, DbError> {
    let rows = db
        .query(
            "SELECT date, revision, source, digest, loaded_at FROM rate_sets
             WHERE date <= $1 ORDER BY date DESC, revision DESC LIMIT 1",
            params![last],
        )
        .await?;
    rows.first().map(set).transpose()
}

/// The newest revision of a day.
pub async fn of_day(db: &Db, date: &str) -> Result<Option<SetRow>, DbError> {
    let rows = db
        .query(
            "SELECT date, revision, source, digest, loaded_at FROM rate_sets
             WHERE date = $1 ORDER BY revision DESC LIMIT 1",
            params![date],
        )
        .await?;
    rows.first().map(set).transpose()
}

/// The days with rates next before and next after a day.
pub async fn neighbours(db: &Db, date: &str) -> Result<(Option<String>, Option<String>), DbError> {
    let rows = db
        .query(
            "SELECT (SELECT MAX(date) FROM rate_sets WHERE date < $1),
                    (SELECT MIN(date) FROM rate_sets WHERE date > $1)",
            params![date],
        )
        .await?;
    match rows.first() {
        Some(row) => Ok((
            row.opt_text(0)?.map(Into::into),
            row.opt_text(1)?.map(Into::into),
        )),
        None => Ok((None, None)),
    }
}

/// All revisions of these days, oldest revision first.
pub async fn of_days(db: &Db, days: impl Iterator<Item = &str>) -> Result<Vec<SetRow>, DbError> {
    let rows = db
        .query(
            "SELECT date, revision, source, digest, loaded_at FROM rate_sets
             WHERE date IN (SELECT date FROM rows($1: date TEXT)) ORDER BY date, revision",
            vec![column(days)],
        )
        .await?;
    rows.iter().map(set).collect()
}

/// The newest revisions of the days before `before` (all days when it is empty), newest first.
pub async fn page(db: &Db, before: &str, limit: i64) -> Result<Vec<SetRow>, DbError> {
    let rows = db
        .query(
            "SELECT s.date, s.revision, s.source, s.digest, s.loaded_at FROM rate_sets s
             WHERE (s.date < $1 OR CAST($1 AS TEXT) = '')
               AND s.revision = (SELECT MAX(t.revision) FROM rate_sets t WHERE t.date = s.date)
             ORDER BY s.date DESC LIMIT $2",
            params![before, limit],
        )
        .await?;
    rows.iter().map(set).collect()
}

/// Currency and units per euro of one set.
pub async fn rates(db: &Db, set: &SetRow) -> Result<Vec<(String, String)>, DbError> {
    let rows = db
        .query(
            "SELECT currency, rate FROM rates WHERE date = $1 AND revision = $2",
            params![&set.date, set.revision],
        )
        .await?;
    rows.iter()
        .map(|row| Ok((row.text(0)?.into(), row.text(1)?.into())))
        .collect()
}

/// The steps that insert sets and their rates. A set that exists by then fails the batch at
/// `rate_sets`, so the whole request is decided again on what is there.
pub fn insert_sets<'a>(
    batch: &mut Batch,
    sets: impl IntoIterator<Item = (&'a SetRow, &'a [(String, String)])>,
    loaded_by: &str,
) {
    let (mut set_rows, mut rate_rows): (Vec<Vec<Value>>, Vec<Vec<Value>>) = (vec![], vec![]);
    for (set, rates) in sets {
        set_rows.push(params![
            &set.date,
            set.revision,
            &set.source,
            &set.digest,
            set.loaded_at,
            loaded_by
        ]);
        rate_rows.extend(
            rates
                .iter()
                .map(|(currency, rate)| params![&set.date, set.revision, currency, rate]),
        );
    }
    let (set_count, rate_count) = (set_rows.len() as u64, rate_rows.len() as u64);
    batch.step(
        "rate_sets",
        "INSERT INTO rate_sets (date, revision, source, digest, loaded_at, loaded_by)
         SELECT r.date, r.revision, r.source, r.digest, r.loaded_at, r.loaded_by
         FROM rows($1: date TEXT, revision BIGINT, source TEXT, digest TEXT, loaded_at BIGINT,
                   loaded_by TEXT) r WHERE true
         ON CONFLICT (date, revision) DO NOTHING",
        vec![Value::Rows(set_rows)],
        Expect::Rows(set_count),
    );
    batch.step(
        "rates",
        "INSERT INTO rates (date, revision, currency, rate)
         SELECT r.date, r.revision, r.currency, r.rate
         FROM rows($1: date TEXT, revision BIGINT, currency TEXT, rate TEXT) r WHERE true
         ON CONFLICT (date, revision, currency) DO NOTHING",
        vec![Value::Rows(rate_rows)],
        Expect::Rows(rate_count),
    );
}

/// A stored quote.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QuoteRow {
    /// `quo_…`.
    pub id: String,
    /// The subject it was made for.
    pub owner: String,
    /// The terms.
    pub terms: Terms,
    /// Which amount was given.
    pub amount_side: Side,
    /// Basis points the margin was computed with.
    pub margin_bps: i64,
    /// Microseconds.
    pub created_at: i64,
    /// Microseconds.
    pub expires_at: i64,
    /// The conversion that used it.
    pub conversion_id: Option<String>,
}

/// What a quote and a conversion have in common.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Terms {
    /// What the payer pays, margin included.
    pub source_minor: i64,
    /// ISO 4217.
    pub source_currency: String,
    /// The house's part, in the source currency.
    pub margin_minor: i64,
    /// What the payee gets.
    pub target_minor: i64,
    /// ISO 4217.
    pub target_currency: String,
    /// The exact mid rate, decimal or fraction.
    pub rate: String,
    /// The day of the rates.
    pub rate_date: String,
    /// The revision of that day.
    pub rate_revision: i64,
    /// The exact product in major units of the target.
    pub exact: String,
}

/// Reads the nine columns of [`Terms`] from column `at`.
fn terms(row: &Row, at: usize) -> Result<Terms, DbError> {
    Ok(Terms {
        source_minor: row.int(at)?,
        source_currency: row.text(at + 1)?.into(),
        margin_minor: row.int(at + 2)?,
        target_minor: row.int(at + 3)?,
        target_currency: row.text(at + 4)?.into(),
        rate: row.text(at + 5)?.into(),
        rate_date: row.text(at + 6)?.into(),
        rate_revision: row.int(at + 7)?,
        exact: row.text(at + 8)?.into(),
    })
}

fn quote(row: &Row) -> Result<QuoteRow, DbError> {
    Ok(QuoteRow {
        id: row.text(0)?.into(),
        owner: row.text(1)?.into(),
        terms: terms(row, 2)?,
        margin_bps: row.int(11)?,
        created_at: row.int(12)?,
        expires_at: row.int(13)?,
        conversion_id: row.opt_text(14)?.map(Into::into),
        amount_side: Side::parse(row.text(15)?)
            .ok_or_else(|| DbError::Shape("neither source nor target".into()))?,
    })
}

/// The quotes with these ids.
pub async fn quotes(db: &Db, ids: impl Iterator<Item = &str>) -> Result<Vec<QuoteRow>, DbError> {
    let rows = db
        .query(
            "SELECT id, owner, source_minor, source_currency, margin_minor, target_minor,
                    target_currency, rate, rate_date, rate_revision, exact, margin_bps, created_at,
                    expires_at, conversion_id, amount_side
             FROM quotes WHERE id IN (SELECT id FROM rows($1: id TEXT))",
            vec![column(ids)],
        )
        .await?;
    rows.iter().map(quote).collect()
}

/// The step that inserts a quote.
pub fn insert_quote(batch: &mut Batch, q: &QuoteRow) {
    let t = &q.terms;
    batch.step(
        "quotes",
        "INSERT INTO quotes (id, owner, source_minor, source_currency, margin_minor, margin_bps,
             target_minor, target_currency, rate, rate_date, rate_revision, exact, created_at,
             expires_at, amount_side)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15)",
        params![
            &q.id,
            &q.owner,
            t.source_minor,
            &t.source_currency,
            t.margin_minor,
            q.margin_bps,
            t.target_minor,
            &t.target_currency,
            &t.rate,
            &t.rate_date,
            t.rate_revision,
            &t.exact,
            q.created_at,
            q.expires_at,
            q.amount_side.as_str()
        ],
        Expect::Rows(1),
    );
}

/// The step that marks quotes as used by conversions, given as pairs. A quote that was used since it
/// was read affects no row, and the batch fails.
pub fn use_quotes(batch: &mut Batch, pairs: Vec<(String, String)>) {
    if pairs.is_empty() {
        return;
    }
    let count = pairs.len() as u64;
    let rows = pairs
        .into_iter()
        .map(|(quote, conversion)| params![quote, conversion])
        .collect();
    batch.step(
        "quotes",
        "UPDATE quotes SET conversion_id =
             (SELECT r.conversion FROM rows($1: quote TEXT, conversion TEXT) r WHERE r.quote = quotes.id)
         WHERE id IN (SELECT r.quote FROM rows($1: quote TEXT, conversion TEXT) r)
           AND conversion_id IS NULL",
        vec![Value::Rows(rows)],
        Expect::Rows(count),
    );
}

/// A stored conversion.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConversionRow {
    /// `cnv_…`.
    pub id: String,
    /// The payment it is for.
    pub payment_id: String,
    /// The quote it used, where there was one.
    pub quote_id: Option<String>,
    /// The terms.
    pub terms: Terms,
    /// Microseconds.
    pub created_at: i64,
}

fn conversion(row: &Row) -> Result<ConversionRow, DbError> {
    Ok(ConversionRow {
        id: row.text(0)?.into(),
        payment_id: row.text(1)?.into(),
        quote_id: row.opt_text(2)?.map(Into::into),
        terms: terms(row, 3)?,
        created_at: row.int(12)?,
    })
}

/// The conversions of these payments.
pub async fn conversions_of(
    db: &Db,
    payments: impl Iterator<Item = &str>,
) -> Result<Vec<ConversionRow>, DbError> {
    let rows = db
        .query(
            "SELECT id, payment_id, quote_id, source_minor, source_currency, margin_minor,
                    target_minor, target_currency, rate, rate_date, rate_revision, exact, created_at
             FROM conversions WHERE payment_id IN (SELECT id FROM rows($1: id TEXT))",
            vec![column(payments)],
        )
        .await?;
    rows.iter().map(conversion).collect()
}

/// The conversion with this id.
pub async fn conversion_by_id(db: &Db, id: &str) -> Result<Option<ConversionRow>, DbError> {
    let rows = db
        .query(
            "SELECT id, payment_id, quote_id, source_minor, source_currency, margin_minor,
                    target_minor, target_currency, rate, rate_date, rate_revision, exact, created_at
             FROM conversions WHERE id = $1",
            params![id],
        )
        .await?;
    rows.first().map(conversion).transpose()
}

/// The step that inserts conversions. A payment that was converted meanwhile fails the batch, and
/// the event is decided again with the conversion it has.
pub fn insert_conversions(batch: &mut Batch, conversions: &[ConversionRow]) {
    if conversions.is_empty() {
        return;
    }
    let rows = conversions
        .iter()
        .map(|c| {
            let t = &c.terms;
            params![
                &c.id,
                &c.payment_id,
                c.quote_id.as_ref(),
                t.source_minor,
                &t.source_currency,
                t.margin_minor,
                t.target_minor,
                &t.target_currency,
                &t.rate,
                &t.rate_date,
                t.rate_revision,
                &t.exact,
                c.created_at
            ]
        })
        .collect();
    batch.step(
        "conversions",
        "INSERT INTO conversions (id, payment_id, quote_id, source_minor, source_currency,
             margin_minor, target_minor, target_currency, rate, rate_date, rate_revision, exact,
             created_at)
         SELECT r.id, r.payment_id, r.quote_id, r.source_minor, r.source_currency, r.margin_minor,
                r.target_minor, r.target_currency, r.rate, r.rate_date, r.rate_revision, r.exact,
                r.created_at
         FROM rows($1: id TEXT, payment_id TEXT, quote_id TEXT, source_minor BIGINT,
                   source_currency TEXT, margin_minor BIGINT, target_minor BIGINT,
                   target_currency TEXT, rate TEXT, rate_date TEXT, rate_revision BIGINT, exact TEXT,
                   created_at BIGINT) r WHERE true
         ON CONFLICT (payment_id) DO NOTHING",
        vec![Value::Rows(rows)],
        Expect::Rows(conversions.len() as u64),
    );
}
