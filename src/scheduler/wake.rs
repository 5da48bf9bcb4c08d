//! Queueing a claimed vthread, for claimants that know one when they see it: the common case first, that the waker is a
//! vthread of the same runtime. Others go through `wait::Wake`.

use super::current;
use crate::vthread::record::RecordRef;

/// Queues a vthread whose wait the caller has claimed (`Claim::Schedule`). Call it with no lock held.
#[inline(always)]
pub(crate) fn schedule(record: RecordRef) {
    if let Some(shared) = current::shared()
        && record.is_of(shared.index)
        && current::with_core(|core| core.schedule(record)).is_some()
    {
        return;
    }
    elsewhere(record);
}

#[cold]
#[inline(never)]
fn elsewhere(record: RecordRef) {
    record.get().scheduler().schedule(record);
}
