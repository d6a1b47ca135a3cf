//! `holdfast config from-upstream`: the values of upstream's Helm chart as values of Holdfast's.

mod convert;
mod table;

use std::{
    collections::BTreeSet,
    fmt::Write as _,
    fs::File,
    io::{Read, Write},
    path::PathBuf,
};

use anyhow::{Context, bail};
use clap::{Arg, ArgAction, ArgMatches, Command};
use serde_json::{Map, Value as Json, json};

use self::table::{Counterpart, Entry, MAPPING};
use super::written;

/// The largest values file.
const FILE_BYTES_MAX: u64 = 4 * 1024 * 1024;

/// The arguments.
#[derive(Debug)]
pub(crate) enum Asked {
    /// The values of a file, or of standard input for `-`.
    Values(PathBuf),
    /// The page `docs/operations/from-upstream.md`.
    Markdown,
}

impl Asked {
    pub(in crate::commands) fn of(matches: &ArgMatches) -> Self {
        match matches.get_one::<PathBuf>("file") {
            Some(file) => Self::Values(file.clone()),
            None => Self::Markdown,
        }
    }
}

pub(in crate::commands) fn command() -> Command {
    Command::new("from-upstream")
        .about("Translate values of upstream's Helm chart into values of Holdfast's chart.")
        .long_about(
            "Translate values of upstream's Helm chart into values of Holdfast's chart. The values are printed on standard \
             output, and one line per key without a counterpart on standard error. Values of secrets are not printed.",
        )
        .arg(
            Arg::new("file")
                .value_name("VALUES")
                .value_parser(clap::value_parser!(PathBuf))
                .required_unless_present("markdown")
                .help("The values file of upstream's chart; - reads standard input"),
        )
        .arg(
            Arg::new("markdown")
                .long("markdown")
                .action(ArgAction::SetTrue)
                .conflicts_with("file")
                .help("Print the page that maps every value"),
        )
        .after_help("Example:\n  helm get values control-service -o yaml | holdfast config from-upstream - > values.yaml")
}

/// Prints the translation of the values, and what an operator has to do.
pub(crate) fn run(
    asked: &Asked,
    input: &mut dyn Read,
    out: &mut dyn Write,
    notes: &mut dyn Write,
) -> anyhow::Result<()> {
    let file = match asked {
        Asked::Markdown => return written(&markdown(), out),
        Asked::Values(file) => file,
    };
    let mut text = String::new();
    let mut from_file;
    let source: &mut dyn Read = if file.as_os_str() == "-" {
        input
    } else {
        from_file = File::open(file).with_context(|| format!("{} can't be read", file.display()))?;
        &mut from_file
    };
    source
        .take(FILE_BYTES_MAX + 1)
        .read_to_string(&mut text)
        .with_context(|| format!("{} can't be read", file.display()))?;
    if text.len() as u64 > FILE_BYTES_MAX {
        bail!("{} has more than {FILE_BYTES_MAX} bytes", file.display());
    }
    let translated = translate(&text).with_context(|| format!("{} can't be translated", file.display()))?;
    for note in &translated.notes {
        // A closed standard error can't be reported.
        let _ = writeln!(notes, "{note}");
    }
    written(&format!("{HEAD}{}", serde_saphyr::to_string(&translated.values)?), out)
}

const HEAD: &str = "# Made of values of upstream's chart by `holdfast config from-upstream`. Add image.repository, \
                    database.existingSecret and\n# encryptionKey.existingSecret.\n";

/// Values of Holdfast's chart, and a line for each key that they do not cover.
#[derive(Debug, Default)]
struct Translated {
    values: Json,
    notes: Vec<String>,
}

fn translate(text: &str) -> anyhow::Result<Translated> {
    // `y` and `off` may be names, and upstream's file has comments of hundreds of lines.
    let options = serde_saphyr::options! { strict_booleans: true, emit_comments: false };
    let values: Json = serde_saphyr::from_str_with_options(text, options)?;
    let mut translated = Translated { values: json!({}), notes: Vec::new() };
    if values.is_null() {
        return Ok(translated);
    }
    let values = values.as_object().context("the file is not a map of values")?;
    let mut said = BTreeSet::new();
    walk(values, "", &mut translated, &mut said)?;
    Ok(translated)
}

/// Translates a part of the values. `said` has the entries that a note was written for: one per group of keys.
fn walk(
    values: &Map<String, Json>,
    above: &str,
    translated: &mut Translated,
    said: &mut BTreeSet<&'static str>,
) -> anyhow::Result<()> {
    // Upstream ignores the other keys of a part that is not enabled.
    let is_off = values.get("enabled") == Some(&Json::Bool(false));
    for (key, value) in values {
        if is_off && key != "enabled" {
            continue;
        }
        let path = if above.is_empty() { key.clone() } else { format!("{above}.{key}") };
        let found = table::find(&path);
        match (found, value) {
            (Some(entry), value) => apply(entry, &path, value, translated, said)?,
            (None, Json::Object(below)) if table::has_below(&path) => walk(below, &path, translated, said)?,
            (None, _) => translated.notes.push(format!("warning: {path}: not a value of upstream's chart; ignored")),
        }
    }
    Ok(())
}

fn is_blank(value: &Json) -> bool {
    match value {
        Json::Null | Json::Bool(false) => true,
        Json::String(text) => text.is_empty(),
        Json::Array(list) => list.is_empty(),
        Json::Object(map) => map.is_empty() || map.get("enabled") == Some(&Json::Bool(false)),
        Json::Bool(true) | Json::Number(_) => false,
    }
}

fn apply(
    entry: &'static Entry,
    path: &str,
    value: &Json,
    translated: &mut Translated,
    said: &mut BTreeSet<&'static str>,
) -> anyhow::Result<()> {
    // A blank value sets nothing there, except for switches.
    if is_blank(value) && !(value.is_boolean() && matches!(entry.counterpart, Counterpart::Value(..))) {
        return Ok(());
    }
    match entry.counterpart {
        Counterpart::Value(target, convert) => {
            for (at, converted) in convert(value).with_context(|| format!("the value {path}"))? {
                let target = if at.is_empty() { target.to_owned() } else { format!("{target}.{at}") };
                set(&mut translated.values, &target, converted);
            }
        }
        Counterpart::ByHand(what) => {
            if said.insert(entry.key) {
                translated.notes.push(format!("to do: {}: {what}", entry.key));
            }
        }
        Counterpart::None(why) => {
            if said.insert(entry.key) {
                translated.notes.push(format!("warning: {}: no counterpart: {why}", entry.key));
            }
        }
        Counterpart::NotNeeded(_) => {}
    }
    Ok(())
}

/// Sets a value at a path of keys.
fn set(values: &mut Json, path: &str, value: Json) {
    let mut at = values;
    for key in path.split('.') {
        if !at.is_object() {
            *at = json!({});
        }
        at = &mut at[key];
    }
    *at = value;
}

const INTRODUCTION: &str = "\
# From upstream's Helm chart

<!-- Made by `cargo run -p holdfast -- config from-upstream --markdown`; a test compares. -->

`holdfast config from-upstream` translates the values of an installation of upstream's chart (`pipelines-control-service`) into values of
[Holdfast's chart](../../charts/holdfast/README.md):

```console
$ helm get values control-service -o yaml | holdfast config from-upstream - > values.yaml
to do: database.*: create a Secret with the URL of a PostgreSQL database, and name it in `database.existingSecret`
warning: mail.*: no counterpart: Holdfast sends no mails; route the alerts of the metrics
```

- `to do` names an object that you create: Holdfast's chart takes secrets by the names of existing Secrets, and values of secrets are never
  printed.
- `warning` names a value without a counterpart.
- Upstream ignores the other keys of a part with `enabled: false`, and so does the translation.

The database is not taken over by this command: see [moving](../compatibility.md#moving-from-vdks-control-service).

The table has every value of upstream's chart (last version, commit `4389e387`), in its order. A star stands for all keys below or beside it.

";

/// The page that maps every value.
fn markdown() -> String {
    let mut page = INTRODUCTION.to_owned();
    page.push_str("| upstream | Holdfast | how |\n| --- | --- | --- |\n");
    for entry in MAPPING {
        let (ours, how) = match entry.counterpart {
            Counterpart::Value(target, _) if target == entry.key => (format!("`{target}`"), "same".to_owned()),
            Counterpart::Value(target, _) => (format!("`{target}`"), entry.remark.unwrap_or("other name").to_owned()),
            Counterpart::ByHand(what) => ("by hand".to_owned(), what.to_owned()),
            Counterpart::NotNeeded(why) => ("not needed".to_owned(), why.to_owned()),
            Counterpart::None(why) => ("none".to_owned(), why.to_owned()),
        };
        let _ = writeln!(page, "| `{}` | {ours} | {} |", entry.key, how.replace('|', "\\|"));
    }
    page
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every key of upstream's values file, also those in comments.
    const KEYS: &str = include_str!("keys.txt");

    fn translated(text: &str) -> Translated {
        translate(text).unwrap_or_else(|error| panic!("{error:#}"))
    }

    #[test]
    fn each_key_of_upstreams_values_is_mapped_and_each_entry_maps_one() {
        let keys: Vec<&str> = KEYS.lines().filter(|line| !line.starts_with('#')).collect();
        assert!(keys.len() > 240, "{}", keys.len());
        let unmapped: Vec<_> = keys.iter().filter(|key| table::find_or_above(key).is_none()).collect();
        assert!(unmapped.is_empty(), "{unmapped:?}");
        let used: BTreeSet<_> =
            keys.iter().filter_map(|key| table::find_or_above(key)).map(|entry| entry.key).collect();
        let unused: Vec<_> = MAPPING.iter().map(|entry| entry.key).filter(|key| !used.contains(key)).collect();
        assert!(unused.is_empty(), "{unused:?}");
    }

    #[test]
    fn each_target_is_a_value_of_the_chart_or_a_setting() {
        let root = concat!(env!("CARGO_MANIFEST_DIR"), "/../../charts/holdfast/values.schema.json");
        let schema: Json = serde_json::from_str(&std::fs::read_to_string(root).unwrap()).unwrap();
        for entry in MAPPING {
            if let Counterpart::Value(target, _) = entry.counterpart {
                let pointer = format!("/properties/{}", target.replace('.', "/properties/"));
                assert!(schema.pointer(&pointer).is_some(), "{}: the chart has no value {target}", entry.key);
            }
        }
    }

    #[test]
    fn the_page_from_upstream_md_is_what_the_program_says() {
        let page =
            std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/operations/from-upstream.md"));
        assert!(
            page.unwrap_or_default() == markdown(),
            "docs/operations/from-upstream.md is not what the program says. Renew it:\n\n    \
             cargo run -p holdfast -- config from-upstream --markdown > docs/operations/from-upstream.md\n"
        );
    }

    #[test]
    fn values_are_converted_and_the_others_are_named_without_their_secrets() {
        let translated = translated(
            r#"
image: {registry: "r", repository: pipelines-control-service, tag: stable, pullPolicy: Always}
deploymentK8sNamespace: jobs-of-all
replicas: 3
deploymentDockerRepository: push.example.com/dp
proxyRepositoryURL: pull.example.com/dp
deploymentDockerRegistryUsername: robot
deploymentDockerRegistryPassword: hunter2
deploymentSupportedPythonVersions:
  3.9: {baseImage: "base:3.9", vdkImage: "vdk:release"}
  "3.10": {baseImage: "base:3.10", vdkImage: "vdk:release", builderImage: "builder:1"}
deploymentDefaultPythonVersion: "3.9"
deploymentDefaultDataJobsResources:
  limits: {cpu: 500m, memory: 1G}
  requests: {cpu: 1, memory: 100Mi}
security:
  enabled: true
  oauth2: {jwtJwkSetUri: "https://id/keys", jwtIssuerUris: "https://id/a, https://id/b"}
  authorization:
    jwtClaimUsername: acct
    authorizedRoles: "admin,ops"
    webhookAuthorizationRefreshToken: hunter3
credentials: {repository: EMPTY, principalPattern: "pa__view_%(data_job)"}
dataJob:
  executions:
    cleanupTask: {maximumExecutionsToStore: "50", executionsTtlSeconds: "1209601"}
    logsUrl: {urlTemplate: "https://logs/?q={{execution_id}}", dateFormat: iso, startTimeOffsetSeconds: -60}
datajobTemplate: {enabled: false, template: {kind: CronJob}}
ingress:
  enabled: true
  hosts: [{name: jobs.example.com, paths: [{path: /data-jobs}]}]
  tls: true
  tlsSecretName: cert
mail: {smtp: {host: mail.example.com, password: hunter4}}
nonsense: 1
loggingFormat: JSON
"#,
        );
        assert_eq!(
            translated.values,
            json!({
                "image": {"pullPolicy": "Always"},
                "jobs": {"namespace": "jobs-of-all"},
                "replicas": 3,
                "ingress": {"enabled": true, "host": "jobs.example.com", "tlsSecret": "cert"},
                "config": {
                    "registry_url": "pull.example.com/dp",
                    "log_format": "json",
                    "image": {
                        "registry_push_url": "push.example.com/dp",
                        "base_images": {
                            "3.9": {"baseImage": "base:3.9", "vdkImage": "vdk:release"},
                            "3.10": {"baseImage": "base:3.10", "vdkImage": "vdk:release"},
                        },
                    },
                    "python": {"version": "3.9"},
                    "kubernetes": {
                        "cpu_limit_millicores": 500,
                        "cpu_request_millicores": 1000,
                        "memory_limit_mi": 954,
                        "memory_request_mi": 100,
                    },
                    "auth": {
                        "issuers": ["https://id/a", "https://id/b"],
                        "jwks_urls": ["https://id/keys"],
                        "user_claim": "acct",
                        "authorized_roles": ["admin", "ops"],
                    },
                    "vdk": {"principal_pattern": "pa__view_{job}"},
                    "executions": {"keep_per_job": 50, "keep_days": 15},
                    "logs_url_template": "https://logs/?q={execution_id}",
                    "logs_url_date_format": "iso",
                    "logs_url_start_offset_seconds": -60,
                },
            })
        );
        let notes = translated.notes.join("\n");
        for expected in [
            "to do: deploymentDockerRegistry*: ",
            "to do: security.authorization.webhookAuthorizationRefreshToken: ",
            "warning: mail.*: no counterpart: ",
            "warning: nonsense: not a value of upstream's chart; ignored",
        ] {
            assert!(notes.lines().any(|line| line.starts_with(expected)), "{expected}\n{notes}");
        }
        let all = format!("{notes}{}", serde_saphyr::to_string(&translated.values).unwrap());
        assert!(!all.contains("hunter"), "{all}");
        assert!(!notes.contains("image.tag") && !notes.contains("datajobTemplate"), "{notes}");
    }

    #[test]
    fn a_value_that_can_not_be_read_is_named() {
        for (text, name) in [
            (
                "deploymentDefaultDataJobsResources: {limits: {cpu: lots}}",
                "deploymentDefaultDataJobsResources.limits.cpu",
            ),
            ("dataJob: {executions: {cleanupTask: {executionsTtlSeconds: soon}}}", "executionsTtlSeconds"),
            ("- a list", "not a map"),
            ("a: [", "line 1"),
        ] {
            let error = format!("{:#}", translate(text).unwrap_err());
            assert!(error.contains(name), "{text}: {error}");
        }
        assert_eq!(translated("# nothing\n").values, json!({}));
        let long =
            format!("a: &port 1\nwebHooks:\n{}  postCreate: {{webhookUri: x}}\nb: *port\n", "   # so\n".repeat(500));
        assert_eq!(translated(&long).notes.len(), 3);
    }

    #[test]
    fn the_command_reads_a_file_and_separates_values_from_notes() {
        let (mut out, mut notes) = (Vec::new(), Vec::new());
        let mut input = "replicas: 4\ncockroachdb: {enabled: true}\n".as_bytes();
        run(&Asked::Values("-".into()), &mut input, &mut out, &mut notes).unwrap();
        assert!(String::from_utf8(out).unwrap().ends_with("\nreplicas: 4\n"));
        assert!(String::from_utf8(notes).unwrap().starts_with("warning: cockroachdb.*: no counterpart: "));
        let missing = Asked::Values("/no/such/values.yaml".into());
        let error = run(&missing, &mut std::io::empty(), &mut Vec::new(), &mut Vec::new()).unwrap_err();
        assert!(error.to_string().contains("/no/such/values.yaml"), "{error}");
    }
}
