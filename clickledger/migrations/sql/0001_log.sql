-- The log: one append-only, totally ordered table. Position order is commit order.

CREATE FUNCTION length_prefixed(b bytea) RETURNS bytea
    LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE AS $$ SELECT int4send(octet_length(b)) || b $$;

CREATE TABLE log (
    position       bigint PRIMARY KEY CHECK (position > 0),
    kind           text NOT NULL CHECK (kind <> ''),
    recorded_at    timestamptz NOT NULL CHECK (recorded_at = date_trunc('milliseconds', recorded_at)),
    actor          text NOT NULL CHECK (actor <> ''),
    reason         text NOT NULL,
    payload        text NOT NULL,
    row_count      integer NOT NULL CHECK (row_count >= 0),
    content_digest bytea NOT NULL CHECK (octet_length(content_digest) = 32),
    chain_hash     bytea NOT NULL CHECK (octet_length(chain_hash) = 32)
);
CREATE INDEX log_kind ON log (kind, position) WHERE kind <> 'clicks_decided';

-- One 32-byte leaf per row of a batch entry, in line order; log.content_digest = sha256(leaves).
CREATE TABLE leaves (
    position bigint PRIMARY KEY,
    leaves   bytea NOT NULL CHECK (octet_length(leaves) > 0 AND octet_length(leaves) % 32 = 0)
);
ALTER TABLE leaves ALTER COLUMN leaves SET STORAGE EXTERNAL;  -- hashes do not compress

-- Serialises every writer of the log until it commits. It must be a statement of its own, before the one that reads
-- the last entry: under READ COMMITTED the next statement then sees everything committed before the lock was granted.
CREATE FUNCTION take_log_lock() RETURNS void
    LANGUAGE plpgsql AS $$
BEGIN
    IF current_setting('transaction_isolation') <> 'read committed' THEN
        RAISE EXCEPTION 'the log is written under read committed, got %', current_setting('transaction_isolation')
            USING ERRCODE = 'CL003';
    END IF;
    PERFORM pg_advisory_xact_lock(7163956285231296103);
END $$;

-- The one writer of log entries and of chain hashes. The caller holds the log lock.
-- chain_hash = sha256(domain, position, kind, recorded_at ms, actor, reason, payload, row_count, content_digest, previous hash).
CREATE FUNCTION write_entry(
    p_kind text, p_actor text, p_reason text, p_payload text, p_row_count integer, p_content_digest bytea,
    OUT "position" bigint, OUT recorded_at timestamptz, OUT chain_hash bytea)
    LANGUAGE plpgsql AS $$
DECLARE
    v_last log;
BEGIN
    SELECT * INTO v_last FROM log l ORDER BY l.position DESC LIMIT 1;
    "position" := coalesce(v_last.position, 0) + 1;
    recorded_at := greatest(date_trunc('milliseconds', clock_timestamp()), v_last.recorded_at);
    chain_hash := sha256(
        'clickledger:entry:1'::bytea
        || int8send("position")
        || length_prefixed(convert_to(p_kind, 'UTF8'))
        || int8send((extract(epoch FROM recorded_at) * 1000)::bigint)
        || length_prefixed(convert_to(p_actor, 'UTF8'))
        || length_prefixed(convert_to(p_reason, 'UTF8'))
        || length_prefixed(convert_to(p_payload, 'UTF8'))
        || int8send(p_row_count)
        || length_prefixed(p_content_digest)
        || coalesce(v_last.chain_hash, '\x0000000000000000000000000000000000000000000000000000000000000000'));
    INSERT INTO log VALUES ("position", p_kind, recorded_at, p_actor, p_reason, p_payload, p_row_count, p_content_digest, chain_hash);
END $$;

CREATE FUNCTION refuse_change() RETURNS trigger
    LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'history is never changed: % on % refused', TG_OP, TG_TABLE_NAME USING ERRCODE = 'CL004';
END $$;

-- Refuses UPDATE, DELETE and TRUNCATE. A parent's row triggers are cloned to its partitions, its TRUNCATE trigger is not:
-- call it for every leaf partition too, with only_truncate.
CREATE FUNCTION make_history(p_table regclass, only_truncate boolean DEFAULT false) RETURNS void
    LANGUAGE plpgsql AS $$
BEGIN
    IF NOT only_truncate THEN
        EXECUTE format('CREATE TRIGGER refuse_change BEFORE UPDATE OR DELETE ON %s FOR EACH ROW EXECUTE FUNCTION refuse_change()', p_table);
    END IF;
    EXECUTE format('CREATE TRIGGER refuse_truncate BEFORE TRUNCATE ON %s FOR EACH STATEMENT EXECUTE FUNCTION refuse_change()', p_table);
END $$;

SELECT make_history('log');
SELECT make_history('leaves');
