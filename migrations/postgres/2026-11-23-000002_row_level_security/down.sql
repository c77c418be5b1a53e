-- Nothing: opening the ledger to the web is never the way back.
SELECT 1;
