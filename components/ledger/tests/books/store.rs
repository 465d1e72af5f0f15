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

use crate::support::{Database, money, open, posted};

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
        refused: Vec::new(),
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
async fn what_is_refused_meanwhile_is_not_booked_and_the_other_way_round() {
    let database = Database::new();
    let mut db = database.connect();
    open(&mut db, &[("acc_a", "EUR")]).await;
    let refusal = |id: &str| {
        let mut batch = Batch::new();
        let refused = Refused::of(&[], "timed_out", String::new(), String::new());
        let written = Written {
            refused: vec![(row(id), refused)],
            booked: Vec::new(),
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
