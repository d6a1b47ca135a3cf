//! The registry client against a registry that does what a test tells it: each fault that a real one can't show.

mod support;

use std::{
    collections::BTreeSet,
    path::PathBuf,
    sync::{Arc, Mutex},
    time::Duration,
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use clock::SystemClock;
use image::{
    oci::{Digest, Reference},
    registry::{Blob, BlobContent, CredentialsFile, Fault, Pushed, Registries, RegistryOptions},
};
use model::{clock::Clock as _, problem};
use serde_json::json;
use testing::TlsFront;

use support::{Act, Registry, Request};

fn bytes(content: &[u8]) -> Blob {
    Blob { digest: Digest::of(content), bytes: content.len() as u64, content: BlobContent::Bytes(content.to_vec()) }
}

/// A blob that is sent in a request of its own, from a file.
fn large(folder: &tempfile::TempDir) -> Blob {
    let content: Vec<u8> = (0..10_000_000u32).map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()[3]).collect();
    let path = folder.path().join("blob");
    std::fs::write(&path, &content).unwrap();
    Blob { content: BlobContent::File(path), ..bytes(&content) }
}

fn silent(_: u64) {}

#[tokio::test]
async fn a_blob_is_sent_once_and_mounted_into_other_repositories() {
    let registry = Registry::good();
    let folder = tempfile::tempdir().unwrap();
    for blob in [large(&folder), bytes(b"small"), bytes(b"")] {
        let sent = Mutex::new(0);
        let progress = |bytes| *sent.lock().unwrap() += bytes;
        let (one, two) = (registry.repository("jobs/one"), registry.repository("jobs/two"));
        assert_eq!(one.push(&blob, &[], &progress).await.unwrap(), Pushed::Sent);
        assert_eq!(*sent.lock().unwrap(), blob.bytes);
        assert_eq!(one.push(&blob, &[], &silent).await.unwrap(), Pushed::Present);
        let from = ["jobs/none".to_owned(), "jobs/one".to_owned()];
        let mounted = two.push(&blob, &from[1..], &silent).await.unwrap();
        assert_eq!(mounted, Pushed::Mounted);
        // A registry that can't mount opens an upload in its place, which is used.
        let three = registry.repository("jobs/three");
        let opened = registry.stored.lock().unwrap().opened;
        assert_eq!(three.push(&blob, &from[..1], &silent).await.unwrap(), Pushed::Sent);
        assert_eq!(registry.stored.lock().unwrap().opened, opened + 1);
        assert_eq!(one.blob(&blob.digest, u64::MAX).await.unwrap().unwrap().len() as u64, blob.bytes);
    }
}

#[tokio::test]
async fn a_manifest_comes_back_under_its_tag_and_its_digest() {
    let registry = Registry::good();
    let repository = registry.repository("a");
    let content = br#"{"mediaType":"application/vnd.oci.image.manifest.v1+json"}"#;
    repository.push_manifest("1", "application/vnd.oci.image.manifest.v1+json", content).await.unwrap();
    let fetched = repository.manifest("1").await.unwrap().unwrap();
    assert_eq!((fetched.digest.clone(), fetched.content), (Digest::of(content), content.to_vec()));
    assert!(repository.has_manifest(&fetched.digest).await.unwrap());
    assert!(!repository.has_manifest(&Digest::of(b"")).await.unwrap());
    assert_eq!(repository.manifest("2").await.unwrap(), None);
}

#[tokio::test]
async fn an_upload_that_breaks_off_in_the_middle_of_a_blob_is_begun_again_and_no_other_blob_is_resent() {
    let mut left = 2;
    let registry = Registry::with(move |request| {
        if request.method == "PATCH" && left > 0 {
            left -= 1;
            return Act::BreakAfter(3_000_000);
        }
        Act::Pass
    });
    let folder = tempfile::tempdir().unwrap();
    let repository = registry.repository("a");
    let (small, blob) = (bytes(b"small"), large(&folder));
    for each in [&small, &blob] {
        assert_eq!(repository.push(each, &[], &silent).await.unwrap(), Pushed::Sent);
    }
    assert!(registry.has("a", &blob));
    assert_eq!(registry.asked("PATCH", "uploads"), 3);
    assert_eq!(registry.stored.lock().unwrap().abandoned, 2);
    assert_eq!(repository.push(&small, &[], &silent).await.unwrap(), Pushed::Present);
}

#[tokio::test]
async fn a_registry_that_asks_for_a_pause_gets_it_and_one_that_asks_for_too_long_a_pause_is_not_waited_for() {
    let answer = |after: &str| Act::Answer(429, vec![("Retry-After", after.to_owned())], String::new());
    let mut left = 1;
    let registry = Registry::with(move |request| {
        if request.method == "POST" && left > 0 {
            left -= 1;
            return answer("1");
        }
        Act::Pass
    });
    let begun = SystemClock.boot();
    registry.repository("a").push(&bytes(b"x"), &[], &silent).await.unwrap();
    let passed = SystemClock.boot().saturating_sub(begun);
    assert!(passed >= Duration::from_secs(1), "{passed:?}");

    let registry = Registry::with(move |_| answer("3600"));
    let error = registry.repository("a").push(&bytes(b"x"), &[], &silent).await.unwrap_err();
    assert_eq!(registry.asked("HEAD", ""), 1);
    let problem = error.problem("The image was not pushed.");
    assert_eq!(problem.fault, problem::Fault::Platform);
    assert!(problem.why.contains("429"), "{problem}");
}

#[tokio::test]
async fn each_fault_is_a_platform_error_that_names_the_registry_and_what_to_do() {
    let denied = r#"{"errors":[{"code":"DENIED","message":"requested access to the resource is denied"}]}"#;
    let answer = |status: u16, body: &str| {
        let body = body.to_owned();
        move |request: &Request| match request.method.as_str() {
            "POST" => Act::Answer(status, vec![], body.clone()),
            _ => Act::Pass,
        }
    };
    for (registry, attempts, why, fix) in [
        (Registry::with(answer(403, denied)), 1, "requested access to the resource is denied", "credentials"),
        (Registry::with(answer(401, "")), 1, "asks for something else", "credentials"),
        (Registry::with(answer(507, "no space left")), 3, "no space left", "makes room"),
        (Registry::with(answer(413, "quota")), 1, "quota", "quota"),
        (Registry::with(answer(502, "<html>Bad gateway")), 3, "Bad gateway", "Holdfast retries"),
        (Registry::with(answer(202, "")), 3, "without saying where", "name registries"),
        (Registry::with(answer(404, "page not found")), 1, "page not found", "name registries"),
        (Registry::with(answer(302, "")), 1, "302", "name registries"),
    ] {
        let error = registry.repository("team/job").push(&bytes(b"x"), &[], &silent).await.unwrap_err();
        let problem = error.problem("The image was not pushed.");
        assert_eq!(problem.fault, problem::Fault::Platform);
        assert!(problem.why.contains(why) && problem.why.contains(&registry.address), "{problem}");
        assert!(problem.countermeasures.contains(fix), "{problem:#}");
        assert_eq!(registry.asked("POST", "uploads"), attempts, "{why}");
    }
    let gone = { Registry::good().options() };
    let reference = Reference::parse("127.0.0.1:1/a").unwrap();
    let options = RegistryOptions { plain_http: vec!["127.0.0.1:1".into()], ..gone };
    let nobody = Arc::new(Registries::new(options).unwrap()).repository(&reference);
    let error = nobody.manifest("1").await.unwrap_err();
    assert!(matches!(error.fault, Fault::Unreachable(_)), "{error}");
}

#[tokio::test]
async fn a_registry_that_takes_nothing_is_left_after_a_while() {
    let registry = Registry::with(|request| if request.method == "PATCH" { Act::Silence } else { Act::Pass });
    let folder = tempfile::tempdir().unwrap();
    let options = RegistryOptions { silence_max: Duration::from_millis(600), attempts_max: 1, ..registry.options() };
    let error = registry.repository_with("a", options).push(&large(&folder), &[], &silent).await.unwrap_err();
    assert!(matches!(error.fault, Fault::Unreachable(_)), "{error}");
}

#[tokio::test]
async fn garbage_is_not_taken_for_a_manifest_or_a_blob() {
    let registry = Registry::with(|request| match request.method.as_str() {
        "GET" => Act::Answer(200, vec![], "<html>Welcome".into()),
        "PUT" => Act::Answer(201, vec![("Docker-Content-Digest", Digest::of(b"other").to_string())], String::new()),
        _ => Act::Pass,
    });
    let repository = registry.repository("a");
    let digest = Digest::of(b"content");
    let folder = tempfile::tempdir().unwrap();
    for error in [
        repository.manifest("latest").await.unwrap_err(),
        repository.manifest(digest.as_str()).await.unwrap_err(),
        repository.blob(&digest, 1000).await.unwrap_err(),
        repository.blob(&digest, 3).await.unwrap_err(),
        repository.download(&digest, 1000, &folder.path().join("x")).await.map(drop).unwrap_err(),
        repository.download(&digest, 3, &folder.path().join("x")).await.map(drop).unwrap_err(),
        repository.push(&bytes(b"x"), &[], &silent).await.map(drop).unwrap_err(),
        repository.push_manifest("1", "x", b"{}").await.unwrap_err(),
    ] {
        assert!(matches!(error.fault, Fault::Answer(_)), "{error}");
    }
}

/// A Docker configuration file with one password.
fn credentials(folder: &tempfile::TempDir, registry: &Registry, user: &str, password: &str) -> CredentialsFile {
    let path: PathBuf = folder.path().join("config.json");
    let auth = STANDARD.encode(format!("{user}:{password}"));
    let auths = json!({ "auths": { registry.address.clone(): { "auth": auth } } });
    std::fs::write(&path, auths.to_string()).unwrap();
    CredentialsFile(path)
}

#[tokio::test]
async fn a_password_is_shown_to_a_registry_that_asks_for_it_and_read_anew_when_it_changes() {
    let expected = format!("Basic {}", STANDARD.encode("robot:right"));
    let registry = Registry::with(move |request| {
        if request.authorization() == expected {
            return Act::Pass;
        }
        Act::Answer(401, vec![("WWW-Authenticate", "Basic realm=\"registry\"".into())], String::new())
    });
    let folder = tempfile::tempdir().unwrap();
    let file = credentials(&folder, &registry, "robot", "wrong");
    let options = RegistryOptions { credentials: Some(file), ..registry.options() };
    let repository = registry.repository_with("a", options);
    let error = repository.push(&bytes(b"x"), &[], &silent).await.unwrap_err();
    assert!(matches!(error.fault, Fault::Refused { .. }), "{error}");
    assert!(!format!("{error:?} {}", error.problem("x")).contains("wrong"));
    credentials(&folder, &registry, "robot", "right");
    assert_eq!(repository.push(&bytes(b"x"), &[], &silent).await.unwrap(), Pushed::Sent);
    let anonymous = registry.repository("a").push(&bytes(b"x"), &[], &silent).await.unwrap_err();
    assert!(anonymous.to_string().contains("none is configured"), "{anonymous}");
}

#[tokio::test]
async fn tokens_come_from_the_service_that_the_registry_names_and_each_allows_what_is_needed() {
    let scopes = Arc::new(Mutex::new(BTreeSet::new()));
    let seen = scopes.clone();
    let password = format!("Basic {}", STANDARD.encode("robot:secret"));
    let address = Arc::new(Mutex::new(String::new()));
    let own = address.clone();
    let registry = Registry::with(move |request| {
        if request.path == "/token" {
            assert_eq!(request.authorization(), password);
            let pairs: Vec<(String, String)> =
                url::form_urlencoded::parse(request.query.as_bytes()).into_owned().collect();
            assert!(pairs.contains(&("service".into(), "the registry".into())));
            let scope: Vec<_> = pairs.iter().filter(|(name, _)| name == "scope").map(|(_, s)| s.clone()).collect();
            seen.lock().unwrap().insert(scope.join(" "));
            let token = STANDARD.encode(scope.join(" "));
            return Act::Answer(200, vec![], json!({ "token": token, "expires_in": 300 }).to_string());
        }
        let (name, action) = match request.method.as_str() {
            "GET" | "HEAD" => (request.path.split('/').nth(2).unwrap(), ":pull"),
            _ => (request.path.split('/').nth(2).unwrap(), ":pull,push"),
        };
        let token = request.authorization().strip_prefix("Bearer ").unwrap_or_default().to_owned();
        let allowed = String::from_utf8(STANDARD.decode(token).unwrap()).unwrap();
        if allowed.contains(&format!("repository:{name}{action}")) {
            return Act::Pass;
        }
        let realm = format!("http://{}/token", own.lock().unwrap());
        let challenge = format!("Bearer realm=\"{realm}\",service=\"the registry\"");
        Act::Answer(401, vec![("WWW-Authenticate", challenge)], String::new())
    });
    *address.lock().unwrap() = registry.address.clone();
    let folder = tempfile::tempdir().unwrap();
    let file = credentials(&folder, &registry, "robot", "secret");
    let options = RegistryOptions { credentials: Some(file), ..registry.options() };
    let blob = large(&folder);
    let one = registry.repository_with("one", options);
    assert_eq!(one.push(&blob, &[], &silent).await.unwrap(), Pushed::Sent);
    assert_eq!(one.sibling("two").push(&blob, &["one".into()], &silent).await.unwrap(), Pushed::Mounted);
    assert_eq!(one.sibling("three").push(&blob, &["none".into()], &silent).await.unwrap(), Pushed::Sent);
    let expected = [
        "repository:one:pull",
        "repository:one:pull,push",
        "repository:two:pull",
        "repository:two:pull,push repository:one:pull",
        "repository:three:pull",
        "repository:three:pull,push repository:none:pull",
    ];
    assert_eq!(*scopes.lock().unwrap(), expected.map(str::to_owned).into());
    // Each token was asked for once.
    assert_eq!(registry.asked("GET", "/token"), expected.len());
}

#[tokio::test]
async fn a_registry_with_a_private_authority_is_trusted_by_its_certificate_alone() {
    let registry = Registry::good();
    let front = TlsFront::start(&registry.address);
    let reference = Reference::parse(&format!("{}/jobs/one", front.address())).unwrap();
    let with = |ca_certificates: Option<Vec<u8>>| {
        let options = RegistryOptions { plain_http: Vec::new(), ca_certificates, ..registry.options() };
        Registries::new(options).map(|registries| Arc::new(registries).repository(&reference))
    };
    let content = br#"{"mediaType":"application/vnd.oci.image.manifest.v1+json"}"#;
    let media_type = "application/vnd.oci.image.manifest.v1+json";
    let trusted = with(Some(front.certificate().into())).unwrap();
    trusted.push_manifest("1", media_type, content).await.unwrap();
    assert_eq!(trusted.manifest("1").await.unwrap().unwrap().digest, Digest::of(content));

    let other = TlsFront::start(&registry.address);
    let asked = registry.asked("GET", "/manifests/");
    for unknown in [None, Some(other.certificate().into())] {
        let refused = with(unknown).unwrap().manifest("1").await.unwrap_err().problem("It failed.");
        assert_eq!(refused.code, problem::Code::RegistryUnreachable);
        assert!(refused.why.to_lowercase().contains("certificate"), "{refused:?}");
    }
    assert_eq!(registry.asked("GET", "/manifests/"), asked, "nothing was sent to a registry that is not trusted");
    assert!(with(Some(b"no certificate".to_vec())).is_err());
}
