//! Plain HTTP: requests that the `vdk` client can't send, or can't send at the same instant.

use std::time::Duration;

use reqwest::{Method, StatusCode, header::HeaderMap};
use serde_json::{Value, json};

use crate::{
    job::Job,
    wait::{self, until},
};

const LONGEST: Duration = Duration::from_secs(60);

/// A client of the API on behalf of a team.
#[derive(Debug, Clone)]
pub struct Api {
    base: String,
    team: String,
    http: reqwest::Client,
}

/// A response, read to its end.
#[derive(Debug, Clone)]
pub struct Answer {
    /// Method and path, for messages.
    pub asked: String,
    /// The status.
    pub status: StatusCode,
    /// The headers.
    pub headers: HeaderMap,
    /// The body.
    pub bytes: Vec<u8>,
}

impl Answer {
    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.bytes).into_owned()
    }

    /// The body as JSON.
    ///
    /// # Panics
    /// When it is none.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.bytes)
            .unwrap_or_else(|_| panic!("{}: {} with no JSON: {:?}", self.asked, self.status, self.text()))
    }

    /// Itself, when the status is this one.
    ///
    /// # Panics
    /// When it is another.
    #[must_use]
    pub fn is(self, status: u16) -> Self {
        assert_eq!(self.status.as_u16(), status, "{}: {}", self.asked, self.text());
        self
    }

    /// Itself, when the status is a 2xx.
    ///
    /// # Panics
    /// When it is another.
    #[must_use]
    pub fn ok(self) -> Self {
        assert!(self.status.is_success(), "{}: {} {}", self.asked, self.status, self.text());
        self
    }

    /// The id at the end of the Location header.
    ///
    /// # Panics
    /// When there is none.
    pub fn location_id(&self) -> String {
        let location = self.headers.get("location").unwrap_or_else(|| panic!("{}: no Location", self.asked));
        location.to_str().expect("text").rsplit('/').next().unwrap_or_default().to_owned()
    }

    /// The four sentences, each with something in it, of a body that has a code as well.
    ///
    /// # Panics
    /// When the body is not one of four sentences.
    pub fn sentences(&self) -> [String; 4] {
        let body = self.json();
        assert!(body["code"].as_str().is_some_and(|code| !code.is_empty()), "{}: no code in {body}", self.asked);
        ["what", "why", "consequences", "countermeasures"].map(|key| {
            let sentence = body[key].as_str().unwrap_or_default().to_owned();
            assert!(!sentence.trim().is_empty(), "{}: no {key:?} in {body}", self.asked);
            sentence
        })
    }
}

impl Api {
    /// A client of the service at `url` for a team.
    pub fn new(url: &str, team: &str) -> Self {
        // A connection each: a service that refuses a large body without reading it may close the connection.
        let http = reqwest::Client::builder().no_proxy().timeout(LONGEST).pool_max_idle_per_host(0);
        let http = http.build().expect("an HTTP client");
        Self { base: url.into(), team: team.into(), http }
    }

    /// The same for another team.
    #[must_use]
    pub fn team(&self, team: &str) -> Self {
        Self { team: team.into(), ..self.clone() }
    }

    /// The address of a path of the team: `/jobs`, `/jobs/<job>/…`.
    pub fn url(&self, path: &str) -> String {
        format!("{}/data-jobs/for-team/{}{path}", self.base, self.team.replace(' ', "%20"))
    }

    /// Sends a request to a path of the team.
    pub async fn send(&self, method: Method, path: &str, body: Option<(&str, Vec<u8>)>) -> Answer {
        self.send_to(method, &self.url(path), body).await
    }

    /// Sends a request to a whole address.
    pub async fn send_to(&self, method: Method, url: &str, body: Option<(&str, Vec<u8>)>) -> Answer {
        self.try_send_to(method.clone(), url, body).await.unwrap_or_else(|e| panic!("{method} {url}: {e:?}"))
    }

    /// Sends a request to a complete URL that may have no server.
    ///
    /// # Errors
    /// When there is no whole answer.
    pub async fn try_send_to(
        &self,
        method: Method,
        url: &str,
        body: Option<(&str, Vec<u8>)>,
    ) -> Result<Answer, reqwest::Error> {
        let asked = format!("{method} {url}");
        let mut request = self.http.request(method, url).header("accept", "application/json");
        if let Some((media_type, bytes)) = body {
            request = request.header("content-type", media_type).body(bytes);
        }
        let response = request.send().await?;
        let (status, headers) = (response.status(), response.headers().clone());
        let bytes = response.bytes().await?.to_vec();
        Ok(Answer { asked, status, headers, bytes })
    }

    /// GET of a whole address.
    pub async fn get_at(&self, url: &str) -> Answer {
        self.send_to(Method::GET, url, None).await
    }

    /// The page of metrics as a scraper gets it that accepts these media types.
    pub async fn scrape(&self, accept: &str) -> Answer {
        self.scrape_at(&format!("{}/data-jobs/debug/prometheus", self.base), accept).await
    }

    /// The same page at an address of its own.
    pub async fn scrape_at(&self, url: &str, accept: &str) -> Answer {
        let response =
            self.http.get(url).header("accept", accept).send().await.unwrap_or_else(|e| panic!("{url}: {e:?}"));
        let (status, headers) = (response.status(), response.headers().clone());
        Answer { asked: url.to_owned(), status, headers, bytes: response.bytes().await.expect("a body").to_vec() }
    }

    /// GET
    pub async fn get(&self, path: &str) -> Answer {
        self.send(Method::GET, path, None).await
    }

    /// DELETE
    pub async fn delete(&self, path: &str) -> Answer {
        self.send(Method::DELETE, path, None).await
    }

    /// POST of JSON
    pub async fn post(&self, path: &str, body: &Value) -> Answer {
        self.send(Method::POST, path, Some(("application/json", body.to_string().into_bytes()))).await
    }

    /// PUT of JSON
    pub async fn put(&self, path: &str, body: &Value) -> Answer {
        self.send(Method::PUT, path, Some(("application/json", body.to_string().into_bytes()))).await
    }

    /// PATCH of JSON
    pub async fn patch(&self, path: &str, body: &Value) -> Answer {
        self.send(Method::PATCH, path, Some(("application/json", body.to_string().into_bytes()))).await
    }

    /// GET of a GraphQL query.
    pub async fn query(&self, query: &str) -> Answer {
        let url = self.url("/jobs");
        let response =
            self.http.get(&url).query(&[("query", query)]).send().await.unwrap_or_else(|e| panic!("{url}: {e:?}"));
        let (status, headers) = (response.status(), response.headers().clone());
        Answer { asked: query.into(), status, headers, bytes: response.bytes().await.expect("a body").to_vec() }
    }

    /// Creates a job.
    pub async fn create(&self, job: &str) -> Answer {
        let body = json!({ "job_name": job, "description": "", "team": self.team, "config": { "schedule": {} } });
        self.post(&format!("/jobs?name={job}"), &body).await
    }

    /// Uploads an archive.
    pub async fn upload(&self, job: &str, archive: Vec<u8>) -> Answer {
        let path = format!("/jobs/{job}/sources?reason=test");
        self.send(Method::POST, &path, Some(("application/octet-stream", archive))).await
    }

    /// Creates a job, uploads its source, asks for its deployment and waits until it is reached.
    pub async fn deployed(&self, job: &Job) -> String {
        let _ = self.create(job.name()).await.ok();
        let version = self.deploy(job).await;
        self.reached(job.name(), &version).await;
        version
    }

    /// Uploads a job's source and asks for its deployment.
    pub async fn deploy(&self, job: &Job) -> String {
        let version = self.upload(job.name(), job.archive()).await.ok().json()["version_sha"]
            .as_str()
            .expect("version_sha")
            .to_owned();
        let path = format!("/jobs/{}/deployments", job.name());
        let _ = self.post(&path, &json!({ "job_version": version })).await.ok();
        version
    }

    /// Waits until a version is deployed, and gives the deployment.
    pub async fn reached(&self, job: &str, version: &str) -> Value {
        until(format!("{job} is deployed at {version}"), wait::DEPLOYED, async || {
            let list = self.get(&format!("/jobs/{job}/deployments")).await.ok().json();
            list.as_array()?.iter().find(|d| d["job_version"] == version).cloned()
        })
        .await
    }

    /// Asks for a run.
    pub async fn start(&self, job: &str) -> Answer {
        self.post(&format!("/jobs/{job}/deployments/production/executions"), &json!({ "started_by": "test" })).await
    }

    /// Asks for a run that must be accepted, and gives its id.
    pub async fn started(&self, job: &str) -> String {
        self.start(job).await.is(202).location_id()
    }

    /// Asks for the end of a run.
    pub async fn cancel(&self, job: &str, id: &str) -> Answer {
        self.delete(&format!("/jobs/{job}/executions/{id}")).await
    }

    /// An execution.
    pub async fn execution(&self, job: &str, id: &str) -> Value {
        self.get(&format!("/jobs/{job}/executions/{id}")).await.ok().json()
    }

    /// Every execution of a job.
    pub async fn executions(&self, job: &str) -> Vec<Value> {
        let list = self.get(&format!("/jobs/{job}/executions")).await.ok().json();
        list.as_array().expect("a list").clone()
    }

    /// The log of an execution.
    pub async fn log(&self, job: &str, id: &str) -> String {
        let answer = self.get(&format!("/jobs/{job}/executions/{id}/logs")).await.ok().json();
        answer["logs"].as_str().unwrap_or_default().to_owned()
    }

    /// Waits until a run has this status.
    pub async fn has_status(&self, job: &str, id: &str, status: &str) -> Value {
        until(format!("{id} is {status}"), wait::RUN, async || {
            let execution = self.execution(job, id).await;
            (execution["status"] == status).then_some(execution)
        })
        .await
    }

    /// Waits until a run is over, and gives it.
    pub async fn ended(&self, job: &str, id: &str) -> Value {
        until(format!("{id} is over"), wait::RUN, async || {
            let execution = self.execution(job, id).await;
            (!matches!(execution["status"].as_str(), Some("submitted" | "running"))).then_some(execution)
        })
        .await
    }

    /// Waits until a log says this.
    pub async fn log_says(&self, job: &str, id: &str, text: &str) -> String {
        until(format!("the log of {id} says {text:?}"), wait::RUN, async || {
            let log = self.log(job, id).await;
            log.contains(text).then_some(log)
        })
        .await
    }
}
