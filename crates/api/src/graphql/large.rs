//! Large answers: each is made on a thread of its own, because it would delay others, and a few at the same time.

use std::{sync::Arc, time::Duration};

use model::{Problem, clock::SharedClock, problem::Code};
use tokio::{
    runtime::Handle,
    sync::{Semaphore, oneshot},
};
use tracing::Instrument;

use crate::{error::ApiError, transfers::LARGE_ANSWERS_MAX};

/// The values of an answer that is made at once. A larger one gets a thread of its own.
pub(super) const AT_ONCE_MAX: usize = 20_000;

/// How long a large answer waits for others.
pub(super) const WAIT_MAX: Duration = Duration::from_secs(5);

/// Makes an answer on a thread of its own, as soon as one of `turns` is free. When the caller goes away, its work ends and the
/// turn is free again.
pub(super) async fn apart<T: Send + 'static>(
    turns: &Arc<Semaphore>,
    clock: &SharedClock,
    wait_max: Duration,
    answering: impl Future<Output = T> + Send + 'static,
) -> Result<T, ApiError> {
    let Ok(Ok(turn)) = clock.timeout(wait_max, Arc::clone(turns).acquire_owned()).await else {
        return Err(Problem::new(
            Code::GraphqlLargeResponsesBusy,
            "The query was rejected.",
            format!("Too many large responses are being built (limit {LARGE_ANSWERS_MAX})."),
        )
        .nothing_returned()
        .fix("Retry in a few seconds, or request smaller pages.")
        .into());
    };
    let (mut waiting, waits) = oneshot::channel::<()>();
    let runtime = Handle::current();
    let span = tracing::Span::current();
    let answered = tokio::task::spawn_blocking(move || {
        let _turn = turn;
        runtime.block_on(
            async move {
                tokio::select! {
                    answer = answering => Some(answer),
                    () = waiting.closed() => None,
                }
            }
            .instrument(span),
        )
    });
    let answer = answered.await;
    drop(waits);
    match answer {
        Ok(Some(answer)) => Ok(answer),
        // The request was dropped, or the runtime ends.
        Ok(None) => Err(stopped()),
        Err(error) => match error.try_into_panic() {
            Ok(cause) => std::panic::resume_unwind(cause),
            Err(_) => Err(stopped()),
        },
    }
}

fn stopped() -> ApiError {
    Problem::new(Code::ServiceStopping, "The query was cancelled.", "The service is shutting down.")
        .nothing_returned()
        .fix("Retry in a few seconds.")
        .into()
}

#[cfg(test)]
mod tests {
    use std::thread;

    use axum::response::IntoResponse;
    use clock::SystemClock;

    use super::*;

    const MOMENT: Duration = Duration::from_millis(50);
    const LONG: Duration = Duration::from_secs(20);

    fn clock() -> SharedClock {
        Arc::new(SystemClock)
    }

    #[tokio::test]
    async fn large_answers_have_threads_of_their_own_and_wait_for_one_another() {
        let turns = Arc::new(Semaphore::new(LARGE_ANSWERS_MAX));
        let here = thread::current().id();
        let other = apart(&turns, &clock(), MOMENT, async { thread::current().id() }).await.ok().unwrap();
        assert_ne!(other, here);
        let hanging: Vec<_> = (0..LARGE_ANSWERS_MAX)
            .map(|_| {
                let turns = Arc::clone(&turns);
                tokio::spawn(async move { apart(&turns, &clock(), LONG, std::future::pending::<()>()).await })
            })
            .collect();
        while turns.available_permits() > 0 {
            tokio::task::yield_now().await;
        }
        let Err(refused) = apart(&turns, &clock(), MOMENT, async {}).await else { panic!("there is no turn") };
        assert_eq!(refused.into_response().status(), 429);
        let clock = clock();
        let waiting = apart(&turns, &clock, LONG, async { 7 });
        // A caller that goes away gives its turn back, though its work never ends.
        hanging[0].abort();
        assert_eq!(waiting.await.ok(), Some(7));
        hanging[1].abort();
        let both = u32::try_from(LARGE_ANSWERS_MAX).unwrap();
        assert!(clock.timeout(LONG, turns.acquire_many(both)).await.is_ok());
    }

    #[tokio::test]
    async fn a_panic_of_a_large_answer_is_the_callers() {
        let turns = Arc::new(Semaphore::new(1));
        let of_answer = Arc::clone(&turns);
        let made = tokio::spawn(async move {
            let answering = async { std::panic::resume_unwind(Box::new("a panic")) };
            apart::<()>(&of_answer, &clock(), MOMENT, answering).await.is_ok()
        });
        assert!(made.await.unwrap_err().is_panic());
        assert_eq!(turns.available_permits(), 1);
    }
}
