//! Entries: once each, refused for good, malformed with the place named.

use std::{collections::BTreeSet, time::Duration};

use serde_json::{Value, json};

use crate::support::{Caller, ask, finance, lock, open, transfer, wallet_for_a_user};

#[tokio::test]
async fn finance_posts_an_entry_and_reads_it_back() {
    open("acc_p1", "EUR").await;
    open("acc_p2", "EUR").await;
    let fund = transfer("acc_house_cash_EUR", "acc_p1", "100.00");
    let (status, entry, _) = ask(
        &finance(),
        "POST",
        "/v1/entries",
        Some("k-fund"),
        fund.clone(),
    )
    .await;
    assert_eq!(status, 201, "{entry}");
    assert_eq!(entry["kind"], "manual");
    assert_eq!(entry["created_by"], "usr_finance");
    assert_eq!(
        entry["balances"][1],
        json!({"account": "acc_p1", "currency": "EUR", "posted": "100.00",
        "held": "0.00", "available": "100.00", "version": 1})
    );

    let (status, again, replayed) =
        ask(&finance(), "POST", "/v1/entries", Some("k-fund"), fund).await;
    assert_eq!((status, &again, replayed), (201, &entry, true));

    let path = format!("/v1/entries/{}", entry["id"].as_str().expect("an id"));
    let (status, read, _) = ask(&finance(), "GET", &path, None, Value::Null).await;
    assert_eq!(
        (status, &read["postings"], &read["reference"]),
        (200, &entry["postings"], &json!("a test"))
    );

    let spend = transfer("acc_p1", "acc_p2", "30.00");
    for key in ["k-s1", "k-s2", "k-s3"] {
        assert_eq!(
            ask(&finance(), "POST", "/v1/entries", Some(key), spend.clone())
                .await
                .0,
            201
        );
    }
    let (_, page, _) = ask(
        &finance(),
        "GET",
        "/v1/accounts/acc_p1/statement?limit=3",
        None,
        Value::Null,
    )
    .await;
    let after = |page: &Value| -> Vec<String> {
        let lines = page["data"].as_array().expect("lines");
        lines
            .iter()
            .map(|l| l["balance_after"].as_str().expect("text").to_owned())
            .collect()
    };
    assert_eq!(after(&page), ["100.00", "70.00", "40.00"]);
    let path = format!(
        "/v1/accounts/acc_p1/statement?limit=3&cursor={}",
        page["next_cursor"].as_str().expect("more")
    );
    let (_, page, _) = ask(&finance(), "GET", &path, None, Value::Null).await;
    assert_eq!(
        (after(&page), &page["next_cursor"]),
        (vec!["10.00".to_owned()], &Value::Null)
    );
    let (_, account, _) = ask(&finance(), "GET", "/v1/accounts/acc_p1", None, Value::Null).await;
    assert_eq!(
        account["balance"],
        json!({"posted": "10.00", "held": "0.00", "available": "10.00"})
    );
    assert_eq!(account["totals"]["debits"], "90.00");
}

#[tokio::test]
async fn a_refusal_is_as_final_as_an_entry() {
    open("acc_f1", "EUR").await;
    open("acc_f2", "EUR").await;
    let spend = transfer("acc_f1", "acc_f2", "5.00");
    let (status, refused, _) = ask(
        &finance(),
        "POST",
        "/v1/entries",
        Some("k-final"),
        spend.clone(),
    )
    .await;
    assert_eq!(
        (status, &refused["code"]),
        (422, &json!("insufficient_funds")),
        "{refused}"
    );
    let fund = transfer("acc_house_cash_EUR", "acc_f1", "5.00");
    assert_eq!(
        ask(
            &finance(),
            "POST",
            "/v1/entries",
            Some("k-final-fund"),
            fund
        )
        .await
        .0,
        201
    );
    let (status, again, replayed) = ask(
        &finance(),
        "POST",
        "/v1/entries",
        Some("k-final"),
        spend.clone(),
    )
    .await;
    assert_eq!((status, &again, replayed), (422, &refused, true));
    assert_eq!(
        ask(&finance(), "POST", "/v1/entries", Some("k-final-2"), spend)
            .await
            .0,
        201,
        "a new key"
    );
}

#[tokio::test]
async fn the_wallet_service_repeats_itself_by_id_without_doubling() {
    open("acc_t1", "EUR").await;
    let mut top_up = transfer("acc_house_cash_EUR", "acc_t1", "25.00");
    top_up["kind"] = json!("top_up");
    top_up["id"] = json!("top_1");
    let (status, first, _) = ask(
        &wallet_for_a_user(),
        "POST",
        "/v1/entries",
        None,
        top_up.clone(),
    )
    .await;
    assert_eq!(
        (status, &first["created_by"]),
        (201, &json!("wallet")),
        "{first}"
    );
    // The same top-up on behalf of whoever retries it.
    let other = Caller {
        service: "wallet",
        ..finance()
    };
    let (status, again, replayed) = ask(&other, "POST", "/v1/entries", None, top_up.clone()).await;
    assert_eq!((status, &again, replayed), (201, &first, true));
    let (_, account, _) = ask(&finance(), "GET", "/v1/accounts/acc_t1", None, Value::Null).await;
    assert_eq!(account["balance"]["posted"], "25.00");

    top_up["postings"][0]["amount"] = json!("26.00");
    top_up["postings"][1]["amount"] = json!("26.00");
    let (status, refused, _) = ask(
        &wallet_for_a_user(),
        "POST",
        "/v1/entries",
        None,
        top_up.clone(),
    )
    .await;
    assert_eq!(
        (status, &refused["differing_fields"]),
        (422, &json!(["/postings/0/amount", "/postings/1/amount"]))
    );

    // Nobody else may use an id of the platform's own.
    top_up["kind"] = json!("manual");
    let (status, taken, _) = ask(&finance(), "POST", "/v1/entries", Some("k-other"), top_up).await;
    assert_eq!(
        (status, &taken["code"], &taken["param"]),
        (400, &json!("invalid_request"), &json!("/id")),
        "{taken}"
    );
}

#[tokio::test]
async fn an_entry_that_is_malformed_says_where_and_stores_nothing() {
    open("acc_m1", "EUR").await;
    open("acc_m2", "EUR").await;
    let good = transfer("acc_house_cash_EUR", "acc_m1", "1.00");
    let with = |pointer: &str, value: Value| {
        let mut body = good.clone();
        *body.pointer_mut(pointer).expect("there") = value;
        body
    };
    let mut unknown = good.clone();
    unknown["amount"] = json!("1.00");
    let mut payment = good.clone();
    payment["kind"] = json!("payment");
    for (body, status, code, param) in [
        (
            with("/postings/1/amount", json!("0.99")),
            422,
            "unbalanced",
            Some("/postings"),
        ),
        (
            with("/postings/0/amount", json!(1.5)),
            400,
            "invalid_amount",
            Some("/postings/0/amount"),
        ),
        (
            with("/postings/0/amount", json!("-1.00")),
            400,
            "invalid_amount",
            Some("/postings/0/amount"),
        ),
        (
            with("/postings/1/amount", json!("0.00")),
            400,
            "invalid_amount",
            Some("/postings/1/amount"),
        ),
        (
            with("/postings/1/amount", json!("1.001")),
            400,
            "invalid_amount",
            Some("/postings/1/amount"),
        ),
        (
            with(
                "/postings/1/amount",
                json!("1000000000000000000000000000000"),
            ),
            400,
            "invalid_amount",
            Some("/postings/1/amount"),
        ),
        (
            with("/postings/1/amount", json!("10000000000000.01")),
            400,
            "invalid_amount",
            Some("/postings/1/amount"),
        ),
        (
            with("/postings/1/currency", json!("XTS")),
            400,
            "unsupported_currency",
            Some("/postings/1/currency"),
        ),
        (
            with("/postings/1/direction", json!("up")),
            400,
            "invalid_request",
            Some("/postings/1/direction"),
        ),
        (
            with("/postings/1/account", json!("acc_house_cash_EUR")),
            400,
            "invalid_request",
            Some("/postings/1/account"),
        ),
        (
            with("/postings", json!([])),
            400,
            "invalid_request",
            Some("/postings"),
        ),
        (
            with("/reference", json!("x".repeat(141))),
            400,
            "invalid_request",
            Some("/reference"),
        ),
        (unknown, 400, "invalid_request", Some("/amount")),
        (payment, 400, "invalid_request", Some("/kind")),
        (
            with("/postings/1/account", json!("acc_nobody")),
            404,
            "account_not_found",
            Some("/postings/1"),
        ),
    ] {
        let key = innover_kit::ids::new_uuid();
        let (got, problem, _) =
            ask(&finance(), "POST", "/v1/entries", Some(&key), body.clone()).await;
        let told = (got, problem["code"].as_str(), problem["param"].as_str());
        assert_eq!(told, (status, Some(code), param), "{body}");
    }
    let (status, problem, _) = ask(&finance(), "POST", "/v1/entries", None, good).await;
    assert_eq!(
        (status, &problem["code"]),
        (400, &json!("idempotency_key_required"))
    );
    let (_, account, _) = ask(&finance(), "GET", "/v1/accounts/acc_m1", None, Value::Null).await;
    assert_eq!(
        (&account["balance"]["posted"], &account["version"]),
        (&json!("0.00"), &json!(0))
    );
}

#[tokio::test]
async fn twins_posted_at_once_are_one_entry() {
    open("acc_w1", "EUR").await;
    let fund = transfer("acc_house_cash_EUR", "acc_w1", "7.00");
    let answers: Vec<(u16, Value)> = std::thread::scope(|threads| {
        let twins: Vec<_> = (0..8)
            .map(|_| {
                let fund = fund.clone();
                threads.spawn(move || {
                    let runtime = tokio::runtime::Builder::new_current_thread()
                        .build()
                        .expect("a runtime");
                    let (status, body, _) = runtime.block_on(ask(
                        &finance(),
                        "POST",
                        "/v1/entries",
                        Some("k-twin"),
                        fund,
                    ));
                    (status, body)
                })
            })
            .collect();
        twins
            .into_iter()
            .map(|twin| twin.join().expect("answered"))
            .collect()
    });
    assert!(
        answers
            .iter()
            .all(|a| a.0 == 201 && a.1["id"] == answers[0].1["id"]),
        "{answers:?}"
    );
    let (_, account, _) = ask(&finance(), "GET", "/v1/accounts/acc_w1", None, Value::Null).await;
    assert_eq!(account["balance"]["posted"], "7.00");
}

#[tokio::test]
async fn many_who_move_the_same_account_at_once_all_get_through() {
    open("acc_hot", "EUR").await;
    let statuses: Vec<u16> = std::thread::scope(|threads| {
        let writers: Vec<_> = (0..24)
            .map(|writer| {
                threads.spawn(move || {
                    let runtime = tokio::runtime::Builder::new_current_thread()
                        .build()
                        .expect("a runtime");
                    runtime.block_on(async {
                        let mut statuses = Vec::new();
                        for n in 0..4 {
                            let key = format!("k-hot-{writer}-{n}");
                            let fund = transfer("acc_house_cash_EUR", "acc_hot", "1.00");
                            let path = "/v1/entries";
                            statuses.push(ask(&finance(), "POST", path, Some(&key), fund).await.0);
                        }
                        statuses
                    })
                })
            })
            .collect();
        let done = writers.into_iter().map(|w| w.join().expect("answered"));
        done.flatten().collect()
    });
    assert_eq!(statuses, [201; 96]);
    let path = "/v1/accounts/acc_hot";
    let (_, account, _) = ask(&finance(), "GET", path, None, Value::Null).await;
    assert_eq!(account["balance"]["posted"], "96.00");
}

#[tokio::test]
async fn an_entry_is_reversed_once_by_one_that_names_it() {
    open("acc_r1", "EUR").await;
    open("acc_r2", "EUR").await;
    let post = async |key: &'static str, body: Value| {
        let (status, entry, _) = ask(&finance(), "POST", "/v1/entries", Some(key), body).await;
        assert_eq!(status, 201, "{entry}");
        entry["id"].as_str().expect("an id").to_owned()
    };
    let reverse = async |key: &'static str, id: &str, body: Value| {
        let path = format!("/v1/entries/{id}/reverse");
        ask(&finance(), "POST", &path, Some(key), body).await
    };
    let funded = post("r-fund", transfer("acc_house_cash_EUR", "acc_r1", "10.00")).await;
    let moved = post("r-move", transfer("acc_r1", "acc_r2", "4.00")).await;

    let why = json!({"reference": "a mistake"});
    let (status, back, _) = reverse("r-1", &moved, why.clone()).await;
    assert_eq!(
        (status, &back["kind"], &back["reverses"]),
        (201, &json!("reversal"), &json!(moved)),
        "{back}"
    );
    assert_eq!(back["postings"][0]["direction"], "credit");
    assert_eq!(back["balances"][0]["posted"], "10.00");
    // The same request again is the same entry; another one is too late.
    let (status, again, replayed) = reverse("r-1", &moved, why).await;
    assert_eq!((status, &again, replayed), (201, &back, true));
    let (status, answer, _) = reverse("r-2", &moved, json!({})).await;
    assert_eq!((status, &answer["code"]), (409, &json!("already_exists")));
    // Nor is a reversal reversed, nor what does not exist.
    let reversal = back["id"].as_str().expect("an id");
    let (status, answer, _) = reverse("r-3", reversal, json!({})).await;
    assert_eq!((status, &answer["code"]), (409, &json!("invalid_state")));
    let (status, answer, _) = reverse("r-4", "ent_none", json!({})).await;
    assert_eq!((status, &answer["code"]), (404, &json!("entry_not_found")));
    // What was spent cannot be taken back; when it is there again, it can.
    let spent = post("r-spend", transfer("acc_r1", "acc_r2", "9.00")).await;
    let (status, answer, _) = reverse("r-5", &funded, json!({})).await;
    assert_eq!(
        (status, &answer["code"]),
        (422, &json!("insufficient_funds"))
    );
    assert_eq!(reverse("r-6", &spent, json!({})).await.0, 201);
    assert_eq!(reverse("r-7", &funded, json!({})).await.0, 201);
    let by_hand = json!({"kind": "reversal", "postings": []});
    let (status, _, _) = ask(&finance(), "POST", "/v1/entries", Some("r-8"), by_hand).await;
    assert!([400, 422].contains(&status), "{status}");
}

#[tokio::test]
async fn of_many_reversals_at_once_one_is_made() {
    open("acc_rr", "EUR").await;
    let fund = transfer("acc_house_cash_EUR", "acc_rr", "5.00");
    let (_, entry, _) = ask(&finance(), "POST", "/v1/entries", Some("rr-fund"), fund).await;
    let path = format!(
        "/v1/entries/{}/reverse",
        entry["id"].as_str().expect("an id")
    );
    let all: Vec<u16> = std::thread::scope(|threads| {
        let attempts: Vec<_> = (0..8)
            .map(|n| {
                let path = path.as_str();
                threads.spawn(move || {
                    let runtime = tokio::runtime::Builder::new_current_thread()
                        .build()
                        .expect("a runtime");
                    let key = format!("rr-{n}");
                    let (status, _, _) =
                        runtime.block_on(ask(&finance(), "POST", path, Some(&key), json!({})));
                    status
                })
            })
            .collect();
        attempts
            .into_iter()
            .map(|attempt| attempt.join().expect("answered"))
            .collect()
    });
    // A loser meets the reversal itself, or the account it emptied.
    let made = all.iter().filter(|status| **status == 201).count();
    assert_eq!(made, 1, "{all:?}");
    assert!(all.iter().all(|s| [201, 409, 422].contains(s)), "{all:?}");
    let (_, account, _) = ask(&finance(), "GET", "/v1/accounts/acc_rr", None, Value::Null).await;
    assert_eq!(account["balance"]["posted"], "0.00");
}

/// Sends entries while another writer has the database, so that all of them wait for it.
fn at_once(requests: Vec<(&'static str, Value)>) -> Vec<(u16, Value, bool)> {
    let writer = lock();
    let asked: Vec<_> = requests
        .into_iter()
        .map(|(key, entry)| {
            std::thread::spawn(move || {
                let runtime = tokio::runtime::Builder::new_current_thread()
                    .enable_all()
                    .build()
                    .expect("a runtime");
                runtime.block_on(ask(&finance(), "POST", "/v1/entries", Some(key), entry))
            })
        })
        .collect();
    std::thread::sleep(Duration::from_millis(200));
    drop(writer);
    let answer = |asked: std::thread::JoinHandle<_>| asked.join().expect("an answer");
    asked.into_iter().map(answer).collect()
}

#[tokio::test]
async fn requests_of_one_moment_are_booked_together_and_each_is_answered_its_own() {
    for account in ["acc_m1", "acc_m2", "acc_m3"] {
        open(account, "EUR").await;
    }
    let fund = transfer("acc_house_cash_EUR", "acc_m1", "10.00");
    let before = ask(
        &finance(),
        "POST",
        "/v1/entries",
        Some("m-fund"),
        fund.clone(),
    )
    .await;
    assert_eq!(before.0, 201);
    let other = transfer("acc_house_cash_EUR", "acc_m1", "1.00");
    assert_eq!(
        ask(&finance(), "POST", "/v1/entries", Some("m-other"), other)
            .await
            .0,
        201
    );
    let answers = at_once(vec![
        ("m-1", transfer("acc_m1", "acc_m2", "1.00")),
        ("m-2", transfer("acc_m1", "acc_m2", "2.00")),
        ("m-3", transfer("acc_m1", "acc_m2", "3.00")),
        ("m-4", transfer("acc_m3", "acc_m1", "5.00")),
        ("m-fund", fund),
        ("m-other", transfer("acc_house_cash_EUR", "acc_m1", "11.00")),
    ]);
    let [one, two, three, refused, replayed, reused] = &answers[..] else {
        panic!("{answers:?}")
    };
    for booked in [one, two, three] {
        assert_eq!((booked.0, booked.2), (201, false), "{}", booked.1);
    }
    assert_eq!(
        (refused.0, &refused.1["code"]),
        (422, &json!("insufficient_funds"))
    );
    assert_eq!(
        (replayed.0, &replayed.1, replayed.2),
        (201, &before.1, true)
    );
    assert_eq!(
        (reused.0, &reused.1["differing_fields"]),
        (422, &json!(["/postings"]))
    );
    // The three changed one account one after the other, in one commit but for the first, which may
    // have gone ahead of the others.
    let versions: BTreeSet<i64> = [one, two, three]
        .iter()
        .map(|(_, entry, _)| entry["balances"][0]["version"].as_i64().expect("a version"))
        .collect();
    assert_eq!(versions, BTreeSet::from([3, 4, 5]));
    let times: BTreeSet<&str> = [one, two, three]
        .iter()
        .map(|(_, entry, _)| entry["created_at"].as_str().expect("a time"))
        .collect();
    assert!(times.len() < 3, "each was booked by itself: {times:?}");
    let (_, account, _) = ask(&finance(), "GET", "/v1/accounts/acc_m1", None, Value::Null).await;
    assert_eq!(account["balance"]["posted"], "5.00");
    // A refusal stays one, whatever it was decided beside.
    let fund = transfer("acc_house_cash_EUR", "acc_m3", "5.00");
    assert_eq!(
        ask(&finance(), "POST", "/v1/entries", Some("m-fund-3"), fund)
            .await
            .0,
        201
    );
    let spend = transfer("acc_m3", "acc_m1", "5.00");
    let again = ask(&finance(), "POST", "/v1/entries", Some("m-4"), spend).await;
    assert_eq!((again.0, &again.1, again.2), (422, &refused.1, true));
}

#[tokio::test]
async fn twins_of_one_moment_are_one_entry_and_their_neighbours_are_booked() {
    for account in ["acc_tw1", "acc_tw2"] {
        open(account, "EUR").await;
    }
    let fund = transfer("acc_house_cash_EUR", "acc_tw1", "10.00");
    assert_eq!(
        ask(&finance(), "POST", "/v1/entries", Some("w-fund"), fund)
            .await
            .0,
        201
    );
    let named = |id: &str, amount: &str| {
        let mut entry = transfer("acc_tw1", "acc_tw2", amount);
        entry["id"] = id.into();
        entry
    };
    let answers = at_once(vec![
        ("w-1", transfer("acc_tw1", "acc_tw2", "1.00")),
        ("w-1", transfer("acc_tw1", "acc_tw2", "1.00")),
        ("w-2", named("w-entry", "2.00")),
        ("w-3", named("w-entry", "2.00")),
        ("w-4", named("w-entry", "3.00")),
        ("w-5", transfer("acc_tw1", "acc_tw2", "4.00")),
    ]);
    let statuses: Vec<u16> = answers.iter().map(|(status, ..)| *status).collect();
    let [first, second, named_one, named_two, other, neighbour] = &answers[..] else {
        panic!("{answers:?}")
    };
    assert_eq!((first.0, &first.1), (201, &second.1), "{statuses:?}");
    assert_ne!(
        first.2, second.2,
        "one of the two is told that it was done before"
    );
    assert_eq!(neighbour.0, 201, "{}", neighbour.1);
    // Whichever came first has the id.
    if other.0 == 201 {
        assert_eq!((named_one.0, named_two.0), (422, 422), "{statuses:?}");
    } else {
        assert_eq!(
            (named_one.0, &named_one.1),
            (201, &named_two.1),
            "{statuses:?}"
        );
        assert_eq!(other.1["code"], "idempotency_key_reused", "{}", other.1);
    }
    let (_, account, _) = ask(&finance(), "GET", "/v1/accounts/acc_tw1", None, Value::Null).await;
    let left = if other.0 == 201 { "2.00" } else { "3.00" };
    assert_eq!(account["balance"]["posted"], left);
}

/// The wallet's way of asking: two accounts, an amount.
fn by_id(id: &str, debit: &str, credit: &str, more: Value) -> Value {
    let mut body = json!({"id": id, "debit_account": debit, "credit_account": credit, "amount": "5.00",
                          "currency": "EUR", "kind": "transfer", "reference": "r"});
    for (name, value) in more.as_object().into_iter().flatten() {
        body[name] = value.clone();
    }
    body
}

#[tokio::test]
async fn a_transfer_that_was_given_up_is_never_booked_and_one_that_is_booked_is_not_given_up() {
    open("acc_g1", "EUR").await;
    open("acc_g2", "EUR").await;
    let wallet = wallet_for_a_user();
    let house = "acc_house_cash_EUR";
    let post = async |path: &str, body: Value| ask(&wallet, "POST", path, None, body).await;
    let given_up = json!({"kind": "transfer", "reference": "r"});
    for _ in 0..2 {
        let (status, found, _) = post("/v1/transfers/trf_late/refuse", given_up.clone()).await;
        assert_eq!((status, found), (200, json!({"transfer": null})));
    }
    let late = by_id("trf_late", house, "acc_g1", json!({}));
    let (status, refused, _) = post("/v1/transfers", late).await;
    assert_eq!(
        (status, &refused["code"]),
        (409, &json!("invalid_state")),
        "{refused}"
    );
    let reserve = by_id("trf_late", house, "acc_g1", json!({"pending": true}));
    assert_eq!(post("/v1/transfers", reserve).await.0, 409);

    let booked = by_id("trf_there", house, "acc_g1", json!({}));
    assert_eq!(post("/v1/transfers", booked).await.0, 201);
    let (status, found, _) = post("/v1/transfers/trf_there/refuse", given_up.clone()).await;
    assert_eq!(
        (status, &found["transfer"]["state"]),
        (200, &json!("posted"))
    );
    let held = by_id(
        "hol_there",
        "acc_g1",
        "acc_g2",
        json!({"pending": true, "kind": "hold"}),
    );
    assert_eq!(post("/v1/transfers", held).await.0, 201);
    let (status, found, _) = post("/v1/transfers/hol_there/refuse", given_up.clone()).await;
    assert_eq!(
        (status, &found["transfer"]["state"]),
        (200, &json!("pending"))
    );

    let (status, refused, _) = post("/v1/transfers/pay_1/refuse", given_up.clone()).await;
    assert_eq!((status, &refused["code"]), (400, &json!("invalid_request")));
    let stranger = ask(
        &finance(),
        "POST",
        "/v1/transfers/trf_x/refuse",
        None,
        given_up,
    )
    .await;
    assert_eq!(stranger.0, 403, "{}", stranger.1);
}

/// Somebody is told that it has expired: nobody may post it any more, also who looked at the clock
/// before and is slow.
#[tokio::test]
async fn a_reservation_has_expired_once_that_is_said() {
    open("acc_e1", "EUR").await;
    open("acc_e2", "EUR").await;
    let wallet = wallet_for_a_user();
    let post = async |path: &str, body: Value| ask(&wallet, "POST", path, None, body).await;
    let fund = by_id("top_e1", "acc_house_cash_EUR", "acc_e1", json!({}));
    assert_eq!(post("/v1/transfers", fund).await.0, 201);
    let held = by_id(
        "hol_e1",
        "acc_e1",
        "acc_e2",
        json!({"pending": true, "kind": "hold"}),
    );
    assert_eq!(post("/v1/transfers", held).await.0, 201);
    let writer = lock();
    writer
        .execute_batch("UPDATE pending SET expires_at = 1 WHERE id = 'hol_e1'; COMMIT")
        .unwrap();
    for _ in 0..2 {
        let (status, refused, _) = post("/v1/transfers/hol_e1/post", json!({})).await;
        assert_eq!(
            (status, &refused["code"]),
            (409, &json!("invalid_state")),
            "{refused}"
        );
    }
    let (_, transfer, _) = ask(&wallet, "GET", "/v1/transfers/hol_e1", None, json!(null)).await;
    assert_eq!(transfer["state"], "expired");
    let (_, account, _) = ask(&finance(), "GET", "/v1/accounts/acc_e1", None, json!(null)).await;
    assert_eq!(account["balance"]["available"], "5.00");
}
