//! Authentication, by the configuration.

use std::{sync::Arc, time::Duration};

use anyhow::{anyhow, bail};
use api::auth::{Authentication, ClaimRules};
use auth::Authorizer;
use clients::{
    jwks::{self, Issuer, Jwks},
    tokens::{self, Tokens},
    webhook::{self, Bearer, Webhook},
};
use model::{access::decide_one_team, clock::SharedClock};
use secrecy::ExposeSecret;
use store::Db;
use url::{Host, Url};

use crate::config::{Callers, RuntimeName, Settings};

/// The entry of `auth.audiences` that accepts tokens for any service.
const ANY_AUDIENCE: &str = "*";

/// Authentication and its key sets; `None` if no issuer is set.
pub(crate) fn of(settings: &Settings, clock: &SharedClock) -> anyhow::Result<Option<(Authentication, Arc<Jwks>)>> {
    let names = &settings.auth_issuers.0;
    let addresses = &settings.auth_jwks_urls.0;
    if names.is_empty() {
        if !addresses.is_empty() || settings.auth_webhook_url.is_some() {
            bail!(
                "auth.jwks_urls or auth.webhook_url is set, and auth.issuers is not: authentication would be off. Set \
                 auth.issuers too, or remove the others."
            );
        }
        return Ok(None);
    }
    if !addresses.is_empty() && addresses.len() != names.len() {
        bail!(
            "auth.issuers has {} entries and auth.jwks_urls has {}. Set as many of both, in the same order, or leave \
             auth.jwks_urls out: then the keys are found through the configuration of each issuer.",
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
            "The keys of an issuer would be read from {unsafe_} without encryption, so an attacker on the network could forge \
             tokens. Use https, or accept the risk with --insecure."
        );
    }
    let keys = Arc::new(Jwks::new(&jwks::Options::new(issuers), clock));
    let authorizer = authorizer(settings, clock)?;
    let text = |name: &Option<crate::config::ClaimName>| name.as_ref().map(|name| name.as_str().to_owned());
    let auth = Authentication {
        issuers: names.clone(),
        audiences: if any_audience(settings) { Vec::new() } else { settings.auth_audiences.0.clone() },
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
        jobs_may_start_jobs: settings.auth_jobs_may_start_jobs,
    };
    Ok(Some((auth, keys)))
}

/// Whether tokens for any service are accepted.
pub(crate) fn any_audience(settings: &Settings) -> bool {
    settings.auth_audiences.0.iter().any(|audience| audience == ANY_AUDIENCE)
}

/// The admitted callers, for the check of the address.
pub(crate) fn callers(settings: &Settings) -> Callers {
    if settings.auth_issuers.0.is_empty() {
        Callers::Unauthenticated
    } else if settings.auth_audiences.0.is_empty() {
        Callers::OfAnyAudience
    } else {
        Callers::Authenticated
    }
}

/// Whether authenticated users are not limited to teams: neither by the token nor by the webhook.
pub(crate) fn users_have_all_teams(settings: &Settings) -> bool {
    !settings.auth_issuers.0.is_empty()
        && settings.auth_teams_claim.is_none()
        && settings.auth_webhook_url.is_none()
        && !is_one_team(settings)
}

/// The operator's authorization webhook; `None` if none is set.
fn authorizer(settings: &Settings, clock: &SharedClock) -> anyhow::Result<Option<Arc<dyn Authorizer>>> {
    let timeout = Duration::from_secs(settings.auth_webhook_timeout_seconds.get());
    let bearer = match (&settings.auth_webhook_token_url, settings.webhook_refresh_token()?) {
        (_, Some(token)) if token.expose_secret().is_empty() => {
            bail!("The file that auth.webhook_refresh_token_file names is empty. Put the refresh token in it.")
        }
        (Some(_), Some(_)) if settings.auth_webhook_forward_token => bail!(
            "auth.webhook_forward_token is true and auth.webhook_token_url is set: the webhook can't get \
             both the user's token and the service's. Remove one of the two."
        ),
        (Some(url), Some(_)) if !is_safe(url.as_str()) && !settings.insecure => bail!(
            "auth.webhook_token_url is {}, to which the refresh token would be sent without encryption. Use https, or accept the risk \
             with --insecure.",
            url.as_str()
        ),
        (Some(url), Some(refresh_token)) => {
            let options = tokens::Options { url: url.as_str().parse()?, refresh_token, timeout };
            Bearer::Service(Box::new(Tokens::new(options, Arc::clone(clock))))
        }
        (None, None) if settings.auth_webhook_forward_token => Bearer::User,
        (None, None) => Bearer::None,
        _ => bail!(
            "Of auth.webhook_token_url and auth.webhook_refresh_token_file only one is set. Set both, or remove it: \
             an access token needs both."
        ),
    };
    let Some(url) = &settings.auth_webhook_url else {
        if matches!(bearer, Bearer::Service(_)) {
            bail!(
                "auth.webhook_token_url is set, and auth.webhook_url is not: no webhook would get the token. Set both."
            );
        }
        return Ok(None);
    };
    if !is_safe(url.as_str()) && !settings.insecure {
        bail!(
            "auth.webhook_url is {}, without encryption: an attacker on the network could allow any request and read tokens. \
             Use https, or accept the risk with --insecure.",
            url.as_str()
        );
    }
    Ok(Some(Arc::new(Webhook::new(webhook::Options { url: url.as_str().to_owned(), timeout, bearer }))))
}

/// Rejects a start with authentication on if jobs of several teams could read each other's data.
pub(crate) async fn check_teams(settings: &Settings, db: &Db) -> anyhow::Result<()> {
    if settings.auth_issuers.0.is_empty() || !is_one_team(settings) {
        return Ok(());
    }
    let teams = store::jobs::teams(&mut db.read().await?, 2).await?;
    if let [one, other] = &teams[..] {
        decide_one_team(one, other).map_err(|problem| anyhow!(problem.sentences().join("\n  ")))?;
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

#[cfg(test)]
mod tests {
    use std::fs;

    use clock::SystemClock;
    use model::{
        clock::Clock,
        job::{DataJob, JobConfig},
        name::{JobId, JobName, TeamName},
    };
    use store::PostgresOptions;

    use super::*;
    use crate::config::{Flags, ProcessEnvironment, load};

    const ISSUER: &str = "[auth]\nissuers = [\"https://id.example.com\"]\n";

    fn of(settings: &Settings) -> anyhow::Result<Option<(Authentication, Arc<Jwks>)>> {
        super::of(settings, &(Arc::new(SystemClock) as SharedClock))
    }

    fn settings(toml: &str) -> Settings {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("holdfast.toml"), toml).unwrap();
        let environment = ProcessEnvironment {
            variables: [].into(),
            folder: folder.path().into(),
            home: Some(folder.path().into()),
            cores: 1,
        };
        load(&environment, &Flags::default()).unwrap().settings
    }

    #[test]
    fn without_issuers_it_is_off_and_what_would_be_passed_over_is_refused() {
        assert!(of(&settings("")).unwrap().is_none());
        let (auth, _) = of(&settings(ISSUER)).unwrap().unwrap();
        assert!(auth.authorizer.is_none() && auth.one_team);
        let (auth, _) = of(&settings(&format!("{ISSUER}teams_trust_each_other = true"))).unwrap().unwrap();
        assert!(!auth.one_team);
        let webhook = "webhook_url = \"https://a.example\"\n";
        let url = "webhook_token_url = \"https://id.example.com/token\"\n";
        let insecure_url = "webhook_token_url = \"http://id.example.com/token\"\n";
        let kept = tempfile::NamedTempFile::new().unwrap();
        fs::write(kept.path(), "long-lived\n").unwrap();
        let file = format!("webhook_refresh_token_file = \"{}\"\n", kept.path().display());
        let empty = "webhook_refresh_token_file = \"/dev/null\"\n";
        for (toml, why) in [
            (format!("[auth]\n{webhook}"), "auth.issuers is not"),
            (format!("{ISSUER}jwks_urls = [\"https://a.example\", \"https://b.example\"]"), "has 1 entries"),
            (format!("{ISSUER}jwks_urls = [\"http://id.example.com/keys\"]"), "without encryption"),
            ("[auth]\nissuers = [\"http://id.example.com\"]".into(), "without encryption"),
            (format!("{ISSUER}{webhook}{url}"), "only one is set"),
            (format!("{ISSUER}{webhook}{file}"), "only one is set"),
            (format!("{ISSUER}{webhook}{url}{empty}"), "is empty"),
            (format!("{ISSUER}{url}{file}"), "no webhook would get the token"),
            (format!("{ISSUER}{webhook}{url}{file}webhook_forward_token = true"), "Remove one of the two"),
            (format!("{ISSUER}{webhook}{insecure_url}{file}"), "without encryption"),
            (
                format!("{ISSUER}webhook_url = \"http://10.1.2.3/authorize\""),
                "auth.webhook_url is http://10.1.2.3/authorize",
            ),
            (
                format!("{ISSUER}webhook_url = \"http://10.1.2.3/authorize\"\nwebhook_forward_token = true"),
                "without encryption",
            ),
        ] {
            let error = of(&settings(&toml)).expect_err(&toml).to_string();
            assert!(error.contains(why), "{toml}: {error}");
        }
        for toml in [
            format!("insecure = true\n{ISSUER}jwks_urls = [\"http://id.example.com/keys\"]"),
            "[auth]\nissuers = [\"http://localhost:8080\"]".into(),
            format!("{ISSUER}{webhook}"),
            format!("{ISSUER}{webhook}{url}{file}"),
            format!("{ISSUER}webhook_url = \"http://127.0.0.1:8181/authorize\""),
            format!("insecure = true\n{ISSUER}webhook_url = \"http://10.1.2.3/authorize\""),
        ] {
            assert!(of(&settings(&toml)).unwrap().is_some(), "{toml}");
        }
    }

    #[test]
    fn each_example_of_the_chart_admits_tokens_for_this_service_with_a_role_alone() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../charts/holdfast/examples");
        let mut examples = 0;
        for example in fs::read_dir(folder).unwrap() {
            let text = fs::read_to_string(example.unwrap().path()).unwrap();
            let mut values: serde_json::Value = serde_saphyr::from_str(&text).unwrap();
            // As the chart sets them.
            values["config"]["listen"] = "0.0.0.0:8092".into();
            values["config"]["runtime"] = "kubernetes".into();
            let settings = settings(&toml::to_string(&values["config"]).unwrap());
            assert_eq!(callers(&settings), Callers::Authenticated);
            crate::config::check_exposure(settings.listen, settings.runtime, callers(&settings), settings.insecure)
                .unwrap();
            let (auth, _) = of(&settings).unwrap().unwrap();
            assert_eq!(
                (auth.audiences, auth.claims.authorized_roles),
                (vec!["holdfast".to_owned()], vec!["data-jobs".to_owned()])
            );
            examples += 1;
        }
        assert!(examples >= 3, "{examples}");
    }

    #[test]
    fn an_asterisk_among_the_audiences_lets_tokens_for_any_service_count() {
        let audiences = |toml: &str| of(&settings(&format!("{ISSUER}{toml}"))).unwrap().unwrap().0.audiences;
        assert_eq!(audiences("audiences = [\"holdfast\"]"), ["holdfast"]);
        assert!(audiences("audiences = [\"*\"]").is_empty());
    }

    #[tokio::test]
    async fn jobs_of_several_teams_keep_the_service_from_starting_unless_they_trust_each_other() {
        let folder = tempfile::tempdir().unwrap();
        let url = format!("sqlite:{}", folder.path().join("test.db").display());
        let db = Db::open(&url, &PostgresOptions::default(), Arc::new(SystemClock)).await.unwrap();
        for team in ["one", "two"] {
            let mut tx = db.write().await.unwrap();
            let job = DataJob {
                id: JobId(SystemClock.new_id()),
                name: JobName::parse(&format!("job-of-{team}")).unwrap(),
                team: TeamName::parse(team).unwrap(),
                description: String::new(),
                config: JobConfig::default(),
            };
            store::jobs::insert(&mut tx, &job, None, "test", SystemClock.now()).await.unwrap();
            tx.commit().await.unwrap();
            let started = check_teams(&settings(ISSUER), &db).await;
            assert_eq!(started.is_ok(), team == "one", "{started:?}");
        }
        check_teams(&settings(""), &db).await.unwrap();
        check_teams(&settings(&format!("{ISSUER}teams_trust_each_other = true")), &db).await.unwrap();
    }
}
