DROP TABLE IF EXISTS stripe_tries;
