//! graphql
use crate::error::Answer;
pub(crate) async fn jobs_query() -> Answer<()> {
    Ok(())
}
