//! Properties and secrets.

use serde_json::json;

use crate::support::Service;

on_each_database!(
    properties_and_secrets_are_replaced_as_a_whole,
    an_unknown_job_has_none_and_takes_none,
    a_new_job_inherits_nothing,
);

async fn properties_and_secrets_are_replaced_as_a_whole() {
    let service = Service::start().await;
    service.create("t1", "daily-sales").await;
    for (noun, replaced) in [("properties", 204), ("secrets", 202)] {
        let uri = format!("/data-jobs/for-team/t1/jobs/daily-sales/deployments/TODO/{noun}");
        assert_eq!(service.get(&uri).await.ok(), json!({}));
        let all =
            json!({"text": "ü", "number": 1.5, "big": 9_007_199_254_740_993_i64, "nested": {"list": [null, true]}});
        service.put(&uri, &all).await.is(replaced);
        assert_eq!(service.get(&uri).await.ok(), all);
        // A number that no machine type holds comes back digit by digit.
        let exact = r#"{"huge":123456789012345678901234567890,"tiny":0.10000000000000000000000001}"#;
        service.put(&uri, exact).await.is(replaced);
        assert_eq!(service.get(&uri).await.bytes, exact.as_bytes());
        service.put(&uri, json!({"other": 1})).await.is(replaced);
        assert_eq!(service.get(&uri).await.ok(), json!({"other": 1}));
        service.put(&uri, json!({})).await.is(replaced);
        assert_eq!(service.get(&uri).await.ok(), json!({}));
        for bad in [json!([]), json!("secret"), json!(null), json!(1)] {
            service.put(&uri, bad).await.refused(400);
        }
        service.put(&uri, json!({"large": "x".repeat(1024 * 1024)})).await.refused(413);
        service.put(&uri, "x".repeat(2 * 1024 * 1024 + 1)).await.refused(413);
    }
}

async fn an_unknown_job_has_none_and_takes_none() {
    let service = Service::start().await;
    for noun in ["properties", "secrets"] {
        let uri = format!("/data-jobs/for-team/t1/jobs/not-there/deployments/TODO/{noun}");
        assert_eq!(service.get(&uri).await.ok(), json!({}));
        service.put(&uri, json!({"a": 1})).await.refused(404);
    }
}

async fn a_new_job_inherits_nothing() {
    let service = Service::start().await;
    let job = "/data-jobs/for-team/t1/jobs/daily-sales";
    service.create("t1", "daily-sales").await;
    for noun in ["properties", "secrets"] {
        service.put(&format!("{job}/deployments/TODO/{noun}"), json!({"a": 1})).await;
    }
    service.delete(job).await.is(200);
    service.create("t1", "daily-sales").await;
    for noun in ["properties", "secrets"] {
        assert_eq!(service.get(&format!("{job}/deployments/TODO/{noun}")).await.ok(), json!({}));
    }
}
