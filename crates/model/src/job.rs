//! A data job as its owner configures it.

use serde::{Deserialize, Serialize};

use crate::{
    Problem,
    name::{JobId, JobName, TeamName},
    problem::Code,
};

/// A data job: what `vdk create` makes and `PUT` of the job changes.
#[derive(Debug, Clone, PartialEq)]
pub struct DataJob {
    /// The key that every row of this job refers to.
    pub id: JobId,
    /// Unique among live jobs.
    pub name: JobName,
    /// The team that owns it.
    pub team: TeamName,
    /// Free text of the owner, at most [`DataJob::DESCRIPTION_MAX_BYTES`].
    pub description: String,
    /// Schedule, contacts and flags.
    pub config: JobConfig,
}

impl DataJob {
    /// The largest description, in bytes.
    pub const DESCRIPTION_MAX_BYTES: usize = 10_000;
}

/// The configuration of a job, beside name, team and description.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct JobConfig {
    /// The database type that `execute_query` uses by default (`VDK_DB_DEFAULT_TYPE`).
    pub db_default_type: Option<String>,
    /// Notification recipients, by event.
    pub contacts: Contacts,
    /// The cron expression as given; absent or blank means that the job runs by hand only.
    pub schedule_cron: Option<String>,
    /// Whether a Kerberos keytab is offered for download.
    pub generate_keytab: bool,
    /// Whether runs are reported at all.
    pub enable_execution_notifications: bool,
    /// How long after a tick a missing start is reported, in minutes.
    pub notification_delay_period_minutes: i32,
}

impl Default for JobConfig {
    fn default() -> Self {
        Self {
            db_default_type: None,
            contacts: Contacts::default(),
            schedule_cron: None,
            generate_keytab: true,
            enable_execution_notifications: true,
            notification_delay_period_minutes: 240,
        }
    }
}

impl JobConfig {
    /// Checks sizes and amounts; the schedule's grammar is [`crate::schedule::Schedule::parse`]'s.
    pub fn validated(mut self) -> Result<Self, Problem> {
        let refuse = |why: String| {
            Err(Problem::new(Code::JobConfigInvalid, "The configuration of the data job is not valid.", why)
                .nothing_changed()
                .fix("Correct this field in config.ini and deploy again, or correct it in the request."))
        };
        if !(0..=525_600).contains(&self.notification_delay_period_minutes) {
            return refuse(format!(
                "notification_delay_period_minutes is {}; it must be 0 to 525600 (one year).",
                self.notification_delay_period_minutes
            ));
        }
        if self.db_default_type.as_ref().is_some_and(|t| t.len() > 100) {
            return refuse("db_default_type has more than 100 bytes.".into());
        }
        for (name, list) in self.contacts.lists() {
            if list.len() > Contacts::MOST_A_LIST {
                return refuse(format!("{name} has more than {} addresses.", Contacts::MOST_A_LIST));
            }
            if list.iter().any(|a| a.len() > 254 || a.chars().any(char::is_control)) {
                return refuse(format!("{name} has an address above 254 bytes or with a control character."));
            }
        }
        self.schedule_cron = self.schedule_cron.map(|cron| cron.trim().to_owned()).filter(|cron| !cron.is_empty());
        Ok(self)
    }
}

/// Mail addresses by occasion.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Contacts {
    /// A run ended with a user error.
    pub notified_on_job_failure_user_error: Vec<String>,
    /// A run ended with a platform error.
    pub notified_on_job_failure_platform_error: Vec<String>,
    /// A run ended well.
    pub notified_on_job_success: Vec<String>,
    /// A deployment succeeded or failed.
    pub notified_on_job_deploy: Vec<String>,
}

impl Contacts {
    /// The most addresses in one list.
    pub const MOST_A_LIST: usize = 100;

    /// Each list with its name on the wire.
    pub fn lists(&self) -> [(&'static str, &[String]); 4] {
        [
            ("notified_on_job_failure_user_error", &self.notified_on_job_failure_user_error),
            ("notified_on_job_failure_platform_error", &self.notified_on_job_failure_platform_error),
            ("notified_on_job_success", &self.notified_on_job_success),
            ("notified_on_job_deploy", &self.notified_on_job_deploy),
        ]
    }
}
