-- What roles that own nothing need: entries written for them, kind by kind, and index upkeep. Who may call what is said
-- in ledger/rights.py; SECURITY DEFINER, search_path and grants are put on from there after every migration.

-- Kinds of entries a role may record.
CREATE TABLE entry_rights (
    kind    text NOT NULL CHECK (kind <> ''),
    grantee text NOT NULL,
    PRIMARY KEY (kind, grantee)
);

-- A control entry, with the leaves of the rows written beside it (32 bytes each; '' for none). The caller holds the log
-- lock. Runs as the owner: the caller is who logged in, or the role they took. write_entry itself is nobody's to call,
-- lest a worker record a rollback, or a batch that was never appended.
CREATE FUNCTION record_entry(
    p_kind text, p_actor text, p_reason text, p_payload text, p_leaves bytea,
    OUT "position" bigint, OUT recorded_at timestamptz, OUT chain_hash bytea)
    LANGUAGE plpgsql AS $$
DECLARE
    v_caller name := coalesce(nullif(current_setting('role'), 'none'), session_user);
BEGIN
    IF NOT pg_has_role(v_caller, current_user, 'USAGE') AND NOT EXISTS (
        SELECT FROM entry_rights r WHERE r.kind = p_kind AND pg_has_role(v_caller, r.grantee::name, 'USAGE')) THEN
        RAISE EXCEPTION 'role % may not record an entry of kind %', v_caller, p_kind USING ERRCODE = '42501';
    END IF;
    SELECT w.position, w.recorded_at, w.chain_hash INTO "position", recorded_at, chain_hash
    FROM write_entry(p_kind, p_actor, p_reason, p_payload, octet_length(p_leaves) / 32, sha256(p_leaves)) w;
    IF p_leaves <> '' THEN
        INSERT INTO leaves VALUES ("position", p_leaves);
    END IF;
END $$;

-- Summarises new block ranges of clicks and decisions, how many; PostgreSQL lets only their owner do it.
CREATE FUNCTION summarise_block_ranges() RETURNS bigint
    LANGUAGE sql VOLATILE AS $$
    SELECT coalesce(sum(brin_summarize_new_values(i.indexrelid)), 0)::bigint
    FROM unnest(ARRAY['clicks', 'decisions']::regclass[]) parent
    CROSS JOIN LATERAL pg_partition_tree(parent) t
    JOIN pg_index i ON i.indrelid = t.relid JOIN pg_class c ON c.oid = i.indexrelid JOIN pg_am a ON a.oid = c.relam
    WHERE t.isleaf AND a.amname = 'brin' $$;
