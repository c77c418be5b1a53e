//! Tollgate: Stripe payments in, entitlements out.
