-- Every checkpoint is an entry of the log, which its row repeats (ledger/checkpoint_entries.py).

COMMENT ON COLUMN checkpoints.signed_at IS 'when it was stored, as its entry says it';

-- Checkpoints signed before this one are recorded as they are now, so that no row needs an excuse and none can go from
-- here on. What was done to them earlier shows as far as it ever did: roots and notes by their signatures; a row that was
-- deleted, or a time that was changed, before the log knew of it, does not.
-- Nobody stores another one meanwhile: who knows of entries waits for the log's lock, who does not for the table's.
DO $$
DECLARE
    v_payload text;
BEGIN
    PERFORM take_log_lock();
    LOCK TABLE checkpoints IN SHARE MODE;
    FOR v_payload IN
        SELECT format('{"note":%s,"root":"%s","signed_at_us":%s,"size":%s}', to_json(c.note), encode(c.root, 'hex'),
                      (extract(epoch FROM c.signed_at) * 1000000)::bigint, c.size)
        FROM checkpoints c ORDER BY c.size
    LOOP
        PERFORM write_entry('checkpoint_signed', 'migration', 'signed before checkpoints were entries', v_payload, 0,
                            sha256(''::bytea));
    END LOOP;
END $$;
