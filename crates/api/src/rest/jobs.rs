//! Data jobs as JSON: create, read, change, delete.

use std::sync::Arc;

use app::jobs::JobDefinition;
use axum::{
    Json,
    extract::State,
    http::{StatusCode, header::LOCATION},
    response::IntoResponse,
};
use model::{
    Problem,
    job::{Contacts, DataJob, JobConfig},
    name::shown,
};
use serde::{Deserialize, Serialize};

use super::{JobPath, PartPath};
use crate::{
    Api,
    caller::By,
    error::Answer,
    input::{JsonBody, Path, Query},
    links,
};

/// A data job on the wire. A member that is null is one that is absent.
#[derive(Serialize, Deserialize)]
#[serde(expecting = "a JSON object")]
pub(crate) struct DataJobBody {
    job_name: Option<String>,
    description: Option<String>,
    config: Option<ConfigBody>,
    team: Option<String>,
}

#[derive(Default, Serialize, Deserialize)]
#[serde(expecting = "a JSON object")]
struct ConfigBody {
    #[serde(skip_serializing_if = "Option::is_none")]
    db_default_type: Option<String>,
    contacts: Option<ContactsBody>,
    schedule: Option<ScheduleBody>,
    generate_keytab: Option<bool>,
    enable_execution_notifications: Option<bool>,
    notification_delay_period_minutes: Option<i32>,
}

/// Who hears of what.
#[derive(Default, Serialize, Deserialize)]
#[serde(expecting = "a JSON object")]
#[expect(clippy::struct_field_names, reason = "the names on the wire")]
pub(crate) struct ContactsBody {
    notified_on_job_failure_user_error: Option<Vec<String>>,
    notified_on_job_failure_platform_error: Option<Vec<String>>,
    notified_on_job_success: Option<Vec<String>>,
    notified_on_job_deploy: Option<Vec<String>>,
}

/// When a job runs. The object is always there in answers: clients look into it without asking.
#[derive(Default, Serialize, Deserialize)]
#[serde(expecting = "a JSON object")]
pub(crate) struct ScheduleBody {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) schedule_cron: Option<String>,
}

impl From<&Contacts> for ContactsBody {
    fn from(contacts: &Contacts) -> Self {
        Self {
            notified_on_job_failure_user_error: Some(contacts.notified_on_job_failure_user_error.clone()),
            notified_on_job_failure_platform_error: Some(contacts.notified_on_job_failure_platform_error.clone()),
            notified_on_job_success: Some(contacts.notified_on_job_success.clone()),
            notified_on_job_deploy: Some(contacts.notified_on_job_deploy.clone()),
        }
    }
}

impl From<ContactsBody> for Contacts {
    fn from(body: ContactsBody) -> Self {
        Self {
            notified_on_job_failure_user_error: body.notified_on_job_failure_user_error.unwrap_or_default(),
            notified_on_job_failure_platform_error: body.notified_on_job_failure_platform_error.unwrap_or_default(),
            notified_on_job_success: body.notified_on_job_success.unwrap_or_default(),
            notified_on_job_deploy: body.notified_on_job_deploy.unwrap_or_default(),
        }
    }
}

impl From<DataJob> for DataJobBody {
    fn from(job: DataJob) -> Self {
        let config = job.config;
        Self {
            job_name: Some(job.name.to_string()),
            description: Some(job.description),
            team: Some(job.team.to_string()),
            config: Some(ConfigBody {
                db_default_type: config.db_default_type,
                contacts: Some(ContactsBody::from(&config.contacts)),
                schedule: Some(ScheduleBody { schedule_cron: config.schedule_cron }),
                generate_keytab: Some(config.generate_keytab),
                enable_execution_notifications: Some(config.enable_execution_notifications),
                notification_delay_period_minutes: Some(config.notification_delay_period_minutes),
            }),
        }
    }
}

impl From<ConfigBody> for JobConfig {
    fn from(body: ConfigBody) -> Self {
        let default = Self::default();
        Self {
            db_default_type: body.db_default_type.filter(|db| !db.trim().is_empty()),
            contacts: body.contacts.unwrap_or_default().into(),
            schedule_cron: body.schedule.unwrap_or_default().schedule_cron,
            generate_keytab: body.generate_keytab.unwrap_or(default.generate_keytab),
            enable_execution_notifications: body
                .enable_execution_notifications
                .unwrap_or(default.enable_execution_notifications),
            notification_delay_period_minutes: body
                .notification_delay_period_minutes
                .unwrap_or(default.notification_delay_period_minutes),
        }
    }
}

impl DataJobBody {
    fn definition(self, name: String, team: String) -> JobDefinition {
        JobDefinition {
            name,
            team,
            description: self.description.unwrap_or_default(),
            config: self.config.unwrap_or_default().into(),
        }
    }
}

/// Creates a job: 201 with its address.
pub(crate) async fn data_job_create(
    State(api): State<Arc<Api>>,
    By(caller): By,
    Path(team): Path<String>,
    query: Query,
    JsonBody(mut body): JsonBody<DataJobBody>,
) -> Answer<impl IntoResponse> {
    let named = query.text("name");
    let Some(name) = body.job_name.take().or_else(|| named.map(str::to_owned)) else {
        return Err(Problem::invalid("The data job was not created.", "job_name: it is missing.").into());
    };
    if named.is_some_and(|named| named != name) {
        let why = format!("job_name: it is {}, and the address says {}.", shown(&name), shown(named.unwrap_or("")));
        return Err(Problem::invalid("The data job was not created.", why).fix("Send the same name in both.").into());
    }
    if let Some(said) = body.team.take().filter(|said| *said != team) {
        let why = format!("team: it is {}, and the address says {}.", shown(&said), shown(&team));
        return Err(Problem::invalid("The data job was not created.", why).fix("Send the same team in both.").into());
    }
    let job = app::jobs::create(&api.db, &*api.clock, &caller, &api.default_zone, body.definition(name, team)).await?;
    Ok((StatusCode::CREATED, [(LOCATION, links::job(job.team.as_str(), job.name.as_str()))]))
}

/// A job with its configuration.
pub(crate) async fn data_job_read(
    State(api): State<Arc<Api>>,
    By(caller): By,
    Path((team, name)): JobPath,
) -> Answer<Json<DataJobBody>> {
    Ok(Json(app::jobs::read(&api.db, &caller, &team, &name).await?.into()))
}

/// Replaces description and configuration of a job: 200 without a body.
pub(crate) async fn data_job_update(
    State(api): State<Arc<Api>>,
    By(caller): By,
    Path((team, name)): JobPath,
    JsonBody(mut body): JsonBody<DataJobBody>,
) -> Answer<StatusCode> {
    let new_name = body.job_name.take().unwrap_or_else(|| name.clone());
    if let Some(said) = body.team.take().filter(|said| *said != team) {
        // An unknown job is unknown, whatever the body says.
        app::jobs::read(&api.db, &caller, &team, &name).await?;
        let why = format!(
            "team: it is {}; a change of the job does not move it from the team {}.",
            shown(&said),
            shown(&team)
        );
        return Err(Problem::invalid(format!("The data job {} was not changed.", shown(&name)), why)
            .fix("Send the job's own team, or none; PUT …/jobs/<job>/team/<new team> moves it.")
            .into());
    }
    let definition = body.definition(new_name, team.clone());
    app::jobs::update(&api.db, &*api.clock, &caller, &api.default_zone, &api.versions, &team, &name, definition)
        .await?;
    Ok(StatusCode::OK)
}

/// Deletes a job with all that belongs to it: 200 without a body.
pub(crate) async fn data_job_delete(
    State(api): State<Arc<Api>>,
    By(caller): By,
    Path((team, name)): JobPath,
) -> Answer<StatusCode> {
    app::jobs::delete(&api.db, &*api.clock, &caller, &team, &name).await?;
    Ok(StatusCode::OK)
}

/// Moves a job to another team with all that belongs to it: 200 without a body.
pub(crate) async fn data_job_team_update(
    State(api): State<Arc<Api>>,
    By(caller): By,
    Path((team, name, new_team)): PartPath,
) -> Answer<StatusCode> {
    let (db, clock, zone) = (&api.db, &*api.clock, &api.default_zone);
    app::jobs::move_to_team(db, clock, &caller, zone, &api.versions, &team, &name, &new_team).await?;
    Ok(StatusCode::OK)
}
