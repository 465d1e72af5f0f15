//! The SQL keeps what the model decided, and guards it against everyone else.

use innover_kit::{Batch, Db};
use ledger::{
    model::{Book, Checked, Entry, Posted, Posting},
    store::{
        self, accounts,
        entries::{self, EntryRow, Known, Refused, Written},
        reports,
    },
};

use crate::support::{Database, MIGRATIONS, money, open, posted};

fn transfer(from: &str, to: &str, amount: &str) -> Checked<Entry> {
    let money = money(amount, "EUR");
    let postings = vec![
        Posting::debit(from.into(), money),
        Posting::credit(to.into(), money),
    ];
    Entry { postings }.check().expect("balanced")
}

fn row(id: &str) -> EntryRow {
    EntryRow {
        id: id.into(),
        kind: "manual".into(),
        reference: "a reference".into(),
        reverses: None,
        metadata: "{}".into(),
        created_by: "usr_1".into(),
        created_at: 1_000_000,
    }
}

async fn read(db: &Db, entry: &Checked<Entry>) -> Book {
    accounts::book(db, entry.postings().iter().map(|p| &p.account))
        .await
        .expect("read")
}

fn write(book: &mut Book, entry: &Checked<Entry>, id: &str) -> Batch {
    let done: Vec<Posted> = book.post(entry).expect("allowed");
    let mut batch = Batch::new();
    let written = Written {
        booked: vec![(row(id), done)],
        ..Written::default()
    };
    entries::write(&mut batch, book, &written, 1);
    batch
}

async fn post(db: &mut Db, entry: &Checked<Entry>, id: &str) -> Result<(), Option<&'static str>> {
    let mut book = read(db, entry).await;
    write(&mut book, entry, id)
        .commit(db)
        .await
        .map_err(|e| e.step())
}

#[tokio::test]
async fn what_is_posted_is_read_back_with_its_balances() {
    let database = Database::new();
    let mut db = database.connect();
    open(&mut db, &[("acc_a", "EUR"), ("acc_b", "EUR")]).await;
    post(
        &mut db,
        &transfer("acc_house_cash_EUR", "acc_a", "10.00"),
        "t1",
    )
    .await
    .expect("posted");
    post(&mut db, &transfer("acc_a", "acc_b", "4.00"), "t2")
        .await
        .expect("posted");
    post(&mut db, &transfer("acc_b", "acc_a", "1.00"), "t3")
        .await
        .expect("posted");

    let lines = entries::statement(&db, "acc_a", 0, 10).await.expect("read");
    let shown: Vec<_> = lines
        .iter()
        .map(|row| &row.line)
        .map(|l| (l.number, l.side.as_str(), l.amount, l.balance_after))
        .collect();
    assert_eq!(
        shown,
        [
            (1, "credit", 1_000, 1_000),
            (2, "debit", 400, 600),
            (3, "credit", 100, 700)
        ]
    );
    assert_eq!(
        entries::statement(&db, "acc_a", 1, 1)
            .await
            .expect("read")
            .len(),
        1
    );

    let Some(Known::Booked(entry, legs)) = entries::find(&db, "t2").await.expect("read") else {
        panic!("it was booked");
    };
    assert_eq!(entry, row("t2"));
    let accounts: Vec<&str> = legs.iter().map(|l| l.account.as_str()).collect();
    assert_eq!(accounts, ["acc_a", "acc_b"]);

    let trial = reports::trial_balance(&db).await.expect("read");
    let eur = (
        trial[0].debits,
        trial[0].credits,
        trial[0].accounts,
        trial[0].differing,
    );
    assert_eq!(eur, (1_500, 1_500, 5, 0));
}

#[tokio::test]
async fn of_two_batches_that_read_the_same_balance_one_takes_effect() {
    let database = Database::new();
    let (mut first, mut second) = (database.connect(), database.connect());
    open(
        &mut first,
        &[("acc_a", "EUR"), ("acc_b", "EUR"), ("acc_c", "EUR")],
    )
    .await;
    post(
        &mut first,
        &transfer("acc_house_cash_EUR", "acc_a", "10.00"),
        "t1",
    )
    .await
    .expect("posted");

    let (to_b, to_c) = (
        transfer("acc_a", "acc_b", "8.00"),
        transfer("acc_a", "acc_c", "8.00"),
    );
    let (mut book_1, mut book_2) = (read(&first, &to_b).await, read(&second, &to_c).await);
    let (batch_1, batch_2) = (
        write(&mut book_1, &to_b, "p1"),
        write(&mut book_2, &to_c, "p2"),
    );
    batch_1
        .commit(&mut first)
        .await
        .expect("the first one wins");
    let lost = batch_2
        .commit(&mut second)
        .await
        .expect_err("the balance was spent");
    // In whichever order the steps ran, one of the two guards was met.
    assert!(
        matches!(lost.step(), Some(store::STEP_ACCOUNTS | "postings")),
        "{lost}"
    );
    assert_eq!(posted(&second, "acc_a").await, 200);
    assert_eq!(posted(&second, "acc_c").await, 0);
    assert_eq!(
        reports::trial_balance(&second).await.expect("read")[0].differing,
        0
    );
}

#[tokio::test]
async fn many_writers_on_one_account_lose_nothing() {
    let database = Database::new();
    let mut db = database.connect();
    open(&mut db, &[("acc_a", "EUR")]).await;
    let path = &database;
    std::thread::scope(|threads| {
        for writer in 0..4 {
            threads.spawn(move || {
                let runtime = tokio::runtime::Builder::new_current_thread()
                    .build()
                    .expect("a runtime");
                runtime.block_on(async {
                    let mut db = path.connect();
                    for n in 0..25 {
                        let entry = transfer("acc_house_cash_EUR", "acc_a", "0.01");
                        let key = format!("w{writer}-{n}");
                        while post(&mut db, &entry, &key).await.is_err() {}
                    }
                });
            });
        }
    });
    assert_eq!(posted(&db, "acc_a").await, 100);
    let row = accounts::find(&db, "acc_a")
        .await
        .expect("read")
        .expect("there");
    assert_eq!(row.account.version, 100);
    assert_eq!(
        reports::trial_balance(&db).await.expect("read")[0].differing,
        0
    );
}

#[tokio::test]
async fn an_account_closed_since_it_was_read_takes_no_posting() {
    let database = Database::new();
    let mut db = database.connect();
    open(&mut db, &[("acc_a", "EUR")]).await;
    let entry = transfer("acc_house_cash_EUR", "acc_a", "1.00");
    let mut book = read(&db, &entry).await;
    let late = write(&mut book, &entry, "t1");
    let row = accounts::find(&db, "acc_a")
        .await
        .expect("read")
        .expect("there");
    let mut close = Batch::new();
    accounts::close(&mut close, &row.account);
    close.commit(&mut db).await.expect("closed");
    let lost = late.commit(&mut db).await.expect_err("it is closed");
    assert_eq!(lost.step(), Some(store::STEP_ACCOUNTS));
    let refused = read(&db, &entry).await.post(&entry);
    assert_eq!(refused.map_err(|r| r.code()), Err("account_closed"));
}

#[tokio::test]
async fn an_id_is_booked_once() {
    let database = Database::new();
    let mut db = database.connect();
    open(&mut db, &[("acc_a", "EUR")]).await;
    let entry = transfer("acc_house_cash_EUR", "acc_a", "1.00");
    post(&mut db, &entry, "top_1").await.expect("posted");
    assert_eq!(
        post(&mut db, &entry, "top_1").await,
        Err(Some(store::STEP_ENTRIES))
    );
    assert_eq!(
        posted(&db, "acc_a").await,
        100,
        "the failed batch left nothing"
    );
}

#[tokio::test]
async fn a_reserved_id_is_no_entry_until_it_is_posted_and_then_once() {
    let database = Database::new();
    let mut db = database.connect();
    open(&mut db, &[("acc_a", "EUR")]).await;
    let mut batch = Batch::new();
    let written = Written {
        reserved: vec![row("res_1")],
        ..Written::default()
    };
    entries::write(&mut batch, &Book::default(), &written, 1);
    batch.commit(&mut db).await.expect("reserved");
    let entry = transfer("acc_house_cash_EUR", "acc_a", "1.00");
    let taken = Err(Some(store::STEP_ENTRIES));
    assert_eq!(post(&mut db, &entry, "res_1").await, taken);
    assert_eq!(entries::find(&db, "res_1").await.expect("read"), None);

    let settle = |mut book: Book| {
        let done = book.post(&entry).expect("allowed");
        let mut batch = Batch::new();
        let by = EntryRow {
            created_by: "usr_2".into(),
            created_at: 2_000_000,
            ..row("res_1")
        };
        entries::write_settled(&mut batch, &book, (by, done), 2_000_000);
        batch
    };
    let batch = settle(read(&db, &entry).await);
    batch.commit(&mut db).await.expect("posted");
    match entries::find(&db, "res_1").await.expect("read") {
        Some(Known::Booked(entry, lines)) => {
            assert_eq!((&*entry.created_by, entry.created_at), ("usr_2", 2_000_000));
            assert_eq!(lines.len(), 2);
        }
        other => panic!("{other:?}"),
    }
    let batch = settle(read(&db, &entry).await);
    let twice = batch.commit(&mut db).await.expect_err("it is posted");
    assert_eq!(twice.step(), Some(store::STEP_ENTRIES));
    assert_eq!(posted(&db, "acc_a").await, 100);
}

#[tokio::test]
async fn an_older_database_keeps_its_reservations_and_their_ids() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("ledger.db");
    let file = rusqlite::Connection::open(&path).expect("a file");
    let [before, upgrade] = MIGRATIONS;
    file.execute_batch(before).expect("the first version");
    file.execute_batch(
        r#"INSERT INTO pending VALUES
             ('open', 1, 2, 100, 'hold', 'r', '{"a":1}', 'usr_1', 5, 9, 'pending', NULL, NULL, '[]', NULL),
             ('posted', 1, 2, 100, 'hold', 'r', '{}', 'usr_1', 5, 9, 'posted', 100, 6, '[]', '[]'),
             ('voided', 1, 2, 100, 'hold', 'r', '{}', 'usr_1', 5, 9, 'voided', NULL, 6, '[]', '[]');
           INSERT INTO entries VALUES ('posted', 'hold', 'r', NULL, '{}', 'usr_2', 6, '[[1,1],[2,1]]', NULL);
           INSERT INTO ids VALUES ('open'), ('posted'), ('voided');"#,
    )
    .expect("what it held");
    file.execute_batch(upgrade).expect("the upgrade");
    let mut rows = file
        .prepare(
            "SELECT id, kind, metadata, created_by, created_at, postings FROM entries ORDER BY id",
        )
        .expect("a query");
    let rows: Vec<String> = rows
        .query_map([], |row| {
            let text = |i| row.get::<_, String>(i);
            let at: i64 = row.get(4)?;
            Ok([
                text(0)?,
                text(1)?,
                text(2)?,
                text(3)?,
                at.to_string(),
                text(5)?,
            ]
            .join(" "))
        })
        .and_then(Iterator::collect)
        .expect("rows");
    assert_eq!(
        rows,
        [
            r#"open hold {"a":1} usr_1 5 []"#,
            "posted hold {} usr_2 6 [[1,1],[2,1]]",
            "voided hold {} usr_1 5 []",
        ]
    );
}

#[tokio::test]
async fn what_is_refused_meanwhile_is_not_booked_and_the_other_way_round() {
    let database = Database::new();
    let mut db = database.connect();
    open(&mut db, &[("acc_a", "EUR")]).await;
    let refusal = |id: &str| {
        let mut batch = Batch::new();
        let refused = Refused::of(&[], "timed_out", String::new(), String::new());
        let written = Written {
            refused: vec![(row(id), refused)],
            ..Written::default()
        };
        entries::write(&mut batch, &Book::default(), &written, 1);
        batch
    };
    let entry = transfer("acc_house_cash_EUR", "acc_a", "1.00");
    // Both decided before either committed.
    let mut book = read(&db, &entry).await;
    let booking = write(&mut book, &entry, "pay_1");
    refusal("pay_1").commit(&mut db).await.expect("refused");
    let lost = booking.commit(&mut db).await.expect_err("it is refused");
    assert!(
        matches!(
            lost.step(),
            Some(store::STEP_ENTRIES | store::STEP_ACCOUNTS | "postings")
        ),
        "{lost}"
    );
    assert!(matches!(
        entries::find(&db, "pay_1").await.expect("read"),
        Some(Known::Refused(..))
    ));

    post(&mut db, &entry, "pay_2").await.expect("booked");
    let lost = refusal("pay_2")
        .commit(&mut db)
        .await
        .expect_err("it is booked");
    assert!(
        matches!(
            lost.step(),
            Some(store::STEP_ENTRIES | store::STEP_ACCOUNTS | "postings")
        ),
        "{lost}"
    );
    assert!(matches!(
        entries::find(&db, "pay_2").await.expect("read"),
        Some(Known::Booked(..))
    ));
    assert_eq!(posted(&db, "acc_a").await, 100);
}

#[tokio::test]
async fn the_table_itself_refuses_a_balance_below_the_floor() {
    let database = Database::new();
    let mut db = database.connect();
    open(&mut db, &[("acc_a", "EUR")]).await;
    let overdraw = database.execute("UPDATE accounts SET debits = 1 WHERE id = 'acc_a'");
    assert!(overdraw.is_err(), "{overdraw:?}");
    let house = database.execute("UPDATE accounts SET credits = 1 WHERE id = 'acc_house_cash_EUR'");
    assert!(house.is_ok(), "the house has no floor");
}

#[tokio::test]
async fn the_trial_balance_names_the_account_that_differs_from_its_postings() {
    let database = Database::new();
    let mut db = database.connect();
    open(&mut db, &[("acc_a", "EUR"), ("acc_j", "JPY")]).await;
    post(
        &mut db,
        &transfer("acc_house_cash_EUR", "acc_a", "1.00"),
        "t1",
    )
    .await
    .expect("posted");
    database
        .execute("UPDATE accounts SET credits = 500 WHERE id = 'acc_a'")
        .expect("tampered");
    let trial = reports::trial_balance(&db).await.expect("read");
    let seen: Vec<_> = trial
        .iter()
        .map(|t| (t.currency.code(), t.debits, t.differing))
        .collect();
    assert_eq!(seen, [("EUR", 100, 1), ("JPY", 0, 0)]);
    assert_eq!(
        reports::differing_accounts(&db, 20).await.expect("read"),
        ["acc_a"]
    );
}
