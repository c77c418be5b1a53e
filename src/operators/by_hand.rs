//! What people give and take by hand.
//!
//! It goes the way of a delivery, through the user's actor, so that versions, cache and streams follow. Only what was given by hand can
//! be taken by hand: what Stripe sold ends by what is done at Stripe, whose next event would give it back.

use chrono::{DateTime, SubsecRound, Utc};
use uuid::Uuid;

use super::{OperatorError, Operators};
use crate::{
    domain::{
        by_hand::Remark,
        change::{Cause, Change, Effect},
        event::{Outcome, ParkReason},
        grant::{Grant, GrantStatus},
        id::UserId,
        level::Level,
    },
    ledger::HistoryEntry,
};

/// A grant that a person wants to give.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gift {
    /// The grant's own id: asking again with it is the same grant.
    pub id: Uuid,
    /// To whom.
    pub user: UserId,
    /// What.
    pub level: Level,
    /// When it ends.
    pub until: DateTime<Utc>,
}

/// What is to be taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Taking {
    /// The grant with this id.
    Grant(String),
    /// All that was given by hand.
    AllByHand,
}

impl Operators {
    /// Gives a level by hand. Gives the grant as it stands, and whether this call made it.
    ///
    /// # Errors
    /// [`OperatorError`]; the call may be made again, always.
    pub async fn give(&self, gift: Gift, remark: Remark) -> Result<(Grant, bool), OperatorError> {
        let Gift { id, user, level, until } = gift;
        let now = self.ledger.now().await?;
        // As precisely as both databases keep it: a retry must find what it asked for.
        let wanted = Grant::by_hand(id, level, until.trunc_subsecs(6), now.trunc_subsecs(6));
        let known = |grants: Vec<Grant>| grants.into_iter().find(|grant| grant.source == wanted.source);
        let is_made = match known(self.ledger.grants(user).await?) {
            Some(_) => false,
            None if wanted.period_end <= now => return Err(OperatorError::Over),
            None => match self.by_hand(user, Effect::GiveByHand(wanted.clone()), remark).await? {
                Outcome::Applied => true,
                Outcome::Parked(ParkReason::UnknownUser) => return Err(OperatorError::NoSuchUser),
                Outcome::Parked(_) => return Err(OperatorError::GrantIdTaken),
                _ => false,
            },
        };
        let grant = known(self.ledger.grants(user).await?).ok_or(OperatorError::NoSuchGrant)?;
        if (&grant.level, grant.period_end) == (&wanted.level, wanted.period_end) {
            Ok((grant, is_made))
        } else {
            Err(OperatorError::GrantIdTaken)
        }
    }

    /// Takes back what was given by hand. Gives what this call took: nothing where it had been taken before.
    ///
    /// # Errors
    /// [`OperatorError`]; the call may be made again, always. Where several grants are meant, some may have been taken.
    pub async fn take(&self, user: UserId, taking: &Taking, remark: &Remark) -> Result<Vec<Grant>, OperatorError> {
        let grants = self.ledger.grants(user).await?;
        let meant: Vec<Grant> = match taking {
            Taking::AllByHand => grants.into_iter().filter(Grant::is_by_hand).collect(),
            Taking::Grant(id) => {
                let named: Vec<Grant> = grants.into_iter().filter(|grant| *grant.source.id == **id).collect();
                match named.first() {
                    None => return Err(OperatorError::NoSuchGrant),
                    Some(grant) if !grant.is_by_hand() => return Err(OperatorError::NotByHand),
                    Some(_) => named,
                }
            }
        };
        let mut taken = Vec::new();
        for mut grant in meant.into_iter().filter(|grant| grant.status == GrantStatus::Active) {
            let effect = Effect::TakeByHand(grant.source.clone());
            if self.by_hand(user, effect, remark.clone()).await? == Outcome::Applied {
                grant.status = GrantStatus::Revoked;
                taken.push(grant);
            }
        }
        Ok(taken)
    }

    /// How a user's entitlement changed: at most `limit` changes, the newest first, before version `before` where there is one.
    ///
    /// # Errors
    /// [`OperatorError::Ledger`].
    pub async fn history(
        &self,
        user: UserId,
        before: Option<u64>,
        limit: u32,
    ) -> Result<Vec<HistoryEntry>, OperatorError> {
        Ok(self.ledger.history(user, before, limit).await?)
    }

    async fn by_hand(&self, user: UserId, effect: Effect, remark: Remark) -> Result<Outcome, OperatorError> {
        let change = Change { user, found_by: None, cause: Cause::Operator(remark), effect };
        Ok(self.entitlements.apply(change).await?)
    }
}
