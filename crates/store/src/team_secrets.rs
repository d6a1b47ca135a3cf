//! The names of the secrets with teams' OAuth applications in a cluster: the first team keeps the plain name for good.

use jiff::Timestamp;
use model::{name::TeamName, team_secret};

use crate::{
    codec::{self, micros},
    db::{Tx, on},
    error::{Result, corrupt},
};

/// Gives a team the name of its secret, unless it has one. Answers the name.
pub async fn claim(tx: &mut Tx, team: &TeamName, now: Timestamp) -> Result<String> {
    if let Some(name) = find(tx, team).await? {
        return Ok(name);
    }
    for name in team_secret::names(team) {
        // A team that another transaction gives a name at this moment is waited for, and so is the name.
        on!(tx, c => sqlx::query(
            "insert into team_secret (team, name, claimed_at) values ($1, $2, $3) on conflict do nothing",
        )
        .bind(team.as_str())
        .bind(&name)
        .bind(micros(now))
        .execute(c)
        .await
        .map(drop))?;
        if let Some(own) = find(tx, team).await? {
            if team_secret::plain(team).as_ref() != Some(&own) {
                tracing::warn!(
                    team = team.as_str(),
                    secret = own,
                    "the plain name of the team's secret belongs to another team, or there is none; it has a suffix"
                );
            }
            return Ok(own);
        }
    }
    Err(corrupt("the names of teams' secrets"))
}

/// The name of a team's secret; `None` when it has none.
pub async fn find(tx: &mut Tx, team: &TeamName) -> Result<Option<String>> {
    let row: Option<(String,)> = on!(tx, c => sqlx::query_as("select name from team_secret where team = $1")
        .bind(team.as_str())
        .fetch_optional(c)
        .await)?;
    Ok(row.map(|(name,)| name))
}

/// Gives each team that an older program stored the name of its secret: the team whose first job is the oldest comes first.
pub(crate) async fn complete(tx: &mut Tx) -> Result<()> {
    let rows: Vec<(String, i64)> = on!(tx, c => sqlx::query_as(
        "select known.team, min(known.since) from (
            select team, min(created_at) as since from data_job group by team
            union all select team, min(updated_at) from team_credential group by team) as known
         where not exists (select 1 from team_secret s where s.team = known.team)
         group by known.team order by 2, 1",
    )
    .fetch_all(c)
    .await)?;
    for (team, since) in rows {
        // A name that is none any more, by a change of the rules, belongs to no job that is deployed.
        if let Ok(team) = TeamName::parse(&team) {
            claim(tx, &team, codec::instant(since)?).await?;
        }
    }
    Ok(())
}
