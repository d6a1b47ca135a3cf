//! In which fields two generations of a deployment differ.

use serde::Serialize;

use crate::deployment::Deployment;

/// One field in which two generations differ.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Difference {
    /// Its name on the wire, with a dot before the name of a part.
    pub field: &'static str,
    /// Its value in the first generation.
    pub from: serde_json::Value,
    /// Its value in the second.
    pub to: serde_json::Value,
}

impl Deployment {
    /// The differences to another revision, field by field, without user, time and number.
    pub fn differences(&self, other: &Self) -> Vec<Difference> {
        self.fields()
            .into_iter()
            .zip(other.fields())
            .filter(|((_, from), (_, to))| from != to)
            .map(|((field, from), (_, to))| Difference { field, from, to })
            .collect()
    }

    /// Each field with its name on the wire and its value.
    fn fields(&self) -> Vec<(&'static str, serde_json::Value)> {
        use serde_json::json;
        // Taken apart, so that a new field is not forgotten here.
        let Self {
            job_id: _,
            generation: _,
            job_version,
            python_version_asked,
            python_version,
            vdk_version_asked,
            vdk_version,
            enabled,
            mode,
            resources,
            schedule_cron,
            schedule_since: _,
            contacts,
            db_default_type,
            enable_execution_notifications,
            deployed_by: _,
            deployed_at: _,
        } = self;
        let mut fields = vec![
            ("job_version", json!(job_version)),
            ("python_version_requested", json!(python_version_asked)),
            ("python_version", json!(python_version)),
            ("vdk_version_requested", json!(vdk_version_asked)),
            ("vdk_version", json!(vdk_version)),
            ("enabled", json!(enabled)),
            ("mode", json!(mode)),
            ("resources.cpu_request", json!(resources.cpu_request)),
            ("resources.cpu_limit", json!(resources.cpu_limit)),
            ("resources.memory_request", json!(resources.memory_request_mi)),
            ("resources.memory_limit", json!(resources.memory_limit_mi)),
            ("schedule.schedule_cron", json!(schedule_cron)),
            ("db_default_type", json!(db_default_type)),
            ("enable_execution_notifications", json!(enable_execution_notifications)),
        ];
        let names = [
            "contacts.notified_on_job_failure_user_error",
            "contacts.notified_on_job_failure_platform_error",
            "contacts.notified_on_job_success",
            "contacts.notified_on_job_deploy",
        ];
        fields.extend(names.into_iter().zip(contacts.lists()).map(|(name, (_, list))| (name, json!(list))));
        fields
    }
}

#[cfg(test)]
mod tests {
    use crate::{
        deployment::{
            DeploymentChange,
            tests::{merge, version},
        },
        resources::Resources,
    };

    #[test]
    fn two_revisions_differ_field_by_field_and_not_by_their_requester() {
        let first =
            merge(None, &DeploymentChange { job_version: Some(version('a')), ..Default::default() }, 1).unwrap();
        let change = DeploymentChange {
            job_version: Some(version('b')),
            enabled: Some(false),
            resources: Some(Resources { memory_limit_mi: Some(512), ..Default::default() }),
            ..Default::default()
        };
        let second = merge(Some(&first), &change, 2).unwrap();
        let differences = first.differences(&second);
        let fields: Vec<_> = differences.iter().map(|d| d.field).collect();
        assert_eq!(fields, ["job_version", "enabled", "resources.memory_limit"]);
        assert_eq!((&differences[1].from, &differences[1].to), (&true.into(), &false.into()));
        assert!(first.differences(&merge(Some(&first), &DeploymentChange::default(), 3).unwrap()).is_empty());
    }
}
