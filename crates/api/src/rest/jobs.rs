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
    name::{JobName, TeamName, excerpt},
    problem::Code,
};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{JobPath, PartPath};
use crate::{
    Api,
    caller::RequestCaller,
    error::ApiResult,
    input::{JsonBody, Path, Query},
    links,
    preconditions::WithEtag,
};

/// A data job in a request. A null field counts as an absent one.
#[derive(Deserialize, ToSchema)]
#[serde(expecting = "a JSON object")]
#[schema(example = json!({
    "job_name": "my-first-job", "team": "my-team", "description": "Counts the orders of yesterday.",
    "config": { "schedule": { "schedule_cron": "0 6 * * *" }, "contacts": {} }
}))]
pub(crate) struct DataJobDefinition {
    /// The name: 6 to 50 characters of a-z, 0-9 and hyphens, a letter first. Unique across all teams. A change requires the name
    /// in the path; a creation may have the name in the query instead.
    #[schema(min_length = 6, max_length = 50, pattern = "^[a-z][a-z0-9-]{5,49}$", example = "my-first-job")]
    job_name: Option<String>,
    /// Free text. Absent means empty.
    #[schema(max_length = 10000, pattern = r"^[^\u0000]*$")]
    description: Option<String>,
    /// Schedule, contacts and flags. Absent means the defaults.
    #[serde(default, deserialize_with = "crate::input::object")]
    config: Option<DataJobConfigDefinition>,
    /// The team that owns the job: the team in the path, or absent.
    #[schema(example = "my-team")]
    team: Option<String>,
}

/// The configuration of a job: all but name, team and description. An absent field has its default.
#[derive(Default, Deserialize, ToSchema)]
#[serde(expecting = "a JSON object")]
struct DataJobConfigDefinition {
    /// The type of database that the job's SQL runs on by default; blank means none.
    #[schema(max_length = 100, pattern = r"^[^\u0000]*$", example = "sqlite")]
    db_default_type: Option<String>,
    /// The mail addresses of notifications.
    #[serde(default, deserialize_with = "crate::input::object")]
    contacts: Option<DataJobContactsDefinition>,
    /// The schedule.
    #[serde(default, deserialize_with = "crate::input::object")]
    schedule: Option<DataJobScheduleDefinition>,
    /// Whether a Kerberos keytab is offered for download; true by default.
    generate_keytab: Option<bool>,
    /// Whether notifications about executions are sent; true by default.
    enable_execution_notifications: Option<bool>,
    /// The delay after a scheduled time before a missing execution is reported, in minutes; 240 by default.
    #[schema(minimum = 0, maximum = 525_600, example = 240)]
    #[serde(default, deserialize_with = "crate::input::whole_number")]
    notification_delay_period_minutes: Option<i32>,
}

/// Mail addresses by occasion: at most 100 each, each of at most 254 characters without control characters.
#[derive(Default, Deserialize, ToSchema)]
#[serde(expecting = "a JSON object")]
#[expect(clippy::struct_field_names, reason = "the names on the wire")]
struct DataJobContactsDefinition {
    /// Addresses for executions that ended with a user error.
    #[schema(value_type = Option<Vec<MailAddress>>, max_items = 100)]
    notified_on_job_failure_user_error: Option<Vec<String>>,
    /// Addresses for executions that ended with a platform error.
    #[schema(value_type = Option<Vec<MailAddress>>, max_items = 100)]
    notified_on_job_failure_platform_error: Option<Vec<String>>,
    /// Addresses for executions that succeeded.
    #[schema(value_type = Option<Vec<MailAddress>>, max_items = 100)]
    notified_on_job_success: Option<Vec<String>>,
    /// Addresses for the outcome of deployments.
    #[schema(value_type = Option<Vec<MailAddress>>, max_items = 100)]
    notified_on_job_deploy: Option<Vec<String>>,
}

/// A mail address.
#[derive(ToSchema)]
#[schema(max_length = 254, pattern = r"^[^\u0000-\u001f\u007f-\u009f]*$", example = "someone@example.com")]
#[expect(dead_code, reason = "for the document; the model checks the text")]
struct MailAddress(String);

/// The schedule of a job.
#[derive(Default, Deserialize, ToSchema)]
#[serde(expecting = "a JSON object")]
pub(crate) struct DataJobScheduleDefinition {
    /// A cron expression of five fields (minute, hour, day of month, month, day of week), or a word such as `@daily`. A time
    /// zone may precede the expression, as in `TZ=Europe/Berlin 0 6 * * *`. Absent or blank means manual executions only.
    #[schema(format = "cron", example = "0 6 * * *")]
    schedule_cron: Option<String>,
}

/// A data job.
#[derive(Serialize, ToSchema)]
#[schema(as = DataJob)]
pub(crate) struct DataJobBody {
    /// The name.
    #[schema(pattern = "^[a-z][a-z0-9-]{5,49}$", example = "my-first-job")]
    job_name: String,
    /// Free text.
    #[schema(example = "Counts the orders of yesterday.")]
    description: String,
    /// Schedule, contacts and flags.
    config: ConfigBody,
    /// The team that owns the job.
    #[schema(example = "my-team")]
    team: String,
}

/// The configuration of a job: all but name, team and description.
#[derive(Serialize, ToSchema)]
#[schema(as = DataJobConfig)]
struct ConfigBody {
    /// The type of database that the job's SQL runs on by default; absent when there is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false, example = "sqlite")]
    db_default_type: Option<String>,
    /// The mail addresses of notifications.
    contacts: ContactsBody,
    /// The schedule.
    schedule: ScheduleBody,
    /// Whether a Kerberos keytab is offered for download.
    generate_keytab: bool,
    /// Whether notifications about executions are sent.
    enable_execution_notifications: bool,
    /// The delay after a scheduled time before a missing execution is reported, in minutes.
    #[schema(minimum = 0, maximum = 525_600, example = 240)]
    notification_delay_period_minutes: i32,
}

/// Mail addresses by occasion.
#[derive(Serialize, ToSchema)]
#[schema(as = DataJobContacts)]
#[expect(clippy::struct_field_names, reason = "the names on the wire")]
pub(crate) struct ContactsBody {
    /// Addresses for executions that ended with a user error.
    notified_on_job_failure_user_error: Vec<String>,
    /// Addresses for executions that ended with a platform error.
    notified_on_job_failure_platform_error: Vec<String>,
    /// Addresses for executions that succeeded.
    notified_on_job_success: Vec<String>,
    /// Addresses for the outcome of deployments.
    notified_on_job_deploy: Vec<String>,
}

/// The schedule of a job. The object is always present, because clients read its fields without a check.
#[derive(Default, Serialize, ToSchema)]
#[schema(as = DataJobSchedule)]
pub(crate) struct ScheduleBody {
    /// The cron expression as given; absent if the job has manual executions only.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false, example = "0 6 * * *")]
    pub(crate) schedule_cron: Option<String>,
}

impl From<&Contacts> for ContactsBody {
    fn from(contacts: &Contacts) -> Self {
        Self {
            notified_on_job_failure_user_error: contacts.notified_on_job_failure_user_error.clone(),
            notified_on_job_failure_platform_error: contacts.notified_on_job_failure_platform_error.clone(),
            notified_on_job_success: contacts.notified_on_job_success.clone(),
            notified_on_job_deploy: contacts.notified_on_job_deploy.clone(),
        }
    }
}

impl From<DataJobContactsDefinition> for Contacts {
    fn from(body: DataJobContactsDefinition) -> Self {
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
            job_name: job.name.to_string(),
            description: job.description,
            team: job.team.to_string(),
            config: ConfigBody {
                db_default_type: config.db_default_type,
                contacts: ContactsBody::from(&config.contacts),
                schedule: ScheduleBody { schedule_cron: config.schedule_cron },
                generate_keytab: config.generate_keytab,
                enable_execution_notifications: config.enable_execution_notifications,
                notification_delay_period_minutes: config.notification_delay_period_minutes,
            },
        }
    }
}

impl From<DataJobConfigDefinition> for JobConfig {
    fn from(body: DataJobConfigDefinition) -> Self {
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

impl DataJobDefinition {
    fn definition(self, name: String, team: String) -> JobDefinition {
        JobDefinition {
            name,
            team,
            description: self.description.unwrap_or_default(),
            config: self.config.unwrap_or_default().into(),
        }
    }
}

/// Creates a data job.
///
/// A new job has no source and no deployment. If the body has a name or a team, they must equal those in the query and the path.
#[utoipa::path(
    post,
    path = "",
    tag = "Data Jobs",
    params((
        "name" = Option<String>, Query, example = "my-first-job",
        description = "The name of the job. The body may have the name instead; if both have one, they must be equal.",
    )),
    request_body = DataJobDefinition,
    responses(
        (
            status = 201, description = "The job was created.",
            headers(("Location" = String, description = "The URL of the job."))
        ),
        (status = 409, description = "A job of this name exists already, in this team or another."),
    )
)]
pub(crate) async fn data_job_create(
    State(api): State<Arc<Api>>,
    RequestCaller(caller): RequestCaller,
    Path(team): Path<String>,
    query: Query,
    JsonBody(mut body): JsonBody<DataJobDefinition>,
) -> ApiResult<impl IntoResponse> {
    let named = query.text("name");
    let Some(name) = body.job_name.take().or_else(|| named.map(str::to_owned)) else {
        return Err(Problem::new(
            Code::JobNameMissing,
            "The data job was not created.",
            "The request has no job_name.",
        )
        .nothing_changed()
        .fix("Send job_name in the body.")
        .into());
    };
    if named.is_some_and(|named| named != name) {
        let why = format!("job_name is {}, and the URL says {}.", excerpt(&name), excerpt(named.unwrap_or("")));
        return Err(Problem::new(Code::JobNameMismatch, "The data job was not created.", why)
            .nothing_changed()
            .fix("Send the same name in both.")
            .into());
    }
    if let Some(said) = body.team.take().filter(|said| *said != team) {
        let why = format!("team is {}, and the URL says {}.", excerpt(&said), excerpt(&team));
        return Err(Problem::new(Code::JobTeamMismatch, "The data job was not created.", why)
            .nothing_changed()
            .fix("Send the same team in both.")
            .into());
    }
    let job = app::jobs::create(&api.db, &*api.clock, &caller, &api.default_zone, body.definition(name, team)).await?;
    Ok((StatusCode::CREATED, [(LOCATION, links::job(job.team.as_str(), job.name.as_str()))]))
}

/// Reads a data job with its configuration.
#[utoipa::path(
    get,
    path = "",
    tag = "Data Jobs",
    responses(
        (status = 200, description = "The job.", body = DataJobBody),
        (status = 404, description = "The job is unknown, or belongs to another team."),
    )
)]
pub(crate) async fn data_job_read(
    State(api): State<Arc<Api>>,
    RequestCaller(caller): RequestCaller,
    Path((team, name)): JobPath,
) -> ApiResult<WithEtag<DataJobBody>> {
    let job = app::jobs::read(&api.db, &caller, &team, &name).await?;
    Ok(WithEtag(job.etag(), job.into()))
}

/// Replaces description and configuration of a data job.
///
/// Omitted fields return to their defaults. A change of schedule, contacts or flags creates a revision of the deployment. This
/// operation changes neither name nor team.
#[utoipa::path(
    put,
    path = "",
    tag = "Data Jobs",
    request_body = DataJobDefinition,
    responses(
        (status = 200, description = "The job has this configuration."),
        (status = 404, description = "The job is unknown, or belongs to another team."),
    )
)]
pub(crate) async fn data_job_update(
    State(api): State<Arc<Api>>,
    RequestCaller(caller): RequestCaller,
    Path((team, name)): JobPath,
    JsonBody(mut body): JsonBody<DataJobDefinition>,
) -> ApiResult<StatusCode> {
    let can_be_none = TeamName::parse(&team).is_err() || (body.job_name.is_none() && JobName::parse(&name).is_err());
    if can_be_none {
        // No job has a name that can't be one, nor is it of such a team.
        app::jobs::read(&api.db, &caller, &team, &name).await?;
    }
    let new_name = body.job_name.take().unwrap_or_else(|| name.clone());
    if let Some(said) = body.team.take().filter(|said| *said != team) {
        // An unknown job is unknown, whatever the body says.
        app::jobs::read(&api.db, &caller, &team, &name).await?;
        let why = format!(
            "team is {}; a change of the job does not move it from the team {}.",
            excerpt(&said),
            excerpt(&team)
        );
        return Err(Problem::new(
            Code::JobTeamMismatch,
            format!("The data job {} was not changed.", excerpt(&name)),
            why,
        )
        .nothing_changed()
        .fix("Send the job's own team, or none; `PUT …/jobs/<job>/team/<new team>` moves it.")
        .into());
    }
    let definition = body.definition(new_name, team.clone());
    app::jobs::update(&api.db, &*api.clock, &caller, &api.default_zone, &api.versions, &team, &name, definition)
        .await?;
    Ok(StatusCode::OK)
}

/// Deletes a data job with all that belongs to it.
///
/// Deployment, source, properties and secrets are deleted too, and executions in progress are cancelled. A new job with the same
/// name inherits nothing.
#[utoipa::path(
    delete,
    path = "",
    tag = "Data Jobs",
    responses(
        (status = 200, description = "The job was deleted."),
        (status = 404, description = "The job is unknown, or belongs to another team."),
    )
)]
pub(crate) async fn data_job_delete(
    State(api): State<Arc<Api>>,
    RequestCaller(caller): RequestCaller,
    Path((team, name)): JobPath,
) -> ApiResult<StatusCode> {
    app::jobs::delete(&api.db, &*api.clock, &caller, &team, &name).await?;
    Ok(StatusCode::OK)
}

/// Moves a data job to another team.
///
/// Deployment, source, properties, secrets and history move with the job.
#[utoipa::path(
    put,
    path = "",
    tag = "Data Jobs",
    responses(
        (status = 200, description = "The job belongs to this team."),
        (status = 404, description = "The job is unknown, or belongs to another team."),
    )
)]
pub(crate) async fn data_job_team_update(
    State(api): State<Arc<Api>>,
    RequestCaller(caller): RequestCaller,
    Path((team, name, new_team)): PartPath,
) -> ApiResult<StatusCode> {
    let (db, clock, zone) = (&api.db, &*api.clock, &api.default_zone);
    app::jobs::move_to_team(db, clock, &caller, zone, &api.versions, &team, &name, &new_team).await?;
    Ok(StatusCode::OK)
}

/// The schedule of a job, and its next times.
#[derive(Serialize, ToSchema)]
pub(crate) struct DataJobScheduledTimes {
    /// The schedule; null if the job has manual executions only.
    #[schema(example = "0 6 * * *")]
    schedule_cron: Option<String>,
    /// The time zone whose wall clock counts; null without a schedule.
    #[schema(example = "UTC")]
    time_zone: Option<String>,
    /// The next scheduled times, ascending. A schedule that names no date of the next five years has none.
    #[schema(value_type = Vec<ScheduledTime>)]
    times: Vec<String>,
}

/// A scheduled time.
#[derive(ToSchema)]
#[schema(format = DateTime, example = "2024-03-10T06:00:00Z")]
#[expect(dead_code, reason = "for the document")]
struct ScheduledTime(String);

/// Lists the next scheduled times of a data job.
///
/// The times follow the clock changes of the schedule's time zone. Executions start at them if the deployment is enabled.
#[utoipa::path(
    get,
    path = "",
    tag = "Data Jobs",
    params((
        "limit" = Option<i64>, Query, minimum = 1, maximum = 100, example = 20,
        description = "The maximum number of times; 20 by default.",
    )),
    responses(
        (status = 200, description = "The schedule and its next times.", body = DataJobScheduledTimes),
        (status = 404, description = "The job is unknown, or belongs to another team."),
    )
)]
pub(crate) async fn data_job_scheduled_time_list(
    State(api): State<Arc<Api>>,
    RequestCaller(caller): RequestCaller,
    Path((team, name)): JobPath,
    query: Query,
) -> ApiResult<Json<DataJobScheduledTimes>> {
    let (db, clock, zone) = (&api.db, &*api.clock, &api.default_zone);
    let found = app::jobs::scheduled_times(db, clock, &caller, zone, &team, &name, query.number("limit")?).await?;
    Ok(Json(DataJobScheduledTimes {
        schedule_cron: found.schedule_cron,
        time_zone: found.time_zone,
        times: found.times.iter().map(ToString::to_string).collect(),
    }))
}
