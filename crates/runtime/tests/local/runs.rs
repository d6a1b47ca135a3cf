//! What becomes of a run.

use model::{
    execution::EndCause,
    runtime::{Runtime, Seen, Stage},
};

use crate::house::{House, id, within};

#[tokio::test]
async fn a_run_that_ends_well_has_its_log_and_its_times() {
    let house = House::new().await;
    house.runtime.start(&house.run(1, "print('hello')")).await.unwrap();
    let Stage::Running(started_at) = within(house.runtime.next(&id(1), Seen::Submitted)).await.unwrap() else {
        panic!("not running")
    };
    let end = house.end(1).await;
    assert_eq!(end.cause, EndCause::Exited(0), "{}", house.log(1).await);
    assert_eq!(end.started_at, Some(started_at));
    assert!(end.ended_at >= started_at);
    assert_eq!(end.termination_message, None);
    assert_eq!(house.log(1).await, "hello\n");
}
