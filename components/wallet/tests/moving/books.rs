//! A ledger small enough to see through: accounts, transfers in two phases, refusals that are final.
//! It keeps the promises wallets are built on (one effect per id, versions that grow), and can lose
//! an answer after the effect, or die before it.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Mutex, MutexGuard, PoisonError},
};

use innover_kit::{
    Code, Problem,
    testing::{Outgoing, answer_calls},
};
use innover_money::{Currency, Money};
use serde_json::{Value, json};

#[derive(Clone, Debug, Default)]
pub struct Account {
    pub currency: String,
    pub posted: i64,
    pub held: i64,
    pub version: i64,
    pub closed: bool,
}

#[derive(Clone, Debug)]
pub struct Transfer {
    pub body: Value,
    pub state: &'static str,
    pub minor: i64,
    pub posted: Option<i64>,
}

/// What goes wrong with the next calls for an id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The effect takes place, its answer is lost.
    AnswerLost,
    /// The call never arrives.
    CallLost,
}

#[derive(Default)]
pub struct Books {
    pub accounts: BTreeMap<String, Account>,
    pub transfers: BTreeMap<String, Transfer>,
    refused: BTreeMap<String, Problem>,
    faults: BTreeMap<String, Fault>,
    /// Euro cents per minor unit of a currency, in thousandths; absent for no rate.
    pub rates: BTreeMap<String, i64>,
    /// Reservations whose time is over: marked as expired when somebody settles them.
    pub overdue: BTreeSet<String>,
    /// Accounts the list of accounts leaves out the next time.
    pub late: BTreeSet<String>,
}

static BOOKS: Mutex<Option<Books>> = Mutex::new(None);

/// The one ledger of this process.
pub fn books() -> Guard {
    let mut guard = BOOKS.lock().unwrap_or_else(PoisonError::into_inner);
    if guard.is_none() {
        *guard = Some(Books::default());
        answer_calls(|call| books().0.as_mut()?.answer(call));
    }
    Guard(guard)
}

pub struct Guard(MutexGuard<'static, Option<Books>>);

impl std::ops::Deref for Guard {
    type Target = Books;
    fn deref(&self) -> &Books {
        self.0.as_ref().expect("made at the first look")
    }
}

impl std::ops::DerefMut for Guard {
    fn deref_mut(&mut self) -> &mut Books {
        self.0.as_mut().expect("made at the first look")
    }
}

pub type Reply = (u16, Value);

fn problem(code: Code) -> Reply {
    let problem = Problem::from(code);
    (
        problem.status,
        serde_json::to_value(problem).expect("a problem is JSON"),
    )
}

fn minor(amount: &Value, currency: &str) -> i64 {
    let currency = Currency::parse(currency).expect("a currency");
    let amount = amount.as_str().expect("a decimal string");
    Money::parse(amount, currency).expect("an amount").minor()
}

fn decimal(minor: i64, currency: &str) -> String {
    let currency = Currency::parse(currency).expect("a currency");
    Money::new(minor, currency)
        .expect("an amount")
        .to_decimal_string()
}

impl Books {
    /// Opens an account with money in it.
    pub fn open(&mut self, id: &str, currency: &str, posted: i64) {
        let account = Account {
            currency: currency.into(),
            posted,
            version: 1,
            ..Account::default()
        };
        self.accounts.insert(id.into(), account);
        self.accounts
            .entry(format!("acc_house_cash_{currency}"))
            .or_insert_with(|| Account {
                currency: currency.into(),
                ..Account::default()
            });
    }

    /// Money comes from nowhere.
    pub fn account_gets(&mut self, id: &str, minor: i64) {
        let account = self.account(id);
        account.posted += minor;
        account.version += 1;
    }

    /// The next call that moves money out of `account` goes wrong.
    pub fn fault(&mut self, account: &str, fault: Fault) {
        self.faults.insert(account.into(), fault);
    }

    fn answer(&mut self, call: &Outgoing) -> Option<Reply> {
        if call.callee == "forex" {
            return Some(self.equivalent(call.path));
        }
        let (path, query) = call.path.split_once('?').unwrap_or((call.path, ""));
        let parts: Vec<&str> = path.trim_start_matches("/v1/").split('/').collect();
        let method = call.method.as_str();
        let account = match parts[..] {
            ["transfers"] => call.body["debit_account"]
                .as_str()
                .unwrap_or_default()
                .to_owned(),
            ["transfers", id, _] => self.transfers.get(id).map_or_else(String::new, |t| {
                t.body["debit_account"]
                    .as_str()
                    .unwrap_or_default()
                    .to_owned()
            }),
            _ => String::new(),
        };
        let fault = self.faults.remove(&account);
        // A conflict is no outcome, and unlike a broken connection it does not open the breaker.
        if fault == Some(Fault::CallLost) {
            return Some(problem(Code::Conflict));
        }
        let reply = match (method, &parts[..]) {
            ("POST", ["accounts"]) => {
                let id = call.body["id"].as_str().expect("an id");
                self.open(id, call.body["currency"].as_str().expect("a currency"), 0);
                (201, json!({ "id": id }))
            }
            ("GET", ["accounts"]) => self.page(query),
            ("POST", ["accounts", id, "close"]) => self.close(id),
            ("POST", ["transfers"]) => self.transfer(&call.body),
            ("GET", ["transfers", id]) => self.view(id, 200),
            ("POST", ["transfers", id, "post"]) => self.settle(id, Some(&call.body)),
            ("POST", ["transfers", id, "void"]) => self.settle(id, None),
            ("POST", ["transfers", id, "refuse"]) => self.refuse(id),
            other => panic!("the ledger has no {other:?}"),
        };
        match fault {
            Some(Fault::AnswerLost) => Some(problem(Code::Conflict)),
            _ => Some(reply),
        }
    }

    fn equivalent(&self, path: &str) -> Reply {
        let value = |name: &str| {
            let (_, rest) = path.split_once(&format!("{name}=")).expect("named");
            rest.split('&').next().expect("a value").to_owned()
        };
        let minor: i64 = value("minor").parse().expect("a number");
        let cents = self
            .rates
            .get(&value("currency"))
            .map(|rate| (minor * rate + 999) / 1000);
        (200, json!({"minor": cents, "rate_date": null}))
    }

    fn page(&mut self, query: &str) -> Reply {
        let after = query.split("cursor=").nth(1).unwrap_or_default();
        let late = self.late.clone();
        // Small pages, so that a few accounts are several.
        let mut data: Vec<(&String, &Account)> = self
            .accounts
            .iter()
            .filter(|(id, _)| id.as_str() > after && !late.contains(*id))
            .take(4)
            .collect();
        let last = data.get(2).map_or("~", |(id, _)| id.as_str());
        self.late
            .retain(|id| id.as_str() <= after || id.as_str() > last);
        let more = data.len() == 4;
        data.truncate(3);
        let next = more.then(|| data[2].0.clone());
        let data: Vec<Value> = data
            .into_iter()
            .map(|(id, a)| {
                let code = if id.starts_with("acc_house") {
                    "house_cash"
                } else {
                    "wallet"
                };
                json!({"id": id, "code": code, "currency": a.currency, "version": a.version,
                       "state": if a.closed { "closed" } else { "open" },
                       "balance": {"posted": decimal(a.posted, &a.currency),
                                   "held": decimal(a.held, &a.currency)}})
            })
            .collect();
        (200, json!({"data": data, "next_cursor": next}))
    }

    fn close(&mut self, id: &str) -> Reply {
        match self.accounts.get_mut(id) {
            Some(a) if a.posted == 0 && a.held == 0 => {
                a.closed = true;
                (200, json!({ "id": id }))
            }
            Some(_) => problem(Code::InvalidState),
            None => problem(Code::AccountNotFound),
        }
    }

    /// Books a transfer, as the wallet's call does.
    pub fn transfer(&mut self, body: &Value) -> Reply {
        let id = body["id"].as_str().expect("an id").to_owned();
        if let Some(problem) = self.refused.get(&id) {
            return (problem.status, serde_json::to_value(problem).expect("JSON"));
        }
        if let Some(known) = self.transfers.get(&id) {
            if known.body != *body {
                return problem(Code::IdempotencyKeyReused);
            }
            return self.view(&id, 201);
        }
        let currency = body["currency"].as_str().expect("a currency");
        let minor = minor(&body["amount"], currency);
        let (debit, credit) = sides(body);
        let refusal = match (self.accounts.get(&debit), self.accounts.get(&credit)) {
            (None, _) | (_, None) => Some(Code::AccountNotFound),
            (Some(d), Some(c)) if d.closed || c.closed => Some(Code::AccountClosed),
            (Some(d), _) if !debit.starts_with("acc_house") && d.posted - d.held < minor => {
                Some(Code::InsufficientFunds)
            }
            _ => None,
        };
        if let Some(code) = refusal {
            self.refused.insert(id, Problem::from(code));
            return problem(code);
        }
        let pending = body["pending"] == true;
        if pending {
            let account = self.account(&debit);
            account.held += minor;
            account.version += 1;
        } else {
            self.book(&debit, &credit, minor);
        }
        let transfer = Transfer {
            body: body.clone(),
            state: if pending { "pending" } else { "posted" },
            minor,
            posted: (!pending).then_some(minor),
        };
        self.transfers.insert(id.clone(), transfer);
        self.view(&id, 201)
    }

    fn account(&mut self, id: &str) -> &mut Account {
        self.accounts.get_mut(id).expect("an account")
    }

    fn book(&mut self, debit: &str, credit: &str, minor: i64) {
        for (id, change) in [(debit, -minor), (credit, minor)] {
            let account = self.account(id);
            account.posted += change;
            account.version += 1;
        }
    }

    fn settle(&mut self, id: &str, posted: Option<&Value>) -> Reply {
        let Some(transfer) = self.transfers.get(id).cloned() else {
            return problem(Code::NotFound);
        };
        let currency = transfer.body["currency"].as_str().expect("a currency");
        let asked = posted.map(|body| match &body["amount"] {
            Value::Null => transfer.minor,
            amount => minor(amount, currency),
        });
        let wanted = if asked.is_some() { "posted" } else { "voided" };
        if self.overdue.remove(id) {
            self.expire(id);
            return problem(Code::InvalidState);
        }
        if transfer.state != "pending" {
            return match transfer.state == wanted && transfer.posted == asked {
                true => self.view(id, 200),
                false => problem(Code::InvalidState),
            };
        }
        let (debit, credit) = sides(&transfer.body);
        if asked.is_some() && self.account(&credit).closed {
            return problem(Code::AccountClosed);
        }
        let account = self.account(&debit);
        account.held -= transfer.minor;
        account.version += 1;
        if let Some(minor) = asked {
            self.book(&debit, &credit, minor);
        }
        let known = self.transfers.get_mut(id).expect("there");
        known.state = wanted;
        known.posted = asked;
        self.view(id, 200)
    }

    fn refuse(&mut self, id: &str) -> Reply {
        let (_, transfer) = self.view(id, 200);
        if self.transfers.contains_key(id) {
            return (200, json!({ "transfer": transfer }));
        }
        self.refused
            .insert(id.to_owned(), Problem::from(Code::InvalidState));
        (200, json!({ "transfer": null }))
    }

    /// What never came is refused from now on.
    pub fn give_up(&mut self, id: &str) {
        self.refuse(id);
    }

    /// Somebody captures a reservation without asking the wallet.
    pub fn capture(&mut self, id: &str, amount: &str) {
        self.settle(id, Some(&json!({ "amount": amount })));
    }

    /// What its time does to a pending transfer.
    pub fn expire(&mut self, id: &str) {
        self.settle(id, None);
        self.transfers.get_mut(id).expect("there").state = "expired";
    }

    fn view(&self, id: &str, status: u16) -> Reply {
        let Some(transfer) = self.transfers.get(id) else {
            return problem(Code::NotFound);
        };
        let body = &transfer.body;
        let currency = body["currency"].as_str().expect("a currency");
        let (debit, credit) = sides(body);
        let balances: Vec<Value> = [debit, credit]
            .iter()
            .map(|id| {
                let a = &self.accounts[id];
                json!({"account": id, "currency": a.currency, "posted": decimal(a.posted, currency),
                       "held": decimal(a.held, currency), "available": decimal(a.posted - a.held, currency),
                       "version": a.version})
            })
            .collect();
        let expires_at = (body["pending"] == true).then_some("2099-01-01T00:00:00Z");
        let entry_id = transfer.posted.map(|_| format!("ent_{id}"));
        (
            status,
            json!({"id": id, "state": transfer.state, "debit_account": body["debit_account"],
                   "credit_account": body["credit_account"], "amount": body["amount"],
                   "currency": currency, "posted_amount": transfer.posted.map(|p| decimal(p, currency)),
                   "entry_id": entry_id, "kind": body["kind"], "reference": body["reference"],
                   "expires_at": expires_at, "created_at": "2026-11-20T12:00:00Z", "balances": balances}),
        )
    }
}

fn sides(body: &Value) -> (String, String) {
    let side = |name: &str| body[name].as_str().expect("an account").to_owned();
    (side("debit_account"), side("credit_account"))
}
