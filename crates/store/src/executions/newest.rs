//! The newest executions of each job, packed in one row (`newest_executions`). Triggers of the database keep the rows; here those
//! are added that were missing when the table was created.

use sea_query::{ExprTrait, Query};

use super::list::{self, ExecutionQuery, NEWEST};
use crate::{
    db::{Tx, on},
    dialect::Dialect,
    error::Result,
    sql::{Statement, bind_all, column},
};

/// How many jobs one read checks.
const JOBS_PAGE: i64 = 500;

/// The most bytes of a packed text that is kept, as in the triggers. Longer ones would be written again with each change.
const PACKED_MAX_BYTES: usize = 4096;

/// Jobs with executions and without a row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Missing {
    /// The numbers of these jobs, in the order of their ids, as transactions that change several jobs lock them.
    pub jobs: Vec<i64>,
    /// The id of the job to continue after; absent when all jobs were checked.
    pub next: Option<String>,
}

/// Finds jobs whose newest executions are not packed, after a job in the order of the ids.
pub async fn find_missing(tx: &mut Tx, after: &str) -> Result<Missing> {
    let page: Vec<(String, i64, bool)> = on!(tx, c => sqlx::query_as(
        "select j.job_id, j.number, n.job_number is null
            and exists (select 1 from data_job_execution e where e.job_number = j.number)
         from data_job j left join newest_executions n on n.job_number = j.number
         where j.job_id > $1 order by j.job_id limit $2",
    )
    .bind(after)
    .bind(JOBS_PAGE)
    .fetch_all(c)
    .await)?;
    let is_full = i64::try_from(page.len()).is_ok_and(|rows| rows == JOBS_PAGE);
    let next = page.last().filter(|_| is_full).map(|(id, ..)| id.clone());
    let jobs = page.into_iter().filter(|(.., is_missing)| *is_missing).map(|(_, number, _)| number).collect();
    Ok(Missing { jobs, next })
}

/// Packs the newest executions of jobs that [`find_missing`] found.
pub async fn pack(tx: &mut Tx, jobs: &[i64]) -> Result<()> {
    for job in jobs {
        let (sql, values) = match tx.dialect() {
            // It takes its turn among the transactions that change executions of the job.
            Dialect::Postgres => (format!("select 1 from update_newest_executions({job})"), Vec::new()),
            Dialect::Sqlite => {
                let newest = ExecutionQuery { limit: NEWEST, ..list::newest() };
                let packed = Query::select()
                    .column(("j", "number"))
                    .expr_as(list::found_and_packed(&newest, Dialect::Sqlite), "packed")
                    .from_as("data_job", "j")
                    .and_where(column("j.number").eq(*job))
                    .to_owned();
                let Statement { sql, values } = Statement::of(Dialect::Sqlite, &packed);
                let sql = format!(
                    "insert into newest_executions (job_number, packed)
                     select l.number, case when octet_length(l.packed) <= {PACKED_MAX_BYTES} then l.packed end
                     from ({sql}) l where true on conflict (job_number) do nothing"
                );
                (sql, values)
            }
        };
        on!(tx, c => bind_all!(sqlx::query(sqlx::AssertSqlSafe(sql)), values).execute(c).await.map(drop))?;
    }
    Ok(())
}
