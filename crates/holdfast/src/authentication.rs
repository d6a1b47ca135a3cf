//! Authentication, as the configuration has it.

use std::{sync::Arc, time::Duration};

use anyhow::{anyhow, bail};
use api::auth::{Authentication, ClaimRules};
use clients::{
    jwks::{self, Issuer, Jwks},
    webhook::{self, Webhook},
};
use model::access::{Authorizer, decide_one_team};
use store::Db;
use url::{Host, Url};

use crate::config::{RuntimeName, Settings};

/// Authentication and the key sets behind it; nothing when no issuer is set.
pub(crate) fn of(settings: &Settings) -> anyhow::Result<Option<(Authentication, Arc<Jwks>)>> {
    let names = &settings.auth_issuers.0;
    let addresses = &settings.auth_jwks_urls.0;
    if names.is_empty() {
        if !addresses.is_empty() || settings.auth_webhook_url.is_some() {
            bail!(
                "auth.jwks_urls or auth.webhook_url is set, and auth.issuers is not: nobody would be asked who they are. Set \
                 auth.issuers too, or remove the others."
            );
        }
        return Ok(None);
    }
    if !addresses.is_empty() && addresses.len() != names.len() {
        bail!(
            "auth.issuers has {} entries and auth.jwks_urls has {}. Set as many of both, in the same order, or leave \
             auth.jwks_urls out: then each issuer says itself where its keys are.",
            names.len(),
            addresses.len()
        );
    }
    let issuers: Vec<Issuer> = names
        .iter()
        .enumerate()
        .map(|(at, name)| Issuer { name: name.clone(), jwks_url: addresses.get(at).cloned() })
        .collect();
    if let Some(unsafe_) = issuers.iter().map(|i| i.jwks_url.as_ref().unwrap_or(&i.name)).find(|url| !is_safe(url))
        && !settings.insecure
    {
        bail!(
            "The keys of an issuer would be read from {unsafe_} without encryption, and whoever sits between could let \
             anybody in. Use https, or accept the risk with --insecure."
        );
    }
    let keys = Arc::new(Jwks::new(&jwks::Options::new(issuers)));
    let authorizer = settings.auth_webhook_url.as_ref().map(|url| -> Arc<dyn Authorizer> {
        Arc::new(Webhook::new(webhook::Options {
            url: url.as_str().to_owned(),
            timeout: Duration::from_secs(settings.auth_webhook_timeout_seconds.get()),
            forward_token: settings.auth_webhook_forward_token,
        }))
    });
    let text = |name: &Option<crate::config::ClaimName>| name.as_ref().map(|name| name.as_str().to_owned());
    let auth = Authentication {
        issuers: names.clone(),
        audiences: settings.auth_audiences.0.clone(),
        algorithms: settings.auth_algorithms.0.clone(),
        leeway_seconds: settings.auth_leeway_seconds.signed(),
        claims: ClaimRules {
            user_claim: settings.auth_user_claim.as_str().to_owned(),
            custom_claim: text(&settings.auth_custom_claim),
            custom_values: settings.auth_custom_claim_values.0.clone(),
            authorities_claim: text(&settings.auth_authorities_claim),
            authorized_roles: settings.auth_authorized_roles.0.clone(),
            teams_claim: text(&settings.auth_teams_claim),
            admin_roles: settings.auth_admin_roles.0.clone(),
        },
        keys: keys.clone(),
        authorizer,
        one_team: is_one_team(settings),
    };
    Ok(Some((auth, keys)))
}

/// Refuses to start where jobs of several teams could read each other although callers are asked who they are.
pub(crate) async fn check_teams(settings: &Settings, db: &Db) -> anyhow::Result<()> {
    if settings.auth_issuers.0.is_empty() || !is_one_team(settings) {
        return Ok(());
    }
    let teams = store::jobs::teams(&mut db.read().await?, 2).await?;
    if let [one, other] = &teams[..] {
        decide_one_team(one, other).map_err(|problem| anyhow!(crate::commands::sentences(&problem)))?;
    }
    Ok(())
}

fn is_one_team(settings: &Settings) -> bool {
    settings.runtime == RuntimeName::Local && !settings.auth_teams_trust_each_other
}

fn is_safe(url: &str) -> bool {
    let Ok(url) = Url::parse(url) else { return false };
    let is_loopback = match url.host() {
        Some(Host::Domain(name)) => name == "localhost",
        Some(Host::Ipv4(ip)) => ip.is_loopback(),
        Some(Host::Ipv6(ip)) => ip.is_loopback(),
        None => false,
    };
    url.scheme() == "https" || is_loopback
}
