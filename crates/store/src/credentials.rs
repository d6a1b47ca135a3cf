//! The OAuth application of each team: its client id, and its secret, which is encrypted at rest as the secrets of jobs are.
//!
//! The associated data binds table, team, key and client id, so that a secret moved to another row does not decrypt.

use jiff::Timestamp;
use model::name::TeamName;
use secrecy::{ExposeSecret, SecretString};

use crate::{Result, Tx, corrupt, db::on, micros, secrets::SecretKey, storable};

/// The OAuth application of a team.
#[derive(Debug, Clone)]
pub struct Credentials {
    /// Names the application.
    pub client_id: String,
    /// What it proves itself with.
    pub client_secret: SecretString,
}

impl Credentials {
    /// The secret, for the one answer that it is for.
    pub fn told(&self) -> &str {
        self.client_secret.expose_secret()
    }
}

/// A team has no slash in its name, and a key id is hexadecimal: no two rows are bound to the same text.
fn bound_to(key: &SecretKey, team: &str, client_id: &str) -> String {
    format!("team_credential/{team}/{}/{client_id}", key.id())
}

/// What is stored for a team.
pub async fn find(tx: &mut Tx, key: &SecretKey, team: &TeamName) -> Result<Option<Credentials>> {
    let row: Option<(String, Vec<u8>, Vec<u8>)> = on!(tx, c => sqlx::query_as(
        "select client_id, nonce, ciphertext from team_credential where team = $1",
    )
    .bind(team.as_str())
    .fetch_optional(c)
    .await)?;
    row.map(|(client_id, nonce, ciphertext)| {
        let client_secret = key
            .open(&bound_to(key, team.as_str(), &client_id), nonce, &ciphertext)
            .ok_or_else(|| corrupt(format!("credentials of the team {team}")))?;
        Ok(Credentials { client_id, client_secret })
    })
    .transpose()
}

/// Stores the application of a team in place of any before it.
pub async fn replace(
    tx: &mut Tx,
    key: &SecretKey,
    team: &TeamName,
    credentials: &Credentials,
    by: &str,
    now: Timestamp,
) -> Result<()> {
    let Credentials { client_id, client_secret } = credentials;
    storable([client_id.as_str()])?;
    let (nonce, ciphertext) = key.seal(&bound_to(key, team.as_str(), client_id), client_secret.expose_secret())?;
    on!(tx, c => sqlx::query(
        "insert into team_credential (team, client_id, key_id, nonce, ciphertext, updated_at, updated_by)
         values ($1, $2, $3, $4, $5, $6, $7)
         on conflict (team) do update set client_id = excluded.client_id, key_id = excluded.key_id,
            nonce = excluded.nonce, ciphertext = excluded.ciphertext, updated_at = excluded.updated_at,
            updated_by = excluded.updated_by",
    )
    .bind(team.as_str())
    .bind(client_id)
    .bind(key.id())
    .bind(nonce)
    .bind(ciphertext)
    .bind(micros(now))
    .bind(by)
    .execute(c)
    .await
    .map(drop))?;
    Ok(())
}

/// The client id of a team.
pub async fn client_id(tx: &mut Tx, team: &TeamName) -> Result<Option<String>> {
    let row: Option<(String,)> = on!(tx, c => sqlx::query_as("select client_id from team_credential where team = $1")
        .bind(team.as_str())
        .fetch_optional(c)
        .await)?;
    Ok(row.map(|(id,)| id))
}

/// Which of these client ids belong to which teams, sorted by client id and team.
pub async fn teams(tx: &mut Tx, client_ids: &[String]) -> Result<Vec<(String, TeamName)>> {
    if client_ids.is_empty() {
        return Ok(Vec::new());
    }
    storable(client_ids.iter().map(String::as_str))?;
    let marks: Vec<_> = (1..=client_ids.len()).map(|n| format!("${n}")).collect();
    let sql = format!(
        "select client_id, team from team_credential where client_id in ({}) order by client_id, team",
        marks.join(", ")
    );
    let rows: Vec<(String, String)> = on!(tx, c => {
        let mut statement = sqlx::query_as(sqlx::AssertSqlSafe(sql));
        for id in client_ids {
            statement = statement.bind(id);
        }
        statement.fetch_all(c).await
    })?;
    rows.into_iter().map(|(id, team)| Ok((id, TeamName::parse(&team).map_err(|_| corrupt("a team name"))?))).collect()
}
