//! Waiting: the only sleeps of these tests.

use std::{
    fmt::Display,
    future::Future,
    time::{Duration, Instant},
};

/// A deployment that installs packages from a cold cache.
pub const DEPLOYED: Duration = Duration::from_secs(300);
/// A short run, from its start to its recorded end.
pub const RUN: Duration = Duration::from_secs(90);
/// An event that happens automatically within moments.
pub const SOON: Duration = Duration::from_secs(20);

const SHORTEST: Duration = Duration::from_millis(20);
const LONGEST: Duration = Duration::from_millis(300);

/// Asks until there is an answer.
///
/// # Panics
/// When there is none before `longest` is over.
pub async fn until<T, F: Future<Output = Option<T>>>(
    what: impl Display,
    longest: Duration,
    ask: impl FnMut() -> F,
) -> T {
    attempt(longest, ask).await.unwrap_or_else(|| panic!("not within {longest:?}: {what}"))
}

/// Asks until there is an answer, or until `longest` is over.
pub async fn attempt<T, F: Future<Output = Option<T>>>(longest: Duration, mut ask: impl FnMut() -> F) -> Option<T> {
    let begun = Instant::now();
    let mut pause = SHORTEST;
    loop {
        if let Some(answer) = ask().await {
            return Some(answer);
        }
        if begun.elapsed() > longest {
            return None;
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 3 / 2).min(LONGEST);
    }
}

/// Lets time pass in which something must not happen.
pub async fn let_pass(time: Duration) {
    tokio::time::sleep(time).await;
}

/// Waits until the wall clock is `seconds` into a minute, so that a test knows how far the next tick is.
pub async fn second_of_minute(seconds: u64) {
    let_pass(Duration::from_secs((seconds + 60 - now_seconds() % 60) % 60)).await;
}

/// Waits until this many milliseconds since 1970 are over.
pub async fn until_millis(millis: u64) {
    let_pass(Duration::from_millis(millis.saturating_sub(now_millis()))).await;
}

/// Milliseconds since 1970.
#[expect(clippy::disallowed_methods, reason = "a test that waits for real ticks reads the real clock")]
fn now_millis() -> u64 {
    u64::try_from(jiff::Timestamp::now().as_millisecond()).unwrap_or_default()
}

/// Seconds since 1970.
#[expect(clippy::disallowed_methods, reason = "a test that waits for real ticks reads the real clock")]
pub fn now_seconds() -> u64 {
    u64::try_from(jiff::Timestamp::now().as_second()).unwrap_or_default()
}
