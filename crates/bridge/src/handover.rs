//! Handing jobs to their service, and what its answer means. The same for every queue, wherever it
//! is kept.

use std::{collections::HashMap, time::Duration};

use bytes::Bytes;
use futures::future::BoxFuture;
use innover_contract::{
    Code,
    event::{Disposition, disposition},
};
use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::task::JoinHandle;

use crate::{
    backoff::{backoff, random},
    config::Queue,
    door::{Delivery, Door, DoorError, TASKS_PATH, not_taken},
    limits::{JOB_BACKOFF_MAX, JOB_BACKOFF_MIN, JOB_JITTER, LEASE_RENEW},
    subscription::cut,
};

/// What a service said of one job. The result stays the text it came as.
#[derive(Debug, Deserialize)]
pub(crate) struct Answer {
    id: String,
    status: u16,
    #[serde(default)]
    result: Option<Box<RawValue>>,
    #[serde(default)]
    error: String,
    #[serde(default)]
    code: String,
}

/// As [`innover_contract::JobAnswers`].
#[derive(Deserialize)]
struct Answers {
    results: Vec<Answer>,
}

/// The answers to a delivery, or why there are none.
pub(crate) type Handed = Result<HashMap<String, Answer>, DoorError>;

/// What an answer means for a job.
#[derive(Debug)]
pub(crate) enum Verdict {
    /// Its result.
    Done(Box<RawValue>),
    /// No handler ran: it is as if it had not been fetched.
    Returned,
    /// Refused for good (`dead` false), or its tries are used up.
    GivenUp {
        dead: bool,
        error: String,
        code: String,
        /// No answer within the deadline.
        timed_out: bool,
    },
    /// Tried again after `wait`; by itself when it is suspected of failing whole batches.
    Again {
        wait: Duration,
        alone: bool,
        error: String,
        code: String,
    },
}

/// Delivers jobs (`body`, a [`innover_contract::job::JobBatch`]) and keeps their leases alive meanwhile.
pub(crate) async fn hand_over(
    door: &dyn Door,
    queue: &Queue,
    ids: &[&str],
    body: Bytes,
    traceparent: Option<String>,
    deadline: Duration,
    renew: impl Fn() -> BoxFuture<'static, ()> + Send,
) -> Handed {
    let answer = door.deliver(Delivery {
        service: &queue.service,
        path: TASKS_PATH,
        content_type: "application/json",
        body,
        traceparent,
        deadline,
    });
    let late = tokio::time::sleep(deadline);
    tokio::pin!(answer, late);
    let mut renewal =
        tokio::time::interval_at(tokio::time::Instant::now() + LEASE_RENEW, LEASE_RENEW);
    // On its own: it has a connection that others wait for, and this may not be asked to go on.
    let mut renewing: Option<JoinHandle<()>> = None;
    let answer = loop {
        tokio::select! {
            answer = &mut answer => break answer,
            () = &mut late => break Err(DoorError::Timeout(deadline)),
            _ = renewal.tick() => {
                if renewing.as_ref().is_none_or(JoinHandle::is_finished) {
                    renewing = Some(tokio::spawn(renew()));
                }
            }
        }
    };
    if let Some(renewing) = renewing {
        // None comes after the end. (Of a delivery that is dropped one may: it renews only what is
        // still leased.)
        let _ = renewing.await;
    }
    let (status, body) = answer?;
    let text = || {
        format!(
            "the whole delivery was answered {status}: {}",
            cut(String::from_utf8_lossy(&body).trim())
        )
    };
    let answers = match status {
        200 => {
            let answers: Answers = serde_json::from_slice(&body)
                .map_err(|e| DoorError::Failed(format!("the answer is no list of results: {e}")))?;
            answers.results
        }
        status if not_taken(status) => return Err(DoorError::Unavailable(text())),
        // One job: the status is about it. Of several it says nothing of any.
        _ => match ids {
            [id] => vec![Answer {
                id: (*id).to_owned(),
                status,
                result: None,
                error: text(),
                code: String::new(),
            }],
            _ => return Err(DoorError::Failed(text())),
        },
    };
    Ok(answers.into_iter().map(|a| (a.id.clone(), a)).collect())
}

/// What becomes of job `id` on its `attempt`th delivery of at most `max_attempts`.
pub(crate) fn verdict(handed: &mut Handed, id: &str, attempt: u32, max_attempts: u32) -> Verdict {
    // Jobs that failed together travel alone from now on: one of them may be the cause.
    let alone = handed.is_err();
    let (status, error, code) = match handed {
        Err(DoorError::Unavailable(_)) => return Verdict::Returned,
        Err(error) => (502, error.to_string(), String::new()),
        Ok(answers) => match answers.remove(id) {
            Some(answer) if disposition(answer.status) == Disposition::Acknowledge => {
                return Verdict::Done(answer.result.unwrap_or_else(|| RawValue::NULL.to_owned()));
            }
            Some(answer) => (answer.status, answer.error, answer.code),
            None => (502, "the answer leaves this job out".into(), String::new()),
        },
    };
    let error = format!("{status} {}", cut(&error));
    // A task that was told to stop would be told so again.
    let refused = disposition(status) == Disposition::Park || code == Code::SoftTimeLimit.as_str();
    if refused || attempt >= max_attempts {
        return Verdict::GivenUp {
            dead: !refused,
            error,
            code,
            timed_out: matches!(handed, Err(DoorError::Timeout(_))),
        };
    }
    let wait = backoff(
        attempt,
        JOB_BACKOFF_MIN,
        JOB_BACKOFF_MAX,
        JOB_JITTER,
        random(),
    );
    Verdict::Again {
        wait,
        alone,
        error,
        code,
    }
}
