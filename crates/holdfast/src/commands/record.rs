//! What operators do, in the audit trail.

use clock::SystemClock;
use model::{access::Caller, clock::Clock};
use store::Tx;

/// Who the audit trail says it was.
const OPERATOR: &str = "operator";

/// Writes what an operator did into the audit trail.
pub(super) async fn record(tx: &mut Tx, action: &'static str, detail: String) -> anyhow::Result<()> {
    let caller = Caller { user: OPERATOR.into(), ..Caller::anonymous(SystemClock.new_id().simple().to_string()) };
    Ok(store::audit::record_of_service(tx, &caller, action, detail, SystemClock.now()).await?)
}
