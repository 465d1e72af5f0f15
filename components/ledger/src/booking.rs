//! Entries and reservations that callers ask for: each once, under an id, for good.
//!
//! The HTTP surface asks, one at a time or thousands at once; what is decided here is written in one
//! batch. Whoever repeats a request is answered what was decided the first time, and whoever uses an
//! id for something else is told which fields differ.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::atomic::{AtomicBool, Ordering},
};

use innover_kit::{
    Answer, Batch, Cause, Code, Cx, Db, Failure, Result,
    batch::with_retries,
    group::Group,
    idempotency::{self, CommitError, IdempotencyKey},
};
use innover_money::Currency;

use crate::{
    events,
    limits::TOGETHER_MAX,
    model::{AccountId, Book, Checked, Entry, Posted, Refusal, Reservation, Side, State},
    store::{
        STEP_ENTRIES, STEP_PENDING,
        accounts::{self, Ahead},
        entries::{self, EntryRow, Known, Line, Refused, Written},
        pending::{self, PendingRow},
    },
};

/// What somebody asks for.
#[derive(Clone, Debug)]
pub struct Asked {
    /// Everything of it but its postings.
    pub row: EntryRow,
    /// Whether the id is the caller's: then a refusal is kept under it.
    pub callers_id: bool,
    /// Its postings.
    pub what: What,
}

/// Now or later.
#[derive(Clone, Debug)]
pub enum What {
    /// An entry.
    Entry(Checked<Entry>),
    /// A transfer: the two-posting entry, debit first.
    Transfer(Checked<Entry>),
    /// A transfer in two phases, given back after so many microseconds.
    Reserve(Reservation, i64),
}

impl Asked {
    fn accounts(&self) -> Vec<&AccountId> {
        match &self.what {
            What::Entry(entry) | What::Transfer(entry) => {
                entry.postings().iter().map(|p| &p.account).collect()
            }
            What::Reserve(reservation, _) => vec![&reservation.debit, &reservation.credit],
        }
    }
}

/// What became of it.
#[derive(Clone, Debug)]
pub enum Became {
    /// An entry.
    Booked(EntryRow, Vec<Line>),
    /// A transfer in two phases, wherever it stands by now.
    Reserved(PendingRow),
    /// Nothing, for good.
    Refused(EntryRow, Refused),
}

/// The answer to one of those asked for.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// What it is.
    pub became: Became,
    /// Whether it was that before.
    pub replayed: bool,
    /// Where the request differs from what its id was used for; JSON pointers.
    pub differing: Vec<String>,
}

impl Outcome {
    /// 422 when the id was used for something else.
    ///
    /// # Errors
    /// `idempotency_key_reused`, naming the fields.
    pub fn same(&self) -> Result<()> {
        match self.differing.is_empty() {
            true => Ok(()),
            false => Err(reused(&self.differing)),
        }
    }
}

/// The failure of a request whose id was used for something else.
pub fn reused(differing: &[String]) -> Failure {
    let mut failure = Failure::new(
        Code::IdempotencyKeyReused,
        format!(
            "this id was used for a request that differs in {}; use a new id for a new request",
            differing.join(", ")
        ),
    );
    failure.0.differing_fields = differing.to_vec();
    failure
}

/// What a batch of requests comes to.
#[derive(Debug, Default)]
pub struct Plan {
    /// In the order of the requests.
    pub outcomes: Vec<Outcome>,
    /// What is written of entries.
    pub written: Written,
    /// Reservations, with their accounts' numbers.
    pub reserved: Vec<(PendingRow, [i64; 2])>,
}

impl Plan {
    /// Whether something is refused that was not refused before.
    fn refuses(&self) -> bool {
        let refused = |o: &Outcome| !o.replayed && matches!(o.became, Became::Refused(..));
        self.outcomes.iter().any(refused)
    }
}

/// Decides on requests in their order: each sees what those before it did. `known` is what their ids
/// were used for before, `now` the time of what is posted, `clock` this machine's, by which reservations
/// end.
pub fn decide(
    book: &mut Book,
    mut known: BTreeMap<String, Became>,
    asked: &[Asked],
    now: i64,
    clock: i64,
) -> Plan {
    let mut plan = Plan::default();
    let mut here: HashMap<&str, usize> = HashMap::with_capacity(asked.len());
    for request in asked {
        let before = known.remove(&request.row.id).or_else(|| {
            let at = here.get(request.row.id.as_str())?;
            Some(plan.outcomes[*at].became.clone())
        });
        here.entry(&request.row.id).or_insert(plan.outcomes.len());
        let outcome = match before {
            Some(before) => Outcome {
                differing: differing(request, &before),
                became: before,
                replayed: true,
            },
            None => Outcome {
                became: fresh(book, request, now, clock, &mut plan),
                replayed: false,
                differing: Vec::new(),
            },
        };
        plan.outcomes.push(outcome);
    }
    plan
}

fn fresh(book: &mut Book, request: &Asked, now: i64, clock: i64, plan: &mut Plan) -> Became {
    let row = EntryRow {
        created_at: now,
        ..request.row.clone()
    };
    let refusal = match &request.what {
        What::Entry(entry) | What::Transfer(entry) => match book.post(entry) {
            Ok(posted) => {
                let lines = lines(&row, &posted);
                plan.written.booked.push((row.clone(), posted));
                return Became::Booked(row, lines);
            }
            Err(refusal) => refusal,
        },
        What::Reserve(reservation, life_us) => match book.reserve(reservation) {
            Ok(standings) => {
                plan.written.reserved.push(row.clone());
                let pending = PendingRow {
                    id: row.id,
                    reservation: reservation.clone(),
                    kind: row.kind,
                    reference: row.reference,
                    metadata: row.metadata,
                    created_by: row.created_by,
                    // Not the time of postings, which one clock that was ahead moves for good: its end
                    // is looked for by the clock.
                    created_at: clock,
                    expires_at: clock + life_us,
                    state: State::Pending,
                    posted_amount: None,
                    standings: standings.into(),
                    settled_standings: Vec::new(),
                };
                let no = |id| book.account(id).map_or(0, |account| account.no);
                let numbers = [no(&reservation.debit), no(&reservation.credit)];
                plan.reserved.push((pending.clone(), numbers));
                return Became::Reserved(pending);
            }
            Err(refusal) => refusal,
        },
    };
    let refused = refused(&request.what, &refusal);
    if request.callers_id {
        plan.written.refused.push((row.clone(), refused.clone()));
    }
    Became::Refused(row, refused)
}

/// A refusal with the field that is at fault.
fn refused(what: &What, refusal: &Refusal) -> Refused {
    let mut reserve_us = None;
    let (postings, names): (_, fn(usize) -> String) = match what {
        What::Entry(entry) => (entry.postings().to_vec(), |i| format!("/postings/{i}")),
        What::Transfer(entry) => (entry.postings().to_vec(), transfer_account),
        What::Reserve(reservation, life_us) => {
            reserve_us = Some(*life_us);
            let entry = reservation.entry(reservation.money);
            (
                entry.map(|e| e.postings().to_vec()).unwrap_or_default(),
                transfer_account,
            )
        }
    };
    let at = postings
        .iter()
        .position(|p| p.account == *refusal.account());
    let param = names(at.unwrap_or_default());
    Refused {
        reserve_us,
        ..Refused::of(&postings, refusal.code(), refusal.to_string(), param)
    }
}

fn transfer_account(position: usize) -> String {
    match position {
        0 => "/debit_account".into(),
        _ => "/credit_account".into(),
    }
}

/// Postings as they will be read.
pub fn lines(row: &EntryRow, posted: &[Posted]) -> Vec<Line> {
    let line = |(position, p): (i64, &Posted)| Line {
        entry_id: row.id.clone(),
        position,
        account: p.after.account.clone(),
        currency: p.after.currency,
        side: p.side,
        amount: p.money.minor(),
        number: p.number,
        balance_after: p.after.balance.posted,
        held_after: p.after.balance.held,
        version_after: p.after.version,
    };
    (0..).zip(posted).map(line).collect()
}

/// One posting, to be compared.
type Shape = (String, &'static str, i64, Currency);

/// The fields in which a request differs from what its id was used for.
fn differing(request: &Asked, before: &Became) -> Vec<String> {
    let mut differing: Vec<String> = Vec::new();
    let mut compare = |name: String, same: bool| {
        if !same && !differing.contains(&name) {
            differing.push(name);
        }
    };
    let row = &request.row;
    let (kind, reference, metadata, reverses) = match before {
        Became::Booked(e, _) | Became::Refused(e, _) => {
            (&e.kind, &e.reference, &e.metadata, e.reverses.as_deref())
        }
        Became::Reserved(p) => (&p.kind, &p.reference, &p.metadata, None),
    };
    compare("/kind".into(), row.kind == *kind);
    compare("/reference".into(), row.reference == *reference);
    compare("/metadata".into(), row.metadata == *metadata);
    compare("/reverses".into(), row.reverses.as_deref() == reverses);
    let (stored, stored_us) = stored(before);
    // Refused unseen: there is nothing more to compare with.
    if stored.is_empty() {
        return differing;
    }
    let (asked, asked_us) = match &request.what {
        What::Entry(entry) | What::Transfer(entry) => (shapes_of(entry), None),
        What::Reserve(reservation, life_us) => (shapes(reservation), Some(*life_us)),
    };
    match (asked_us, stored_us) {
        (Some(asked), Some(stored)) => compare("/expires_in_s".into(), asked == stored),
        (asked, stored) => compare("/pending".into(), asked.is_some() == stored.is_some()),
    }
    if asked.len() != stored.len() {
        compare("/postings".into(), false);
        return differing;
    }
    let is_entry = matches!(request.what, What::Entry(_));
    for (i, (asked, stored)) in asked.iter().zip(&stored).enumerate() {
        let name = |field: &str| match is_entry {
            true => format!("/postings/{i}/{field}"),
            false if field == "account" => transfer_account(i),
            false => format!("/{field}"),
        };
        compare(name("account"), asked.0 == stored.0);
        compare(name("direction"), asked.1 == stored.1);
        compare(name("amount"), asked.2 == stored.2);
        compare(name("currency"), asked.3 == stored.3);
    }
    differing
}

/// The postings an id was used for, and for how long they were to be reserved.
fn stored(before: &Became) -> (Vec<Shape>, Option<i64>) {
    match before {
        Became::Booked(_, lines) => {
            let shape = |l: &Line| (l.account.to_string(), l.side.as_str(), l.amount, l.currency);
            (lines.iter().map(shape).collect(), None)
        }
        Became::Reserved(p) => (shapes(&p.reservation), Some(p.expires_at - p.created_at)),
        Became::Refused(_, refused) => {
            let shape = |(account, side, amount, currency): &(String, String, i64, Currency)| {
                let side = Side::parse(side).map_or("", Side::as_str);
                (account.clone(), side, *amount, *currency)
            };
            let postings = refused.postings.iter().map(shape);
            (postings.collect(), refused.reserve_us)
        }
    }
}

fn shapes(reservation: &Reservation) -> Vec<Shape> {
    let shape = |account: &AccountId, side| {
        let money = reservation.money;
        (account.to_string(), side, money.minor(), money.currency())
    };
    vec![
        shape(&reservation.debit, "debit"),
        shape(&reservation.credit, "credit"),
    ]
}

fn shapes_of(entry: &Checked<Entry>) -> Vec<Shape> {
    let shape = |p: &crate::model::Posting| {
        (
            p.account.to_string(),
            p.side.as_str(),
            p.money.minor(),
            p.money.currency(),
        )
    };
    entry.postings().iter().map(shape).collect()
}

/// A request for one entry or transfer. Those of one moment are booked together, by one of them for
/// all, so each brings along what the answer takes.
#[derive(Clone)]
pub struct Single {
    /// Whose it is.
    pub cx: Cx,
    /// What is asked for.
    pub asked: Asked,
    /// Its Idempotency-Key.
    pub key: Option<IdempotencyKey>,
    /// The answer to the one outcome.
    pub render: fn(&Cx, &[Outcome]) -> Result<Answer>,
}

static SINGLES: Group<Single, Result<Answer>> = Group::new(TOGETHER_MAX);

/// Books one entry or transfer, together with those that others ask for at this moment.
///
/// # Errors
/// As [`book`].
pub async fn book_single(request: Single) -> Result<Answer> {
    // Reserving looks ids up first, and takes another way from there.
    if let What::Reserve(..) = request.asked.what {
        return request.alone().await;
    }
    SINGLES.run(request, database, book_each).await
}

/// The database, of which this request is the only writer where it can have but one.
async fn database() -> Result<Db> {
    let mut db = Db::open().await?;
    db.lock().await?;
    Ok(db)
}

/// Answers each of these requests. They are decided one after the other on one reading of the
/// accounts and written in one batch; where that cannot be, each is booked by itself.
async fn book_each(db: Result<Db>, requests: Vec<Single>) -> Vec<Result<Answer>> {
    let mut first = Some(db);
    let read = AtomicBool::new(false);
    let together = with_retries(|| {
        let db = first.take();
        let (requests, read) = (&requests, &read);
        async move {
            let db = match db {
                Some(db) => db?,
                None => database().await?,
            };
            book_together(db, requests, read).await
        }
    });
    match together.await {
        Ok(Some(answers)) => answers,
        Err(failure) if failure.code() != Code::Conflict => {
            requests.iter().map(|_| Err(failure.clone())).collect()
        }
        Ok(None) | Err(_) => {
            let mut answers = Vec::with_capacity(requests.len());
            for request in &requests {
                answers.push(request.alone().await);
            }
            answers
        }
    }
}

impl Single {
    /// Books it by itself, after a look at what its id was used for.
    async fn alone(&self) -> Result<Answer> {
        let asked = std::slice::from_ref(&self.asked);
        let render = |outcomes: &[Outcome]| (self.render)(&self.cx, outcomes);
        book(&self.cx, asked, self.key.as_ref(), true, render).await
    }
}

/// All of `requests` in one batch; `None` when one of them has an id or a key that was used before,
/// or that another one has.
async fn book_together(
    mut db: Db,
    requests: &[Single],
    read: &AtomicBool,
) -> Result<Option<Vec<Result<Answer>>>> {
    let keys = requests.iter().filter_map(|request| request.key.as_ref());
    let mut stored = idempotency::replay_all(&db, keys).await?;
    let mut names = HashSet::with_capacity(2 * requests.len());
    let accounts = requests.iter().flat_map(|request| request.asked.accounts());
    let Ahead {
        mut book,
        before,
        unread,
    } = accounts_for(&db, accounts, read).await?;
    let clock = innover_kit::ids::now_us();
    let now = book.time(clock);
    let (mut batch, mut written) = (Batch::new(), Written::default());
    if !before.is_empty() {
        batch.after(before);
    }
    let mut answers = Vec::with_capacity(requests.len());
    for Single {
        cx,
        asked,
        key,
        render,
    } in requests
    {
        let key_id = key.as_ref().map(IdempotencyKey::id);
        if !names.insert(("id", asked.row.id.as_str()))
            || !key_id.is_none_or(|id| names.insert(("key", id)))
        {
            return Ok(None);
        }
        if let Some(answer) = key_id.and_then(|id| stored.remove(id)) {
            answers.push(answer);
            continue;
        }
        let mut plan = decide(
            &mut book,
            BTreeMap::new(),
            std::slice::from_ref(asked),
            now,
            clock,
        );
        if unread && plan.refuses() {
            return Err(read_first(read));
        }
        let Ok(answer) = render(cx, &plan.outcomes) else {
            return Ok(None);
        };
        if let Some(key) = key {
            key.record(&mut batch, &answer);
        }
        events::told(&mut batch, &book, &plan, &Cause::from(cx));
        written.booked.append(&mut plan.written.booked);
        written.refused.append(&mut plan.written.refused);
        answers.push(Ok(answer));
    }
    entries::write(&mut batch, &book, &written, now);
    match batch.commit(&mut db).await {
        Ok(()) => Ok(Some(answers)),
        Err(error) => match error.step() {
            Some(STEP_ENTRIES | idempotency::STEP) => Ok(None),
            _ => Err(error.into()),
        },
    }
}

/// Decides and writes, and answers with what `render` makes of the outcomes. `careful` has the ids
/// looked up before anything is decided.
///
/// # Errors
/// What `render` fails with leaves nothing behind; the database; 409 when others were faster too
/// often.
pub async fn book(
    cx: &Cx,
    asked: &[Asked],
    key: Option<&IdempotencyKey>,
    careful: bool,
    render: impl Fn(&[Outcome]) -> Result<Answer> + Sync,
) -> Result<Answer> {
    // An id that was not used before is the rule, and the primary key tells when it was: only then
    // are the ids looked up, since that costs as much as writing them.
    let reserves = asked.iter().any(|a| matches!(a.what, What::Reserve(..)));
    let careful = AtomicBool::new(careful || reserves);
    let read = AtomicBool::new(false);
    with_retries(|| async {
        let mut db = database().await?;
        if let Some(key) = key
            && let Some(answer) = key.replay(&db).await?
        {
            return Ok(answer);
        }
        let accounts = asked.iter().flat_map(Asked::accounts);
        let before = known(&db, asked, careful.load(Ordering::Relaxed)).await?;
        let known_before = before.len();
        let Ahead {
            mut book,
            before: underway,
            unread,
        } = accounts_for(&db, accounts, &read).await?;
        let clock = innover_kit::ids::now_us();
        let now = book.time(clock);
        let plan = decide(&mut book, before, asked, now, clock);
        if unread && plan.refuses() {
            return Err(read_first(&read));
        }
        let answer = match render(&plan.outcomes) {
            // Perhaps all of it was done before, and what it took is not there a second time.
            Err(_) if asked.iter().any(|a| a.callers_id) && !take_care(&careful) => {
                return Err(Failure::new(
                    Code::Conflict,
                    "decided without a look at the ids",
                ));
            }
            // Or by a twin between the look at the ids and the one at the accounts.
            Err(_) if known(&db, asked, true).await?.len() > known_before => {
                return Err(Failure::new(Code::Conflict, "asked for a moment ago"));
            }
            rendered => rendered?,
        };
        let mut batch = Batch::new();
        if !underway.is_empty() {
            batch.after(underway);
        }
        entries::write(&mut batch, &book, &plan.written, now);
        if !plan.reserved.is_empty() {
            pending::reserve(&mut batch, &plan.reserved);
        }
        events::told(&mut batch, &book, &plan, &Cause::from(cx));
        if batch.is_empty() && key.is_none() {
            return Ok(answer);
        }
        let done = idempotency::commit(&mut db, batch, key, answer).await;
        done.map_err(|error| match error {
            CommitError::Batch(e) if matches!(e.step(), Some(STEP_ENTRIES | STEP_PENDING)) => {
                let was_careful = take_care(&careful);
                match asked {
                    // A new id that meets something even so: only a reversal has another rule.
                    [only] if was_careful && only.row.reverses.is_some() => reversed_before(),
                    _ => e.into(),
                }
            }
            error => error.into(),
        })
    })
    .await
}

/// The accounts to decide on: ahead of what is under way, unless they have to be `read`.
async fn accounts_for<'a>(
    db: &Db,
    accounts: impl Iterator<Item = &'a AccountId>,
    read: &AtomicBool,
) -> Result<Ahead> {
    if !read.load(Ordering::Relaxed) {
        return Ok(accounts::book_ahead(db, accounts).await?);
    }
    Ok(Ahead {
        book: accounts::book(db, accounts).await?,
        before: Vec::new(),
        unread: false,
    })
}

/// Starts over, and reads: a refusal is for good, and nothing would tell that it was decided on what
/// is no longer so.
fn read_first(read: &AtomicBool) -> Failure {
    read.store(true, Ordering::Relaxed);
    Failure::new(Code::Conflict, "refused without a look at the accounts")
}

/// From now on ids are looked up; says whether they were before.
fn take_care(careful: &AtomicBool) -> bool {
    careful.swap(true, Ordering::Relaxed)
}

/// The failure of whoever reverses an entry a second time.
pub fn reversed_before() -> Failure {
    Failure::new(Code::AlreadyExists, "the entry was reversed before")
}

/// What the requests' ids were used for; nothing unless `careful`.
async fn known(db: &Db, asked: &[Asked], careful: bool) -> Result<BTreeMap<String, Became>> {
    let ids = || {
        let callers = asked.iter().filter(|a| a.callers_id);
        callers.map(|a| a.row.id.as_str())
    };
    let mut known = BTreeMap::new();
    if !careful || ids().next().is_none() {
        return Ok(known);
    }
    for row in pending::known(db, ids()).await? {
        known.insert(row.id.clone(), Became::Reserved(row));
    }
    for (id, entry) in entries::known(db, ids()).await? {
        // The entry of a posted reservation has its id; what was asked for is the reservation.
        known.entry(id).or_insert(match entry {
            Known::Booked(entry, lines) => Became::Booked(entry, lines),
            Known::Refused(entry, refused) => Became::Refused(entry, refused),
        });
    }
    Ok(known)
}
