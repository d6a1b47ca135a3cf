//! Notifies the reconcile loops after a commit. A lost notification costs latency, never work, because the loops query for it.
//!
//! On PostgreSQL every instance is notified after the commit of a request, once for all topics of a moment, because the commit
//! of a notification takes a lock of the whole server.

use std::{
    hash::{BuildHasher, Hasher, RandomState},
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering},
    },
    time::Duration,
};

use model::clock::{Clock, SharedClock};
use sqlx::{PgPool, postgres::PgListener};
use tokio::sync::Notify;

/// The channel of notifications.
const CHANNEL: &str = "holdfast_notifications";

/// The pause after a notification, in which others gather.
const GATHER: Duration = Duration::from_millis(50);

/// How long a listener trusts a silent connection.
const SILENCE_MAX: Duration = Duration::from_secs(30);

/// How long the server may take to show that it is still there.
const ANSWER_MAX: Duration = Duration::from_secs(5);

/// The longest pause before a lost listener tries to come back.
const RETRY_MAX: Duration = Duration::from_secs(5);

const DEPLOYMENTS: u8 = 1;
const EXECUTIONS: u8 = 2;
const SCHEDULES: u8 = 4;
const LEADERSHIP: u8 = 8;

/// One notifier for each loop of the synchronizer. Clones share their notifiers.
#[derive(Debug, Clone)]
pub struct Notifications {
    /// A deployment changed.
    pub deployments: Notifier,
    /// An execution was accepted, is to be cancelled, or released its job.
    pub executions: Notifier,
    /// A schedule appeared or changed, or a job became free for a tick that waits.
    pub schedules: Notifier,
    /// A leader released its lease.
    pub leadership: Notifier,
}

/// A notifier. A waiter returns at once, once, if a notification came before.
#[derive(Debug, Clone)]
pub struct Notifier {
    local: Arc<Notify>,
    topic: u8,
    others: Option<Arc<PendingNotifications>>,
}

impl Notifier {
    fn new(topic: u8, others: Option<&Arc<PendingNotifications>>) -> Self {
        Self { local: Arc::default(), topic, others: others.cloned() }
    }

    /// Notifies: here at once, in other instances soon.
    pub fn notify_one(&self) {
        self.local.notify_one();
        if let Some(others) = &self.others {
            others.topics.fetch_or(self.topic, Ordering::Relaxed);
            others.gathered.notify_one();
        }
    }

    /// Waits until it is rung.
    pub async fn notified(&self) {
        self.local.notified().await;
    }
}

impl Default for Notifications {
    fn default() -> Self {
        Self::new(None)
    }
}

impl Notifications {
    fn new(others: Option<&Arc<PendingNotifications>>) -> Self {
        Self {
            deployments: Notifier::new(DEPLOYMENTS, others),
            executions: Notifier::new(EXECUTIONS, others),
            schedules: Notifier::new(SCHEDULES, others),
            // A leader that releases its lease notifies in the same transaction.
            leadership: Notifier::new(LEADERSHIP, None),
        }
    }

    /// Notifications that other instances receive too, and those that are still to be sent to them.
    pub(crate) fn across_instances() -> (Self, Arc<PendingNotifications>) {
        let pending = Arc::new(PendingNotifications {
            instance: RandomState::new().build_hasher().finish(),
            topics: AtomicU8::default(),
            gathered: Notify::new(),
        });
        (Self::new(Some(&pending)), pending)
    }

    /// The same notifiers, for this instance alone.
    pub(crate) fn within_instance(&self) -> Self {
        let mut own = self.clone();
        for notifier in [&mut own.deployments, &mut own.executions, &mut own.schedules, &mut own.leadership] {
            notifier.others = None;
        }
        own
    }

    fn notify_topics(&self, topics: u8) {
        for notifier in [&self.deployments, &self.executions, &self.schedules, &self.leadership] {
            if topics & notifier.topic != 0 {
                notifier.local.notify_one();
            }
        }
    }

    /// The outbox of this instance.
    fn instance(&self) -> Option<u64> {
        self.deployments.others.as_ref().map(|pending| pending.instance)
    }
}

/// Topics that other instances were not notified of yet.
#[derive(Debug)]
pub(crate) struct PendingNotifications {
    instance: u64,
    topics: AtomicU8,
    gathered: Notify,
}

/// The notification of a leader that releases its lease.
pub(crate) const NOTIFY_RELEASED: &str = "select pg_notify('holdfast_notifications', '0 8')";

/// Notifies other instances of the topics of this one.
pub(crate) async fn notify(pool: PgPool, pending: Arc<PendingNotifications>, clock: SharedClock) {
    loop {
        pending.gathered.notified().await;
        let topics = pending.topics.swap(0, Ordering::Relaxed);
        if topics != 0 {
            let told = sqlx::query("select pg_notify($1, $2)")
                .bind(CHANNEL)
                .bind(format!("{} {topics}", pending.instance))
                .execute(&pool);
            if let Err(error) = told.await {
                tracing::debug!(%error, "other instances were not notified; they find the work in their next poll");
            }
            clock.sleep(GATHER).await;
        }
    }
}

/// Passes on the notifications of other instances, for as long as the pool is open.
pub(crate) async fn listen(pool: PgPool, notifications: Notifications, clock: SharedClock) {
    let mut delay = Duration::from_millis(100);
    while !pool.is_closed() {
        match hear(&*clock, &pool, &notifications, &mut delay).await {
            Ok(()) => tracing::debug!("the listener lost its connection"),
            Err(error) => tracing::debug!(%error, "the listener has no connection"),
        }
        clock.sleep(delay).await;
        delay = (delay * 2).min(RETRY_MAX);
    }
}

async fn hear(
    clock: &dyn Clock,
    pool: &PgPool,
    notifications: &Notifications,
    delay: &mut Duration,
) -> sqlx::Result<()> {
    let mut listener = PgListener::connect_with(pool).await?;
    listener.listen(CHANNEL).await?;
    *delay = Duration::from_millis(100);
    // Something may have been missed.
    notifications.notify_topics(u8::MAX);
    loop {
        match clock.timeout(SILENCE_MAX, listener.try_recv()).await {
            Ok(Ok(Some(notification))) => {
                if let Some((instance, topics)) = read(notification.payload())
                    && Some(instance) != notifications.instance()
                {
                    notifications.notify_topics(topics);
                }
            }
            Ok(Ok(None)) => return Ok(()),
            Ok(Err(error)) => return Err(error),
            // A connection that was cut without a word looks like this too.
            Err(_) => {
                let asked = sqlx::query("select 1").execute(&mut listener);
                match clock.timeout(ANSWER_MAX, asked).await {
                    Ok(answer) => answer.map(|_| ())?,
                    Err(_) => return Ok(()),
                }
            }
        }
    }
}

fn read(payload: &str) -> Option<(u64, u8)> {
    let (instance, topics) = payload.split_once(' ')?;
    Some((instance.parse().ok()?, topics.parse().ok()?))
}
