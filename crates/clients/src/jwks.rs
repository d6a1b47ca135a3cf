//! The public keys of token issuers, by their JSON Web Key Sets.
//!
//! A set is read at the first token of its issuer, and cached. It is read again in the background when it is old, and
//! immediately when a token names an unknown key (the issuer changed its keys), but not more often than the pause allows, so
//! that made-up key ids can't cause many requests. While an issuer is down, the keys that were read last stay valid.

use std::{
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use auth::KeySets;
use model::{BoxFuture, Problem, clock::SharedClock, name::excerpt, problem::Code};
use reqwest::Client;
use serde::Deserialize;
use serde_json::Value;
use tokio::sync::{Mutex, OwnedMutexGuard};

use crate::http;

/// The largest response of an issuer.
const ANSWER_MAX_BYTES: usize = 256 * 1024;

/// The most keys that an issuer has.
const KEYS_MAX: usize = 100;

/// The types of public keys. A shared secret is not one.
const KINDS: [&str; 3] = ["RSA", "EC", "OKP"];

/// An issuer of tokens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Issuer {
    /// As tokens name it in `iss`.
    pub name: String,
    /// The URL of its key set; without one, OpenID Connect discovery is used.
    pub jwks_url: Option<String>,
}

/// Issuers and limits of the key sets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// An issuer of tokens.
    pub issuers: Vec<Issuer>,
    /// The time limit of a response.
    pub timeout: Duration,
    /// The age at which a set is read again.
    pub renew_after: Duration,
    /// The shortest pause between two reads.
    pub pause: Duration,
}

impl Options {
    /// The default limits for these issuers.
    pub fn new(issuers: Vec<Issuer>) -> Self {
        Self {
            issuers,
            timeout: Duration::from_secs(5),
            renew_after: Duration::from_secs(600),
            pause: Duration::from_secs(10),
        }
    }
}

/// The key sets of some issuers.
#[derive(Debug)]
pub struct Jwks {
    issuers: Vec<Arc<IssuerKeys>>,
    renew_after: Duration,
}

#[derive(Debug)]
struct IssuerKeys {
    issuer: Issuer,
    http: Client,
    clock: SharedClock,
    pause: Duration,
    known: RwLock<Option<Known>>,
    /// Locked during a read; holds the outcome of the last one.
    reading: Arc<Mutex<Option<Tried>>>,
}

#[derive(Debug, Clone)]
struct Known {
    keys: Arc<[Value]>,
    /// On the boot clock.
    read_at: Duration,
}

#[derive(Debug, Clone)]
struct Tried {
    /// On the boot clock.
    at: Duration,
    failed: Option<String>,
}

#[derive(Deserialize)]
struct Discovery {
    issuer: String,
    jwks_uri: String,
}

#[derive(Deserialize)]
struct KeySet {
    keys: Vec<Value>,
}

impl Jwks {
    /// Key sets that were not read yet.
    pub fn new(options: &Options, clock: &SharedClock) -> Self {
        let http = http::client(options.timeout);
        let kept = |issuer: &Issuer| {
            Arc::new(IssuerKeys {
                issuer: issuer.clone(),
                http: http.clone(),
                clock: Arc::clone(clock),
                pause: options.pause,
                known: RwLock::new(None),
                reading: Arc::default(),
            })
        };
        Self { issuers: options.issuers.iter().map(kept).collect(), renew_after: options.renew_after }
    }

    /// Reads the set of every issuer, so that an unreadable one is logged early.
    pub async fn warm_up(&self) -> Vec<Problem> {
        let mut problems = Vec::new();
        for kept in &self.issuers {
            let mut tried = Arc::clone(&kept.reading).lock_owned().await;
            kept.read(&mut tried).await;
            if let Some(why) = tried.as_ref().and_then(|tried| tried.failed.as_deref()) {
                problems.push(kept.unavailable(why));
            }
        }
        problems
    }

    async fn find(&self, issuer: &str, key_id: Option<&str>) -> Result<Vec<Value>, Problem> {
        let Some(kept) = self.issuers.iter().find(|kept| kept.issuer.name == issuer) else { return Ok(Vec::new()) };
        if let Some(known) = kept.known() {
            let fitting = known.fitting(key_id);
            if !fitting.is_empty() {
                if kept.clock.boot().saturating_sub(known.read_at) > self.renew_after {
                    kept.renew();
                }
                return Ok(fitting);
            }
        }
        let mut tried = Arc::clone(&kept.reading).lock_owned().await;
        // The former holder of the lock may have read the key.
        let fitting = kept.known().map(|known| known.fitting(key_id)).unwrap_or_default();
        if fitting.is_empty() && kept.may_read(tried.as_ref()) {
            kept.read(&mut tried).await;
        }
        if let Some(why) = tried.as_ref().and_then(|tried| tried.failed.as_deref())
            && fitting.is_empty()
        {
            return Err(kept.unavailable(why));
        }
        Ok(kept.known().map(|known| known.fitting(key_id)).unwrap_or_default())
    }
}

impl KeySets for Jwks {
    fn keys<'a>(&'a self, issuer: &'a str, key_id: Option<&'a str>) -> BoxFuture<'a, Result<Vec<Value>, Problem>> {
        Box::pin(self.find(issuer, key_id))
    }
}

impl Known {
    /// The keys of this id, or all.
    fn fitting(&self, key_id: Option<&str>) -> Vec<Value> {
        let fits = |key: &&Value| key_id.is_none_or(|id| key.get("kid").and_then(Value::as_str) == Some(id));
        self.keys.iter().filter(fits).cloned().collect()
    }
}

impl IssuerKeys {
    fn known(&self) -> Option<Known> {
        self.known.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn may_read(&self, tried: Option<&Tried>) -> bool {
        tried.is_none_or(|tried| self.clock.boot().saturating_sub(tried.at) >= self.pause)
    }

    /// Reads the set again in the background.
    fn renew(self: &Arc<Self>) {
        let Ok(mut tried) = Arc::clone(&self.reading).try_lock_owned() else { return };
        if self.may_read(tried.as_ref()) {
            let kept = Arc::clone(self);
            tokio::spawn(async move { kept.read(&mut tried).await });
        }
    }

    /// Reads the set. If that fails, the former set stays.
    async fn read(&self, tried: &mut OwnedMutexGuard<Option<Tried>>) {
        let failed = match self.fetch().await {
            Ok(keys) => {
                tracing::debug!(issuer = self.issuer.name, keys = keys.len(), "read the keys of an issuer");
                let known = Known { keys: keys.into(), read_at: self.clock.boot() };
                *self.known.write().unwrap_or_else(PoisonError::into_inner) = Some(known);
                None
            }
            Err(why) => {
                tracing::warn!(issuer = self.issuer.name, why, "the keys of an issuer can't be read");
                Some(why)
            }
        };
        **tried = Some(Tried { at: self.clock.boot(), failed });
    }

    async fn fetch(&self) -> Result<Vec<Value>, String> {
        let address = match &self.issuer.jwks_url {
            Some(url) => url.clone(),
            None => self.discover().await?,
        };
        let set: KeySet = self.get(&address).await.map_err(|why| format!("its key set: {why}"))?;
        if set.keys.len() > KEYS_MAX {
            return Err(format!("its key set has more than {KEYS_MAX} keys"));
        }
        let text = |key: &Value, name: &str| key.get(name).and_then(Value::as_str).map(str::to_owned);
        let verifies = |key: &Value| {
            text(key, "kty").is_some_and(|kind| KINDS.contains(&&*kind))
                && text(key, "use").is_none_or(|purpose| purpose == "sig")
        };
        Ok(set.keys.into_iter().filter(verifies).collect())
    }

    async fn discover(&self) -> Result<String, String> {
        let base = self.issuer.name.trim_end_matches('/');
        let found: Discovery = self
            .get(&format!("{base}/.well-known/openid-configuration"))
            .await
            .map_err(|why| format!("its OpenID configuration: {why}"))?;
        if found.issuer != self.issuer.name {
            return Err(format!("its OpenID configuration is that of another issuer, {}", excerpt(&found.issuer)));
        }
        let safe = found.jwks_uri.starts_with("https://")
            || (found.jwks_uri.starts_with("http://") && base.starts_with("http://"));
        if safe {
            Ok(found.jwks_uri)
        } else {
            Err("its OpenID configuration names a key set that is not on https".into())
        }
    }

    async fn get<T: serde::de::DeserializeOwned>(&self, address: &str) -> Result<T, String> {
        let response = self.http.get(address).header("accept", "application/json").send().await;
        let response = response.map_err(|error| http::describe(&error))?;
        if response.status() != reqwest::StatusCode::OK {
            return Err(format!("it returned status {}", response.status().as_u16()));
        }
        let bytes = http::body(response, ANSWER_MAX_BYTES).await?;
        serde_json::from_slice(&bytes).map_err(|_| "the answer is not what it should be".to_owned())
    }

    fn unavailable(&self, why: &str) -> Problem {
        Problem::new(
            Code::IssuerKeysUnavailable,
            "The request was rejected: its access token can't be checked at the moment.",
            format!("The keys of the issuer {} can't be read: {why}.", excerpt(&self.issuer.name)),
        )
        .nothing_changed()
        .fix("Retry; if it persists, the operator checks the connection to the issuer.")
    }
}
