//! The OAuth application of each team: its client id, and its secret, which is encrypted at rest as the secrets of jobs are.

use jiff::Timestamp;
use model::name::TeamName;
use secrecy::{ExposeSecret, SecretString};

use crate::{
    codec::{micros, storable},
    db::{Tx, on},
    encrypted::{AssociatedData, Encrypted},
    error::{Result, StoreError, corrupt},
    keys::{self, KeyRing, Reencrypted},
    sql::places,
};

/// The OAuth application of a team.
#[derive(Debug, Clone)]
pub struct Credentials {
    /// Names the application.
    pub client_id: String,
    /// The client secret.
    pub client_secret: SecretString,
}

impl Credentials {
    /// The secret. Only the response to its owner exposes it.
    pub fn expose_client_secret(&self) -> &str {
        self.client_secret.expose_secret()
    }
}

#[derive(sqlx::FromRow)]
struct Row {
    team: String,
    client_id: String,
    #[sqlx(flatten)]
    encrypted: Encrypted,
}

impl Row {
    fn associated_data(&self) -> AssociatedData<'_> {
        AssociatedData::TeamCredential { team: &self.team, client_id: &self.client_id }
    }
}

/// Reads the credentials of a team.
pub async fn find(tx: &mut Tx, ring: &KeyRing, team: &TeamName) -> Result<Option<Credentials>> {
    let row: Option<Row> = on!(tx, c => sqlx::query_as(
        "select team, client_id, key_id, nonce, ciphertext from team_credential where team = $1",
    )
    .bind(team.as_str())
    .fetch_optional(c)
    .await)?;
    row.map(|row| {
        let client_secret = row.encrypted.open(ring, &row.associated_data())?;
        Ok(Credentials { client_id: row.client_id, client_secret })
    })
    .transpose()
}

/// Stores the application of a team in place of any before it. `false`: another team has this client id, and nothing was
/// stored. The transaction can't continue then.
pub async fn replace(
    tx: &mut Tx,
    ring: &KeyRing,
    team: &TeamName,
    credentials: &Credentials,
    by: &str,
    now: Timestamp,
) -> Result<bool> {
    let Credentials { client_id, client_secret } = credentials;
    storable([client_id.as_str()])?;
    let key = keys::key_to_encrypt_with(tx, ring).await?;
    let associated_data = AssociatedData::TeamCredential { team: team.as_str(), client_id };
    let encrypted = Encrypted::new(&key, &associated_data, client_secret.expose_secret())?;
    // A team that shares its client id since before that was refused may replace the secret.
    let stored = on!(tx, c => sqlx::query(
        "insert into team_credential (team, client_id, key_id, nonce, ciphertext, updated_at, updated_by, holds_client)
         values ($1, $2, $3, $4, $5, $6, $7, $8)
         on conflict (team) do update set client_id = excluded.client_id, key_id = excluded.key_id,
            nonce = excluded.nonce, ciphertext = excluded.ciphertext, updated_at = excluded.updated_at,
            updated_by = excluded.updated_by,
            holds_client = case when team_credential.client_id = excluded.client_id
                then team_credential.holds_client else excluded.holds_client end",
    )
    .bind(team.as_str())
    .bind(client_id)
    .bind(encrypted.key_id)
    .bind(encrypted.nonce)
    .bind(encrypted.ciphertext)
    .bind(micros(now))
    .bind(by)
    .bind(true)
    .execute(c)
    .await
    .map(drop))
    .map_err(StoreError::from);
    match stored {
        Ok(()) => Ok(true),
        Err(StoreError::Constraint(_)) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Re-encrypts values under another key with the active one, at most `limit` rows after the team `after`. Rows that
/// changed concurrently are left to the next time.
///
/// # Errors
/// [`StoreError::KeyMissing`] when this instance does not have the active key.
pub async fn reencrypt(tx: &mut Tx, ring: &KeyRing, after: &str, limit: i64) -> Result<Reencrypted> {
    let key = keys::key_to_encrypt_with(tx, ring).await?;
    let sql = format!(
        "select team, client_id, key_id, nonce, ciphertext from team_credential where key_id <> $1 and team > $2
         order by team limit $3 {}",
        tx.locking("for update skip locked")
    );
    let rows: Vec<Row> = on!(tx, c => sqlx::query_as(sqlx::AssertSqlSafe(sql))
        .bind(key.id())
        .bind(after)
        .bind(limit)
        .fetch_all(c)
        .await)?;
    let mut reencrypted = Reencrypted::default();
    if i64::try_from(rows.len()).is_ok_and(|count| count == limit) {
        reencrypted.next = rows.last().map(|row| row.team.clone());
    }
    for row in rows {
        let text = match row.encrypted.open(ring, &row.associated_data()) {
            Ok(text) => text,
            Err(error) => {
                reencrypted.skip(error)?;
                continue;
            }
        };
        let new = Encrypted::new(&key, &row.associated_data(), text.expose_secret())?;
        reencrypted.done += on!(tx, c => sqlx::query(
            "update team_credential set key_id = $2, nonce = $3, ciphertext = $4
             where team = $1 and key_id = $5 and nonce = $6",
        )
        .bind(row.team)
        .bind(new.key_id)
        .bind(new.nonce)
        .bind(new.ciphertext)
        .bind(row.encrypted.key_id)
        .bind(row.encrypted.nonce)
        .execute(c)
        .await
        .map(|done| done.rows_affected()))?;
    }
    Ok(reencrypted)
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
    let sql = format!(
        "select client_id, team from team_credential where client_id in ({}) order by client_id, team",
        places(client_ids.len())
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
