//! Never a second execution while one is active.

use e2e::{api::Api, job::Job, service::shared};

#[tokio::test]
async fn of_two_starts_at_the_same_instant_exactly_one_is_accepted() {
    const ROUNDS: usize = 50;
    let service = shared();
    let api = service.api();
    let job = Job::new("two-starts").step("10_step.py", "time.sleep(600)");
    let name = job.name();
    api.deployed(&job).await;
    // Connections of their own, so that neither waits for the other.
    let (one, other) = (Api::new(service.url(), e2e::TEAM), Api::new(service.url(), e2e::TEAM));
    for round in 0..e2e::count_of("of_two_starts", ROUNDS, 4 * ROUNDS) {
        let (a, b) = tokio::join!(one.start(name), other.start(name));
        let (accepted, refused) = if a.status == 202 { (a, b) } else { (b, a) };
        assert_eq!(
            (accepted.status.as_u16(), refused.status.as_u16()),
            (202, 409),
            "round {round}: {}",
            refused.text()
        );
        refused.sentences();
        let id = accepted.location_id();
        let _ = api.cancel(name, &id).await.is(200);
        let ended = api.ended(name, &id).await;
        assert_eq!(ended["status"], "cancelled", "round {round}: {ended}");
    }
    let executions = api.executions(name).await;
    assert_eq!(executions.iter().filter(|e| e["status"] == "cancelled").count(), executions.len());
}
