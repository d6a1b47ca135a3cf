//! A run as rows have it.

use std::collections::HashMap;

use model::{
    execution::{Execution, ExecutionRevision, Status, Type},
    name::{ExecutionId, JobName, TeamName},
};

use crate::{
    codec::{self, from_json, instant, instant_opt},
    error::{Result, corrupt},
    meter::{RowBytes, bytes_of, bytes_of_json},
};

/// The fields of an execution that are read; fewer cost less where there are many. The others are absent, or an empty text.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Detail {
    /// Identifier, status and message. The others are those of an execution that was just accepted in 1970.
    Status,
    /// Identity, outcome and times: identifiers, type, status, times, message.
    Outcome,
    /// All but its revision and its arguments.
    Run,
    /// All but its arguments.
    Revision,
    /// All of it.
    #[default]
    Whole,
}

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

/// The columns of an [`ExecutionRow`] but for the last one: of executions as `e`, of their jobs as `j`.
pub(crate) const COLUMNS: &str =
    "e.execution_id, j.job_id, j.name, j.team, e.type, e.status, e.submitted_at, e.started_at,
    e.ended_at, e.started_by, e.op_id, e.message, e.arguments, e.scheduled_tick, e.cancel_requested_at";

/// The revision of an execution as JSON: the execution's own knowledge of it, or the revision that it refers to.
pub(crate) const REVISION: &str = "coalesce(e.revision, (select v.content from deployment_revision v
    where v.job_id = j.job_id and v.generation = e.generation))";

impl RowBytes for ExecutionRow {
    fn text_bytes(&self) -> usize {
        let texts = [&self.execution_id, &self.name, &self.team, &self.started_by, &self.op_id];
        let optional = [self.message.as_ref(), self.arguments.as_ref()];
        let revision = self.revision.as_ref().map_or(0, |revision| bytes_of_json(revision));
        revision + bytes_of(texts.map(Some).into_iter().chain(optional))
    }
}

impl ExecutionRow {
    pub(crate) fn execution(self, revisions: &mut Revisions) -> Result<Execution> {
        Ok(Execution {
            id: execution_id(&self.execution_id)?,
            job_id: codec::job_id(&self.job_id)?,
            job_name: JobName::parse(&self.name).map_err(|_| corrupt("a job name"))?,
            team: TeamName::parse(&self.team).map_err(|_| corrupt("a team name"))?,
            kind: Type::parse(&self.kind).ok_or_else(|| corrupt("an execution type"))?,
            status: Status::parse(&self.status).ok_or_else(|| corrupt("an execution status"))?,
            submitted_at: instant(self.submitted_at)?,
            started_at: instant_opt(self.started_at)?,
            ended_at: instant_opt(self.ended_at)?,
            started_by: self.started_by,
            op_id: self.op_id,
            message: self.message,
            arguments: self.arguments,
            scheduled_tick: instant_opt(self.scheduled_tick)?,
            cancel_requested_at: instant_opt(self.cancel_requested_at)?,
            revision: revisions.parse(self.revision.as_deref())?,
        })
    }
}

/// The revisions of the executions of a page. Each is parsed once, however many executions have it.
#[derive(Debug, Default)]
pub(crate) struct Revisions(HashMap<String, ExecutionRevision>);

impl Revisions {
    pub(crate) fn parse(&mut self, json: Option<&str>) -> Result<Option<ExecutionRevision>> {
        let Some(json) = json else { return Ok(None) };
        if let Some(known) = self.0.get(json) {
            return Ok(Some(known.clone()));
        }
        let revision: ExecutionRevision = from_json("the revision of an execution", json)?;
        self.0.insert(json.to_owned(), revision.clone());
        Ok(Some(revision))
    }
}

pub(crate) fn execution_id(raw: &str) -> Result<ExecutionId> {
    ExecutionId::parse(raw).ok_or_else(|| corrupt("an execution id"))
}

pub(crate) fn executions(rows: Vec<ExecutionRow>) -> Result<Vec<Execution>> {
    let mut revisions = Revisions::default();
    rows.into_iter().map(|row| row.execution(&mut revisions)).collect()
}
