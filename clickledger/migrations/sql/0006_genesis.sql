-- The first entry: no model deployed (epoch 0), counters at epoch 1.
DO $$
DECLARE
    v_position bigint;
BEGIN
    PERFORM take_log_lock();
    SELECT w.position INTO v_position
    FROM write_entry('ledger_created', 'migration', 'a new ledger',
                     format('{"counter_epoch":1,"deployment_epoch":0,"ledger_id":"%s"}', gen_random_uuid()), 0, sha256(''::bytea)) w;
    INSERT INTO deployments (epoch, routing, from_position) VALUES (0, '{"routes":[],"shadow":null}', v_position);
    INSERT INTO counter_epochs VALUES (1, v_position);
END $$;
