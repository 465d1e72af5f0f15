//! RFC 9457 `application/problem+json`, and the one list of codes.

use serde::{Deserialize, Serialize};

macro_rules! codes {
    ($($name:ident $text:literal $status:literal $title:literal;)*) => {
        /// A stable, machine-readable reason. Each has one HTTP status and one title; `detail` says
        /// what happened to this request and what to do.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Code {
            $(#[doc = concat!("`", $text, "`, status ", stringify!($status), ": ", $title, ".")] $name,)*
        }

        impl Code {
            /// Every code, in the order of the documentation.
            pub const ALL: &[Code] = &[$(Code::$name,)*];

            /// The stable text, e.g. `insufficient_funds`.
            pub const fn as_str(self) -> &'static str {
                match self { $(Code::$name => $text,)* }
            }

            /// The HTTP status.
            pub const fn status(self) -> u16 {
                match self { $(Code::$name => $status,)* }
            }

            /// The title, the same for every occurrence (RFC 9457 §3.1.3).
            pub const fn title(self) -> &'static str {
                match self { $(Code::$name => $title,)* }
            }

            /// The code with this text.
            pub fn parse(text: &str) -> Option<Code> {
                match text { $($text => Some(Code::$name),)* _ => None }
            }
        }
    };
}

codes! {
    MalformedJson "malformed_json" 400 "The body is not valid JSON";
    DuplicateKey "duplicate_key" 400 "A JSON object names a key twice";
    InvalidRequest "invalid_request" 400 "A field is missing, unknown or of the wrong type";
    InvalidAmount "invalid_amount" 400 "The amount is not acceptable";
    UnsupportedCurrency "unsupported_currency" 400 "The currency cannot be used here";
    InvalidCursor "invalid_cursor" 400 "The cursor is not one this list handed out";
    IdempotencyKeyRequired "idempotency_key_required" 400 "This request moves money and needs an Idempotency-Key";
    InvalidIdempotencyKey "invalid_idempotency_key" 400 "The Idempotency-Key is not acceptable";
    InvalidToken "invalid_token" 401 "The token is missing, malformed, expired or not for this service";
    InsufficientScope "insufficient_scope" 403 "The token lacks a scope or role";
    NotOwner "not_owner" 403 "This belongs to someone else";
    NotFound "not_found" 404 "There is nothing at this address";
    WalletNotFound "wallet_not_found" 404 "No such wallet";
    AccountNotFound "account_not_found" 404 "No such account";
    EntryNotFound "entry_not_found" 404 "No such journal entry";
    PaymentNotFound "payment_not_found" 404 "No such payment";
    HoldNotFound "hold_not_found" 404 "No such hold";
    RefundNotFound "refund_not_found" 404 "No such refund";
    QuoteNotFound "quote_not_found" 404 "No such quote";
    CaseNotFound "case_not_found" 404 "No such case";
    ItemNotFound "item_not_found" 404 "No such item";
    ProfileNotFound "profile_not_found" 404 "No such profile";
    DocumentNotFound "document_not_found" 404 "No such document";
    JobNotFound "job_not_found" 404 "No such job";
    UserNotFound "user_not_found" 404 "No such user";
    MethodNotAllowed "method_not_allowed" 405 "The method is not allowed here";
    Conflict "conflict" 409 "Someone else changed this at the same time";
    InvalidState "invalid_state" 409 "The state does not allow this";
    PaymentNotCompleted "payment_not_completed" 409 "The payment is not completed";
    AlreadyExists "already_exists" 409 "This exists already";
    QuoteUsed "quote_used" 409 "The quote was used already";
    QuoteExpired "quote_expired" 409 "The quote has expired";
    ProfileErased "profile_erased" 410 "The profile was erased";
    BodyTooLarge "body_too_large" 413 "The body is too large";
    UnsupportedMediaType "unsupported_media_type" 415 "The body must be JSON";
    IdempotencyKeyReused "idempotency_key_reused" 422 "The Idempotency-Key was used for another request";
    InsufficientFunds "insufficient_funds" 422 "The available balance does not cover this";
    LimitExceeded "limit_exceeded" 422 "More than the limits allow";
    RefundExceedsCaptured "refund_exceeds_captured" 422 "Not so much is left to refund";
    CurrencyMismatch "currency_mismatch" 422 "The currencies do not match";
    QuoteMismatch "quote_mismatch" 422 "The quote is for another amount or currency pair";
    AmountTooSmall "amount_too_small" 422 "The amount is too small to convert";
    NoRate "no_rate" 422 "There is no rate for this currency pair";
    RatesStale "rates_stale" 422 "The newest rates are too old";
    Unbalanced "unbalanced" 422 "Debits and credits differ";
    InvalidRule "invalid_rule" 422 "The rule set is not acceptable";
    EvaluationFailed "evaluation_failed" 422 "A rule could not be evaluated";
    InvalidFeatures "invalid_features" 422 "The model does not take these features";
    WalletNotActive "wallet_not_active" 422 "The wallet is frozen or closed";
    AccountClosed "account_closed" 422 "The account is closed";
    InvalidArguments "invalid_arguments" 422 "The arguments do not fit the task";
    UnknownTask "unknown_task" 422 "This service has no such task";
    RateLimited "rate_limited" 429 "Too many requests";
    HeadersTooLarge "headers_too_large" 431 "The headers are too large";
    Internal "internal" 500 "Something went wrong here";
    ScorerFailed "scorer_failed" 502 "The scorer gave no usable answer";
    UpstreamError "upstream_error" 502 "A service this one depends on failed";
    Unavailable "unavailable" 503 "Not available now";
    Overloaded "overloaded" 503 "Too many requests at once";
    NotReady "not_ready" 503 "The service is not ready";
    UpstreamOpen "upstream_open" 503 "A service this one depends on keeps failing; calls are paused";
    SoftTimeLimit "soft_time_limit" 504 "The task was told to stop, its soft time limit is over";
    UpstreamTimeout "upstream_timeout" 504 "A service this one depends on did not answer in time";
    DeadlineExceeded "deadline_exceeded" 504 "The outcome is unknown: ask again with the same key";
}

/// The media type of a problem.
pub const PROBLEM_JSON: &str = "application/problem+json";

/// An RFC 9457 problem as it stands on the wire.
///
/// ```json
/// {"type":"urn:innover:problem:wallet_not_found","title":"No such wallet","status":404,
///  "detail":"wallet `wal_1` does not exist","instance":"/api/wallet/v1/wallets/wal_1",
///  "code":"wallet_not_found","request_id":"0192…"}
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Problem {
    /// A URI that names the kind of problem.
    #[serde(rename = "type")]
    pub kind: String,
    /// The kind in words.
    pub title: String,
    /// The HTTP status.
    pub status: u16,
    /// What happened to this request and what to do.
    pub detail: String,
    /// The path that was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instance: Option<String>,
    /// The stable code.
    pub code: String,
    /// JSON pointer to the field at fault.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub param: Option<String>,
    /// The request's id, as in `X-Request-Id`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_id: Option<String>,
    /// The fields that differ from the first use of an Idempotency-Key, as JSON pointers.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub differing_fields: Vec<String>,
    /// The scope that was needed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scope: Option<String>,
}

impl Problem {
    /// A problem of this code. `detail` says what happened and what to do; it holds no secret.
    pub fn new(code: Code, detail: impl Into<String>) -> Problem {
        Problem {
            kind: format!("urn:innover:problem:{}", code.as_str()),
            title: code.title().into(),
            status: code.status(),
            detail: detail.into(),
            instance: None,
            code: code.as_str().into(),
            param: None,
            request_id: None,
            differing_fields: Vec::new(),
            scope: None,
        }
    }

    /// Names the field at fault by JSON pointer, e.g. `/amount`.
    #[must_use]
    pub fn param(mut self, pointer: impl Into<String>) -> Problem {
        self.param = Some(pointer.into());
        self
    }

    /// The code, or [`Code::Internal`] for one this version does not know.
    pub fn code(&self) -> Code {
        Code::parse(&self.code).unwrap_or(Code::Internal)
    }
}

impl From<Code> for Problem {
    fn from(code: Code) -> Problem {
        Problem::new(code, code.title())
    }
}

impl std::fmt::Display for Problem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.code, self.detail)
    }
}

impl std::error::Error for Problem {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_is_found_by_its_text_and_texts_are_unique() {
        for code in Code::ALL {
            assert_eq!(Code::parse(code.as_str()), Some(*code));
        }
    }
}
