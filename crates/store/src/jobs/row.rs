//! A job as rows have it.

use model::{
    job::{Contacts, DataJob, JobConfig},
    name::{JobName, TeamName},
};

use crate::{
    codec::{self, from_json},
    error::{Result, StoreError, corrupt},
    meter::{RowBytes, bytes_of, bytes_of_json},
};

pub(crate) const COLUMNS: &str =
    "job_id, name, team, description, db_default_type, contacts, schedule_cron, generate_keytab,
    enable_execution_notifications, notification_delay_period_minutes";

#[derive(sqlx::FromRow)]
pub(crate) struct JobRow {
    pub(crate) job_id: String,
    pub(crate) name: String,
    pub(crate) team: String,
    pub(crate) description: String,
    pub(crate) db_default_type: Option<String>,
    pub(crate) contacts: String,
    pub(crate) schedule_cron: Option<String>,
    pub(crate) generate_keytab: bool,
    pub(crate) enable_execution_notifications: bool,
    pub(crate) notification_delay_period_minutes: i64,
}

impl RowBytes for JobRow {
    fn text_bytes(&self) -> usize {
        let texts = [&self.job_id, &self.name, &self.team, &self.description];
        bytes_of_json(&self.contacts)
            + bytes_of(texts.map(Some).into_iter().chain([self.db_default_type.as_ref(), self.schedule_cron.as_ref()]))
    }
}

impl TryFrom<JobRow> for DataJob {
    type Error = StoreError;

    fn try_from(row: JobRow) -> Result<Self> {
        Ok(Self {
            id: codec::job_id(&row.job_id)?,
            name: JobName::parse(&row.name).map_err(|_| corrupt("a job name"))?,
            team: TeamName::parse(&row.team).map_err(|_| corrupt("a team name"))?,
            description: row.description,
            config: JobConfig {
                db_default_type: row.db_default_type,
                contacts: from_json("the contacts of a job", &row.contacts)?,
                schedule_cron: row.schedule_cron,
                generate_keytab: row.generate_keytab,
                enable_execution_notifications: row.enable_execution_notifications,
                notification_delay_period_minutes: i32::try_from(row.notification_delay_period_minutes)
                    .map_err(|_| corrupt("a notification delay"))?,
            },
        })
    }
}

/// Whether a job has contacts.
pub(crate) fn has_contacts(contacts: &Contacts) -> bool {
    [
        &contacts.notified_on_job_failure_user_error,
        &contacts.notified_on_job_failure_platform_error,
        &contacts.notified_on_job_success,
        &contacts.notified_on_job_deploy,
    ]
    .iter()
    .any(|addresses| !addresses.is_empty())
}
