//! A run as rows have it.

use model::{
    deployment::Deployment,
    execution::{Execution, ExecutionRevision, Status, Type},
    name::{ExecutionId, JobName, TeamName},
};

use crate::{
    codec::{self, from_json, instant, instant_opt},
    error::{Result, StoreError, corrupt},
    meter::{RowBytes, bytes_of},
};

#[derive(sqlx::FromRow)]
pub(crate) struct ExecutionRow {
    pub(crate) execution_id: String,
    pub(crate) job_id: String,
    pub(crate) name: String,
    pub(crate) team: String,
    #[sqlx(rename = "type")]
    pub(crate) kind: String,
    pub(crate) status: String,
    pub(crate) submitted_at: i64,
    pub(crate) started_at: Option<i64>,
    pub(crate) ended_at: Option<i64>,
    pub(crate) started_by: String,
    pub(crate) op_id: String,
    pub(crate) message: Option<String>,
    pub(crate) arguments: Option<String>,
    pub(crate) scheduled_tick: Option<i64>,
    pub(crate) cancel_requested_at: Option<i64>,
    pub(crate) revision: Option<String>,
}

pub(crate) const COLUMNS: &str =
    "e.execution_id, e.job_id, j.name, j.team, e.type, e.status, e.submitted_at, e.started_at,
    e.ended_at, e.started_by, e.op_id, e.message, e.arguments, e.scheduled_tick, e.cancel_requested_at, e.revision";

impl RowBytes for ExecutionRow {
    fn text_bytes(&self) -> usize {
        let texts = [&self.execution_id, &self.name, &self.team, &self.started_by, &self.op_id];
        let optional = [self.message.as_ref(), self.arguments.as_ref(), self.revision.as_ref()];
        bytes_of(texts.map(Some).into_iter().chain(optional))
    }
}

impl TryFrom<ExecutionRow> for Execution {
    type Error = StoreError;

    fn try_from(row: ExecutionRow) -> Result<Self> {
        Ok(Self {
            id: execution_id(&row.execution_id)?,
            job_id: codec::job_id(&row.job_id)?,
            job_name: JobName::parse(&row.name).map_err(|_| corrupt("a job name"))?,
            team: TeamName::parse(&row.team).map_err(|_| corrupt("a team name"))?,
            kind: Type::parse(&row.kind).ok_or_else(|| corrupt("an execution type"))?,
            status: Status::parse(&row.status).ok_or_else(|| corrupt("an execution status"))?,
            submitted_at: instant(row.submitted_at)?,
            started_at: instant_opt(row.started_at)?,
            ended_at: instant_opt(row.ended_at)?,
            started_by: row.started_by,
            op_id: row.op_id,
            message: row.message,
            arguments: row.arguments,
            scheduled_tick: instant_opt(row.scheduled_tick)?,
            cancel_requested_at: instant_opt(row.cancel_requested_at)?,
            revision: revision(row.revision)?,
        })
    }
}

pub(crate) fn revision(text: Option<String>) -> Result<Option<ExecutionRevision>> {
    let deployment = text.map(|text| from_json::<Deployment>("the revision of an execution", &text)).transpose()?;
    Ok(deployment.as_ref().map(ExecutionRevision::from))
}

pub(crate) fn execution_id(raw: &str) -> Result<ExecutionId> {
    ExecutionId::parse(raw).ok_or_else(|| corrupt("an execution id"))
}

pub(crate) fn executions(rows: Vec<ExecutionRow>) -> Result<Vec<Execution>> {
    rows.into_iter().map(Execution::try_from).collect()
}
