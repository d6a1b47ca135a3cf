//! A client of registries: the OCI distribution specification, as far as images are read and pushed.
//!
//! A registry is asked before anything is sent: blobs that it has are not sent, blobs that another repository of the same
//! registry has are mounted. Transient failures are retried by blob, so a push that breaks off continues
//! with the blobs that are missing.

mod access;
mod credentials;
mod fault;
mod sending;

use std::{fmt, io::Write as _, sync::Arc, time::Duration};

use model::clock::SharedClock;
use reqwest::{
    Client, Method, RequestBuilder, Response, StatusCode,
    header::{ACCEPT, CONTENT_LENGTH, CONTENT_TYPE, LOCATION},
    redirect::Policy,
};
use url::Url;

pub use credentials::{Credentials, CredentialsFile};
pub use fault::{Fault, RegistryError};
pub use sending::BlobContent;

use self::{
    access::{Access, Scope},
    fault::{content, expect, text},
};
use crate::oci::{
    Digest, Reference,
    digest::Hashing,
    manifest::{DOCKER_INDEX, DOCKER_MANIFEST, INDEX, MANIFEST},
};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
const REDIRECTS_MAX: usize = 5;
const MANIFEST_MAX_BYTES: u64 = 4 * 1024 * 1024;
/// Blobs up to this size are sent in one request after the one that opens the upload.
const ONE_REQUEST_MAX_BYTES: u64 = 4 * 1024 * 1024;
const DIGEST_HEADER: &str = "docker-content-digest";

/// How registries are reached.
#[derive(Debug, Clone)]
pub struct RegistryOptions {
    /// Hosts, with their port where they have one, that are spoken to without TLS.
    pub plain_http: Vec<String>,
    /// Certificates of authorities beside those that the machine trusts, as PEM.
    pub ca_certificates: Option<Vec<u8>>,
    /// User names and passwords.
    pub credentials: Option<CredentialsFile>,
    /// Attempts at one request or one blob.
    pub attempts_max: u32,
    /// The pause before the second attempt. It doubles with each further one.
    pub pause: Duration,
    /// The longest pause that a registry may ask for.
    pub pause_max: Duration,
    /// How long a registry may neither take nor send a byte.
    pub silence_max: Duration,
    /// Waiting.
    pub clock: SharedClock,
}

impl RegistryOptions {
    /// The usual limits, for registries that serve the public.
    pub fn new(clock: SharedClock) -> Self {
        Self {
            plain_http: Vec::new(),
            ca_certificates: None,
            credentials: None,
            attempts_max: 6,
            pause: Duration::from_millis(500),
            pause_max: Duration::from_secs(60),
            silence_max: Duration::from_secs(120),
            clock,
        }
    }
}

/// Registries, and the tokens that they gave.
#[derive(Debug)]
pub struct Registries {
    http: Client,
    options: RegistryOptions,
    access: Access,
}

/// A repository of a registry.
#[derive(Clone)]
pub struct Repository {
    registries: Arc<Registries>,
    host: String,
    name: String,
}

/// A manifest or an index, whose digest was checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fetched {
    /// Its digest.
    pub digest: Digest,
    /// Its media type.
    pub media_type: String,
    /// Its content.
    pub content: Vec<u8>,
}

/// A blob to push.
#[derive(Debug, Clone)]
pub struct Blob {
    /// Its digest.
    pub digest: Digest,
    /// Its size.
    pub bytes: u64,
    /// Its content.
    pub content: BlobContent,
}

/// How a blob came into the repository.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pushed {
    /// The repository had it.
    Present,
    /// Another repository had it.
    Mounted,
    /// It was sent.
    Sent,
}

/// Receives the bytes of a blob that were sent since the last call.
pub type Progress<'a> = &'a (dyn Fn(u64) + Send + Sync);

impl Registries {
    /// A client.
    ///
    /// # Errors
    /// Why the certificates can't be used.
    pub fn new(options: RegistryOptions) -> Result<Self, String> {
        let policy = Policy::custom(|attempt| {
            let from_tls = attempt.previous().iter().any(|url| url.scheme() == "https");
            if attempt.previous().len() > REDIRECTS_MAX || (from_tls && attempt.url().scheme() != "https") {
                attempt.stop()
            } else {
                attempt.follow()
            }
        });
        let mut http = Client::builder()
            .redirect(policy)
            .connect_timeout(CONNECT_TIMEOUT)
            .read_timeout(options.silence_max)
            .no_proxy()
            .user_agent(concat!("holdfast/", env!("CARGO_PKG_VERSION")));
        if let Some(pem) = &options.ca_certificates {
            let certificates = reqwest::Certificate::from_pem_bundle(pem)
                .ok()
                .filter(|all| !all.is_empty())
                .ok_or("the file has no certificate in PEM form")?;
            http = http.tls_certs_merge(certificates);
        }
        let http = http.build().map_err(|error| error.to_string())?;
        Ok(Self { access: Access::new(options.credentials.clone()), http, options })
    }

    /// A repository by the name of an image.
    pub fn repository(self: &Arc<Self>, reference: &Reference) -> Repository {
        Repository {
            registries: Arc::clone(self),
            host: reference.host().to_owned(),
            name: reference.repository.clone(),
        }
    }
}

impl fmt::Debug for Repository {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.host, self.name)
    }
}

/// An upload that a registry opened.
struct Session {
    url: Url,
    /// Whether the registry itself takes the content; if not, it gets no credentials of the registry.
    is_of_registry: bool,
    /// The permissions that the upload was opened with.
    scope: Scope,
}

impl Repository {
    /// The host of the registry.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The path of the repository.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The same registry's repository of another name.
    #[must_use]
    pub fn sibling(&self, name: &str) -> Self {
        Self { name: name.to_owned(), ..self.clone() }
    }

    /// A manifest or an index by its tag or digest; none when the repository has no such.
    ///
    /// # Errors
    /// When the registry can't be reached, refuses, or sends something else.
    pub async fn manifest(&self, version: &str) -> Result<Option<Fetched>, RegistryError> {
        let doing = format!("reading the manifest {version}");
        let accepted = [MANIFEST, INDEX, DOCKER_MANIFEST, DOCKER_INDEX].join(", ");
        self.retried(&doing, || async {
            let url = self.url(&format!("manifests/{version}"))?;
            let response = self.send(&self.pull(), || self.http(Method::GET, &url).header(ACCEPT, &accepted)).await?;
            if response.status() == StatusCode::NOT_FOUND {
                return Ok(None);
            }
            let response = expect(response, &[StatusCode::OK]).await?;
            let named = text(response.headers(), CONTENT_TYPE.as_str());
            let content = content(response, MANIFEST_MAX_BYTES).await?;
            let digest = Digest::of(&content);
            if version.starts_with("sha256:") && digest.as_str() != version {
                return Err(Fault::Answer(format!("the manifest {version} has the digest {digest}")));
            }
            let read: serde_json::Value = serde_json::from_slice(&content)
                .map_err(|error| Fault::Answer(format!("the manifest {version} is no JSON: {error}")))?;
            let media_type = read["mediaType"].as_str().map(str::to_owned).or(named).unwrap_or_default();
            Ok(Some(Fetched { digest, media_type, content }))
        })
        .await
    }

    /// Whether the repository has a manifest or an index.
    ///
    /// # Errors
    /// As [`Self::manifest`].
    pub async fn has_manifest(&self, digest: &Digest) -> Result<bool, RegistryError> {
        let accepted = [MANIFEST, INDEX, DOCKER_MANIFEST, DOCKER_INDEX].join(", ");
        self.retried(&format!("asking for the manifest {digest}"), || async {
            self.has(&format!("manifests/{digest}"), &accepted).await
        })
        .await
    }

    /// A blob of at most so many bytes; none when the repository has no such.
    ///
    /// # Errors
    /// As [`Self::manifest`].
    pub async fn blob(&self, digest: &Digest, max_bytes: u64) -> Result<Option<Vec<u8>>, RegistryError> {
        self.retried(&format!("reading the blob {digest}"), || async {
            let Some(response) = self.get_blob(digest).await? else { return Ok(None) };
            let content = content(response, max_bytes).await?;
            if Digest::of(&content) != *digest {
                return Err(Fault::Answer(format!("the blob {digest} has another digest")));
            }
            Ok(Some(content))
        })
        .await
    }

    /// Copies a blob into a new file and checks its size and digest. `false` when the repository has no such.
    ///
    /// # Errors
    /// As [`Self::manifest`], and when the file can't be written.
    pub async fn download(&self, digest: &Digest, bytes: u64, to: &std::path::Path) -> Result<bool, RegistryError> {
        self.retried(&format!("downloading the blob {digest}"), || async {
            let Some(mut response) = self.get_blob(digest).await? else { return Ok(false) };
            let mut file = Hashing::new(std::fs::File::create(to).map_err(Fault::Disk)?);
            let mut received = 0;
            while let Some(part) = response.chunk().await.map_err(|error| fault::of_connection(&error))? {
                received += part.len() as u64;
                if received > bytes {
                    return Err(Fault::Answer(format!("the blob {digest} has more than {bytes} bytes")));
                }
                file.write_all(&part).map_err(Fault::Disk)?;
            }
            let (_, found, _) = file.finish();
            if found != *digest {
                return Err(Fault::Answer(format!("the blob {digest} has another digest, or broke off")));
            }
            Ok(true)
        })
        .await
    }

    /// Brings a blob into the repository: finds it there, mounts it from one of the repositories `from`, or sends it.
    ///
    /// # Errors
    /// When the registry can't be reached or refuses, or the content can't be read.
    pub async fn push(&self, blob: &Blob, from: &[String], progress: Progress<'_>) -> Result<Pushed, RegistryError> {
        self.retried(&format!("pushing the blob {} ({} bytes)", blob.digest, blob.bytes), || async {
            if self.has(&format!("blobs/{}", blob.digest), "*/*").await? {
                return Ok(Pushed::Present);
            }
            let session = match self.mount(&blob.digest, from).await? {
                Ok(()) => return Ok(Pushed::Mounted),
                Err(Some(session)) => session,
                Err(None) => self.open(&[]).await?.1.ok_or_else(no_location)?,
            };
            let sent = self.upload(&session, blob, progress).await;
            if sent.is_err() {
                // Registries remove abandoned uploads late, often after a week.
                let abandoned = session.url.clone();
                let _ = self.send_to(&session, || self.http(Method::DELETE, &abandoned)).await;
            }
            sent.map(|()| Pushed::Sent)
        })
        .await
    }

    /// Whether the repository has a blob, after mounting it from one of the repositories `from` where it had none.
    ///
    /// # Errors
    /// As [`Self::push`].
    pub async fn mount_or_find(&self, digest: &Digest, from: &[String]) -> Result<bool, RegistryError> {
        self.retried(&format!("mounting the blob {digest}"), || async {
            if self.has(&format!("blobs/{digest}"), "*/*").await? {
                return Ok(true);
            }
            match self.mount(digest, from).await? {
                Ok(()) => Ok(true),
                Err(Some(session)) => {
                    let abandoned = session.url.clone();
                    let _ = self.send_to(&session, || self.http(Method::DELETE, &abandoned)).await;
                    Ok(false)
                }
                Err(None) => Ok(false),
            }
        })
        .await
    }

    /// Puts a manifest or an index under a tag or its digest.
    ///
    /// # Errors
    /// As [`Self::push`].
    pub async fn push_manifest(&self, version: &str, media_type: &str, content: &[u8]) -> Result<(), RegistryError> {
        self.retried(&format!("pushing the manifest {version}"), || async {
            let url = self.url(&format!("manifests/{version}"))?;
            let response = self
                .send(&self.push_scope(), || {
                    self.http(Method::PUT, &url).header(CONTENT_TYPE, media_type).body(content.to_vec())
                })
                .await?;
            let response = expect(response, &[StatusCode::CREATED, StatusCode::OK]).await?;
            let digest = Digest::of(content);
            match text(response.headers(), DIGEST_HEADER) {
                Some(said) if said != digest.as_str() => {
                    Err(Fault::Answer(format!("it stored the manifest {digest} as {said}")))
                }
                _ => Ok(()),
            }
        })
        .await
    }

    async fn get_blob(&self, digest: &Digest) -> Result<Option<Response>, Fault> {
        let url = self.url(&format!("blobs/{digest}"))?;
        let response = self.send(&self.pull(), || self.http(Method::GET, &url)).await?;
        if response.status() == StatusCode::NOT_FOUND {
            return Ok(None);
        }
        expect(response, &[StatusCode::OK]).await.map(Some)
    }

    async fn has(&self, path: &str, accepted: &str) -> Result<bool, Fault> {
        let url = self.url(path)?;
        let response = self.send(&self.pull(), || self.http(Method::HEAD, &url).header(ACCEPT, accepted)).await?;
        match response.status() {
            StatusCode::OK => Ok(true),
            StatusCode::NOT_FOUND => Ok(false),
            _ => Err(fault::of_answer(response).await),
        }
    }

    /// Mounts a blob. Without success, the upload that the registry opened in its place, when it did.
    async fn mount(&self, digest: &Digest, from: &[String]) -> Result<Result<(), Option<Session>>, Fault> {
        for repository in from.iter().filter(|name| **name != self.name) {
            match self.open(&[("mount", digest.as_str()), ("from", repository)]).await {
                Ok((StatusCode::CREATED, _)) => return Ok(Ok(())),
                Ok((_, session)) => return Ok(Err(session)),
                // The other repository may be gone, or not be readable; then the blob is sent.
                Err(Fault::Refused { .. } | Fault::Rejected { .. }) => {}
                Err(fault) => return Err(fault),
            }
        }
        Ok(Err(None))
    }

    /// Opens an upload, or mounts.
    async fn open(&self, query: &[(&str, &str)]) -> Result<(StatusCode, Option<Session>), Fault> {
        let mut url = self.url("blobs/uploads/")?;
        let mut scope = self.push_scope();
        if !query.is_empty() {
            url.query_pairs_mut().extend_pairs(query);
            let from = query.iter().filter(|(name, _)| *name == "from");
            scope.also.extend(from.map(|(_, name)| (*name).to_owned()));
        }
        let response = self.send(&scope, || self.http(Method::POST, &url).header(CONTENT_LENGTH, 0)).await?;
        let response = expect(response, &[StatusCode::ACCEPTED, StatusCode::CREATED]).await?;
        let session =
            if response.status() == StatusCode::ACCEPTED { Some(self.session(&response, &scope)?) } else { None };
        Ok((response.status(), session))
    }

    fn session(&self, response: &Response, scope: &Scope) -> Result<Session, Fault> {
        let location = text(response.headers(), LOCATION.as_str()).ok_or_else(no_location)?;
        let url = response.url().join(&location).map_err(|_| Fault::Answer("its Location is no URL".into()))?;
        let own = self.url("")?;
        if own.scheme() == "https" && url.scheme() != "https" {
            return Err(Fault::Answer("it leads an upload from HTTPS to plain HTTP".into()));
        }
        Ok(Session { is_of_registry: url.origin() == own.origin(), url, scope: scope.clone() })
    }

    async fn upload(&self, session: &Session, blob: &Blob, progress: Progress<'_>) -> Result<(), Fault> {
        let with_digest = |url: &Url| {
            let mut url = url.clone();
            url.query_pairs_mut().append_pair("digest", blob.digest.as_str());
            url
        };
        let response = if blob.bytes <= ONE_REQUEST_MAX_BYTES {
            self.stream(session, Method::PUT, &with_digest(&session.url), blob, progress).await?
        } else {
            let response = self.stream(session, Method::PATCH, &session.url, blob, progress).await?;
            let response = expect(response, &[StatusCode::ACCEPTED, StatusCode::NO_CONTENT]).await?;
            let end = self.session(&response, &session.scope)?;
            let url = with_digest(&end.url);
            self.send_to(&end, || self.http(Method::PUT, &url).header(CONTENT_LENGTH, 0)).await?
        };
        let response = expect(response, &[StatusCode::CREATED, StatusCode::NO_CONTENT]).await?;
        match text(response.headers(), DIGEST_HEADER) {
            Some(said) if said != blob.digest.as_str() => {
                Err(Fault::Answer(format!("it stored the blob {} as {said}", blob.digest)))
            }
            _ => Ok(()),
        }
    }

    /// Sends the content of a blob, and gives up when the registry takes nothing for too long.
    async fn stream(
        &self,
        session: &Session,
        method: Method,
        url: &Url,
        blob: &Blob,
        progress: Progress<'_>,
    ) -> Result<Response, Fault> {
        let options = &self.registries.options;
        let (body, sent) = sending::body(&blob.content, blob.bytes).map_err(Fault::Disk)?;
        let request = self
            .http(method, url)
            .header(CONTENT_TYPE, "application/octet-stream")
            .header(CONTENT_LENGTH, blob.bytes)
            .body(body);
        let request = match &self.registries.access.known(&self.host, &session.scope, &*options.clock) {
            Some(header) if session.is_of_registry => request.header(reqwest::header::AUTHORIZATION, header.clone()),
            _ => request,
        };
        let mut seen = 0;
        let mut response = std::pin::pin!(request.send());
        let mut last = options.clock.boot();
        loop {
            let pause = options.clock.sleep(PROGRESS_PAUSE.min(options.silence_max));
            tokio::select! {
                response = &mut response => {
                    progress(sent.bytes().saturating_sub(seen));
                    if let Some(error) = sent.error() {
                        return Err(Fault::Disk(error));
                    }
                    return response.map_err(|error| fault::of_connection(&error));
                }
                () = pause => {
                    let now = sent.bytes();
                    if now == seen {
                        if options.clock.boot().saturating_sub(last) >= options.silence_max {
                            return Err(Fault::Unreachable(format!(
                                "it took no byte for {} seconds", options.silence_max.as_secs()
                            )));
                        }
                    } else {
                        progress(now - seen);
                        (seen, last) = (now, options.clock.boot());
                    }
                }
            }
        }
    }

    fn http(&self, method: Method, url: &Url) -> RequestBuilder {
        self.registries.http.request(method, url.clone())
    }

    fn url(&self, path: &str) -> Result<Url, Fault> {
        let plain = self.registries.options.plain_http.contains(&self.host);
        let scheme = if plain { "http" } else { "https" };
        Url::parse(&format!("{scheme}://{}/v2/{}/{path}", self.host, self.name))
            .map_err(|_| Fault::Answer(format!("{} is no host", self.host)))
    }

    fn pull(&self) -> Scope {
        Scope { repository: self.name.clone(), push: false, also: Vec::new() }
    }

    fn push_scope(&self) -> Scope {
        Scope { repository: self.name.clone(), push: true, also: Vec::new() }
    }

    /// Sends a request of an upload. Another host than the registry gets no credentials.
    async fn send_to(&self, session: &Session, request: impl Fn() -> RequestBuilder) -> Result<Response, Fault> {
        if session.is_of_registry {
            return self.send(&session.scope, request).await;
        }
        request().send().await.map_err(|error| fault::of_connection(&error))
    }

    /// Sends a request with what the registry wants to see, and asks for that once when it is refused.
    async fn send(&self, scope: &Scope, request: impl Fn() -> RequestBuilder) -> Result<Response, Fault> {
        let Registries { http, options, access } = &*self.registries;
        let known = access.known(&self.host, scope, &*options.clock);
        let with = |header: Option<&reqwest::header::HeaderValue>| match header {
            Some(header) => request().header(reqwest::header::AUTHORIZATION, header.clone()),
            None => request(),
        };
        let response = with(known.as_ref()).send().await.map_err(|error| fault::of_connection(&error))?;
        if response.status() != StatusCode::UNAUTHORIZED {
            return Ok(response);
        }
        let plain = options.plain_http.contains(&self.host);
        let header = access.ask(http, &self.host, plain, scope, response.headers(), &*options.clock).await?;
        with(Some(&header)).send().await.map_err(|error| fault::of_connection(&error))
    }

    /// Does something until it is done, or fails for a reason that does not pass, or has failed too often.
    async fn retried<T, F>(&self, doing: &str, work: impl Fn() -> F) -> Result<T, RegistryError>
    where
        F: Future<Output = Result<T, Fault>>,
    {
        let options = &self.registries.options;
        let mut attempt = 1;
        loop {
            let fault = match work().await {
                Ok(done) => return Ok(done),
                Err(fault) => fault,
            };
            let pause = options.pause.saturating_mul(1 << (attempt - 1).min(16)).min(options.pause_max);
            let pause = match fault.pause(&*options.clock) {
                _ if attempt >= options.attempts_max => None,
                // Longer than this, a build does not wait: it fails, and the rollout is retried.
                Some(asked) if asked > options.pause_max => None,
                Some(asked) => Some(asked.max(pause)),
                None => fault.may_pass().then_some(pause),
            };
            let Some(pause) = pause else {
                return Err(RegistryError {
                    registry: self.host.clone(),
                    repository: self.name.clone(),
                    doing: doing.to_owned(),
                    fault,
                });
            };
            tracing::warn!(registry = self.host, repository = self.name, doing, %fault, attempt,
                retry_in = pause.as_secs_f64(), "a request to the registry failed; retrying");
            options.clock.sleep(pause).await;
            attempt += 1;
        }
    }
}

const PROGRESS_PAUSE: Duration = Duration::from_millis(200);

fn no_location() -> Fault {
    Fault::Answer("it opened an upload without saying where".into())
}
