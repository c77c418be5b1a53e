//! A lane. All of them share the one writer: their batches follow each other in the order of asking.

use std::sync::Arc;

use async_trait::async_trait;

use super::{
    super::{Entry, Lane, Reply, Ticket, batch::Rounds, decide::Slot},
    Shared, apply,
};

/// One way into the ledger.
pub(super) struct SqliteLane(pub(super) Arc<Shared>);

#[async_trait]
impl Lane for SqliteLane {
    async fn commit(&mut self, batch: Vec<Ticket>) {
        for round in Rounds::of(batch) {
            let (entries, replies): (Vec<Entry>, Vec<Reply>) =
                round.into_iter().map(|ticket| (ticket.entry, ticket.reply)).unzip();
            let (catalogue, limit) = (self.0.catalogue.get(), self.0.limits.transaction);
            match self.0.writer.run(move |loan| apply::commit(loan, &entries, &catalogue, limit)).await {
                Ok(results) => {
                    for (reply, result) in replies.into_iter().zip(results) {
                        reply(result.and_then(Slot::into_committed));
                    }
                }
                Err(error) => replies.into_iter().for_each(|reply| reply(Err(error.clone()))),
            }
        }
        self.0.bound_wal().await;
    }
}
