DROP TABLE stripe_tries;
