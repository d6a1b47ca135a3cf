//! Audit events of operators' commands.

use clock::SystemClock;
use model::{access::Caller, clock::Clock};
use store::Tx;

/// The user in the audit trail.
const OPERATOR: &str = "operator";

/// Records an operator's command in the audit trail.
pub(super) async fn record(tx: &mut Tx, action: &'static str, detail: String) -> anyhow::Result<()> {
    let caller = Caller { user: OPERATOR.into(), ..Caller::anonymous(SystemClock.new_id().simple().to_string()) };
    Ok(store::audit::record_of_service(tx, &caller, action, detail, SystemClock.now()).await?)
}
