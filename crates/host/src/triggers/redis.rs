//! Redis triggers: SUBSCRIBE, and one guest call per message.
//!
//! Pub/sub itself delivers at most once. What the host adds: it connects again when a server goes
//! away, works on several messages at once within a bound, and finishes what it took when it stops.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::{Context, anyhow};
use futures::StreamExt;
use innover_manifest::Template;
use redis::Client;
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinHandle;

use crate::config::HostConfig;
use crate::interfaces::redis::client;
use crate::limits;
use crate::serve::told_to_stop;
use crate::service::Service;
use crate::shared::Shared;

/// All subscriptions of the application.
pub(crate) struct Subscriptions {
    stop: watch::Sender<bool>,
    tasks: Vec<JoinHandle<()>>,
}

/// The components that take the messages of a channel, by channel.
type Channels = BTreeMap<String, Vec<Arc<Service>>>;

impl Subscriptions {
    /// Starts one task per server address. A server that does not answer is tried again and again.
    pub(crate) fn start(config: &HostConfig, shared: &Arc<Shared>) -> anyhow::Result<Self> {
        let mut servers: BTreeMap<String, Channels> = BTreeMap::new();
        let resolve = |template: &Template| {
            template
                .resolve(&|name| config.variable(name))
                .map_err(|missing| anyhow!("{missing}"))
        };
        let manifest = &config.manifest;
        for trigger in &manifest.redis_triggers {
            let address = match (&trigger.address, &manifest.application.redis_address) {
                (Some(address), _) | (None, Some(address)) => resolve(address)?,
                (None, None) => config
                    .redis_url
                    .clone()
                    .with_context(|| format!("redis trigger {} names no address", trigger.id))?,
            };
            let service = shared
                .service(&trigger.component)
                .filter(|service| service.exports_redis())
                .with_context(|| {
                    format!(
                        "component {} has a Redis trigger but exports no spin:redis/inbound-redis@3.0.0",
                        trigger.component
                    )
                })?;
            let channels = servers.entry(address).or_default();
            channels
                .entry(resolve(&trigger.channel)?)
                .or_default()
                .push(Arc::clone(service));
        }
        let (stop, stopped) = watch::channel(false);
        let tasks = servers
            .into_iter()
            .map(|(address, channels)| {
                let client =
                    client(&address).map_err(|error| anyhow!("redis trigger address: {error}"))?;
                let subscriber = Subscriber {
                    client,
                    channels,
                    shared: Arc::clone(shared),
                    places: Arc::new(Semaphore::new(limits::REDIS_MESSAGES_MAX)),
                };
                Ok(tokio::spawn(subscriber.run(stopped.clone())))
            })
            .collect::<anyhow::Result<_>>()?;
        Ok(Self { stop, tasks })
    }

    /// Takes no more messages and waits for those that were taken, at most `grace`.
    pub(crate) async fn stop(self, grace: Duration) {
        self.stop.send_replace(true);
        let all = futures::future::join_all(self.tasks);
        if tokio::time::timeout(grace, all).await.is_err() {
            tracing::warn!("redis messages were still being handled when the host stopped");
        }
    }
}

struct Subscriber {
    client: Client,
    channels: Channels,
    shared: Arc<Shared>,
    places: Arc<Semaphore>,
}

impl Subscriber {
    async fn run(self, mut stopped: watch::Receiver<bool>) {
        let (first, longest) = limits::REDIS_BACKOFF;
        let mut pause = first;
        let mut complained = false;
        loop {
            let listening = self.listen(&mut pause, &mut complained);
            let ended = tokio::select! {
                () = told_to_stop(&mut stopped) => break,
                ended = listening => ended,
            };
            // Once per outage; a server that stays away must not fill the log.
            if !complained {
                complained = true;
                let address = self.client.get_connection_info().addr().to_string();
                let reason =
                    ended.map_or_else(|error| error.to_string(), |()| "disconnected".into());
                tracing::warn!(address, reason, "redis trigger waits for its server");
            }
            tokio::select! {
                () = told_to_stop(&mut stopped) => break,
                () = tokio::time::sleep(pause) => {}
            }
            pause = (pause * 2).min(longest);
        }
        let all = u32::try_from(limits::REDIS_MESSAGES_MAX).unwrap_or(u32::MAX);
        // All places free: every message that was taken is done. The semaphore is never closed.
        let _ = self.places.acquire_many(all).await;
    }

    /// Subscribes and takes messages until the connection ends.
    async fn listen(&self, pause: &mut Duration, complained: &mut bool) -> redis::RedisResult<()> {
        let connect = self.client.get_async_pubsub();
        let mut pubsub = tokio::time::timeout(limits::REDIS_CONNECT, connect)
            .await
            .map_err(|_| std::io::Error::from(std::io::ErrorKind::TimedOut))??;
        for channel in self.channels.keys() {
            pubsub.subscribe(channel).await?;
        }
        *pause = limits::REDIS_BACKOFF.0;
        if std::mem::take(complained) {
            tracing::info!("redis trigger is connected again");
        }
        let mut messages = pubsub.into_on_message();
        while let Some(message) = messages.next().await {
            let Some(services) = self.channels.get(message.get_channel_name()) else {
                continue;
            };
            for service in services {
                // Waiting here leaves further messages in the socket: the bound on what is held.
                let Ok(place) = Arc::clone(&self.places).acquire_owned().await else {
                    return Ok(());
                };
                let service = Arc::clone(service);
                let shared = Arc::clone(&self.shared);
                let channel = message.get_channel_name().to_owned();
                let payload = message.get_payload_bytes().to_vec();
                tokio::spawn(async move {
                    let _place = place;
                    match deliver(&service, payload).await {
                        Ok(()) => shared.metrics.messages.fetch_add(1, Ordering::Relaxed),
                        Err(error) => {
                            tracing::error!(
                                service_name = %service.app.service,
                                channel,
                                error = format!("{error:#}"),
                                "message failed"
                            );
                            shared
                                .metrics
                                .messages_failed
                                .fetch_add(1, Ordering::Relaxed)
                        }
                    }
                });
            }
        }
        Ok(())
    }
}

/// Hands one message to a fresh instance (making one costs 50 µs), within the component's deadline.
async fn deliver(service: &Service, payload: Vec<u8>) -> anyhow::Result<()> {
    let pre = service
        .redis()
        .context("the component has no message handler any more")?;
    let _place = service
        .place()
        .await
        .map_err(|_| anyhow!("the component is at its limit"))?;
    let work = async {
        let mut store = service.store();
        let guest = pre.instantiate_async(&mut store).await?;
        store
            .run_concurrent(async |accessor| {
                guest
                    .spin_redis_inbound_redis()
                    .call_handle_message(accessor, payload)
                    .await
            })
            .await?
    };
    match tokio::time::timeout(service.app.deadline, work).await {
        Err(_) => Err(anyhow!(
            "no answer within {} ms",
            service.app.deadline.as_millis()
        )),
        Ok(Err(error)) => Err(anyhow!("{error:?}")),
        Ok(Ok(Err(error))) => Err(anyhow!("the handler answered {error:?}")),
        Ok(Ok(Ok(()))) => Ok(()),
    }
}
