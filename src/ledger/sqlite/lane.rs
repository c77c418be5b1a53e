//! A lane. All of them share the one writer: their batches follow each other in the order of asking.

use std::sync::Arc;

use async_trait::async_trait;

use super::{
    super::{Entry, Lane, Reply, Ticket, batch::Rounds, decide::Slot},
    Shared, apply,
    connection::Loan,
};

/// One way into the ledger.
pub(super) struct SqliteLane(pub(super) Arc<Shared>);

#[async_trait]
impl Lane for SqliteLane {
    async fn commit(&mut self, batch: Vec<Ticket>) {
        let mut wal_bytes = None;
        for round in Rounds::of(batch) {
            let (entries, replies): (Vec<Entry>, Vec<Reply>) =
                round.into_iter().map(|ticket| (ticket.entry, ticket.reply)).unzip();
            let (catalogue, limit) = (self.0.catalogue.get(), self.0.limits.transaction);
            let file = Arc::clone(&self.0.file);
            // The length of the log is looked up where a thread may block.
            let work = move |loan: &mut Loan| (apply::commit(loan, &entries, &catalogue, limit), file.wal_bytes());
            match self.0.writer.run(work).await {
                Ok((results, length)) => {
                    wal_bytes = Some(length);
                    for (reply, result) in replies.into_iter().zip(results) {
                        reply(result.and_then(Slot::into_committed));
                    }
                }
                Err(error) => replies.into_iter().for_each(|reply| reply(Err(error.clone()))),
            }
        }
        if let Some(length) = wal_bytes {
            self.0.bound_wal(length).await;
        }
    }
}
