//! The few calls to Stripe's API that Tollgate makes, behind types that do not mention async-stripe.
