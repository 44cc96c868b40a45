-- Clicks with their feature snapshots, and decisions, live and delayed; partitioned by the day in the UUIDv7 click id.

CREATE TYPE verdict AS ENUM ('valid', 'invalid', 'undecided');

CREATE TABLE clicks (
    click_id       uuid NOT NULL PRIMARY KEY,
    log_position   bigint NOT NULL,
    source         text NOT NULL,
    external_id    text NOT NULL,
    user_key       uuid NOT NULL,
    session_key    uuid NOT NULL,
    ip_key         uuid NOT NULL,
    device         text NOT NULL,
    device_kind    text NOT NULL,
    advertiser_id  text NOT NULL,
    campaign_id    text NOT NULL,
    cost_micros    bigint NOT NULL CHECK (cost_micros >= 0),
    currency       text NOT NULL,
    logged_in      boolean,
    slice          text NOT NULL,
    intake_digest  bytea NOT NULL,
    features       bytea NOT NULL,     -- int32 little-endian, named by feature_schema
    feature_schema integer NOT NULL,
    counter_epoch  integer NOT NULL,
    seq            bigint NOT NULL     -- counting order; 0 = not counted
) PARTITION BY RANGE (click_id);

CREATE TABLE decisions (
    click_id            uuid NOT NULL PRIMARY KEY,
    log_position        bigint NOT NULL,
    line                integer NOT NULL,   -- ordinal in its batch entry, from 0
    advertiser_id       text NOT NULL,
    campaign_id         text NOT NULL,
    cost_micros         bigint NOT NULL,
    currency            text NOT NULL,
    slice               text NOT NULL,
    deployment_epoch    integer NOT NULL,
    model_version       integer NOT NULL,
    calibration_version integer NOT NULL,
    score               real NOT NULL,      -- logit of "robotic"; NaN = not scored
    threshold           real NOT NULL,
    verdict             verdict NOT NULL,
    reason              text NOT NULL,
    carried             boolean NOT NULL
) PARTITION BY RANGE (click_id);

CREATE TABLE delayed_decisions (
    click_id            uuid NOT NULL,
    log_position        bigint NOT NULL,    -- of the click's own entry
    line                integer NOT NULL,
    advertiser_id       text NOT NULL,
    campaign_id         text NOT NULL,
    cost_micros         bigint NOT NULL,
    currency            text NOT NULL,
    slice               text NOT NULL,
    deployment_epoch    integer NOT NULL,
    model_version       integer NOT NULL,
    calibration_version integer NOT NULL,
    score               real NOT NULL,
    threshold           real NOT NULL,
    verdict             verdict NOT NULL,
    reason              text NOT NULL,
    carried             boolean NOT NULL,   -- copied from the decision in force, not re-decided
    run_id              bigint NOT NULL,
    PRIMARY KEY (click_id, run_id)
) PARTITION BY RANGE (click_id);

-- Rows arrive in position order within a partition, so a block-range index finds a range at almost no cost to appends.
CREATE INDEX clicks_log_position ON clicks USING brin (log_position) WITH (pages_per_range = 16, autosummarize = on);
CREATE INDEX decisions_log_position ON decisions USING brin (log_position) WITH (pages_per_range = 16, autosummarize = on);
CREATE INDEX delayed_decisions_run ON delayed_decisions (run_id, log_position);

SELECT make_history('clicks');
SELECT make_history('decisions');
SELECT make_history('delayed_decisions');

-- Event time of a UUIDv7, milliseconds since 1970 (uuid_extract_timestamp needs PostgreSQL 17).
CREATE FUNCTION click_time_ms(click_id uuid) RETURNS bigint
    LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE AS $$
    SELECT ('x0000' || substr(replace(click_id::text, '-', ''), 1, 12))::bit(64)::bigint $$;

CREATE FUNCTION click_time(click_id uuid) RETURNS timestamptz
    LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE AS $$
    SELECT timestamptz 'epoch' + click_time_ms(click_id) * interval '1 millisecond' $$;

-- Billing period of a click: the month of its event time, UTC.
CREATE FUNCTION click_period(click_id uuid) RETURNS text
    LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE AS $$
    SELECT to_char(click_time(click_id) AT TIME ZONE 'UTC', 'YYYY-MM') $$;

CREATE FUNCTION smallest_click_id(at_ms bigint) RETURNS uuid
    LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE AS $$
    SELECT rpad(lpad(to_hex(at_ms), 12, '0'), 32, '0')::uuid $$;

-- Builds one partition aside and attaches it: ATTACH holds appends of other days up no longer than a catalogue change.
CREATE FUNCTION attach_partition(p_parent text, p_suffix text, p_from text, p_to text) RETURNS void
    LANGUAGE plpgsql AS $$
DECLARE
    v_name text := p_parent || '_' || p_suffix;
BEGIN
    EXECUTE format('CREATE TABLE %I (LIKE %I INCLUDING ALL)', v_name, p_parent);
    EXECUTE format('ALTER TABLE %I ATTACH PARTITION %I FOR VALUES FROM (%s) TO (%s)', p_parent, v_name, p_from, p_to);
    PERFORM make_history(v_name::regclass, only_truncate => true);
END $$;

-- Creates the partitions of one UTC day where they are missing; true when it created any.
CREATE FUNCTION ensure_day(p_day date) RETURNS boolean
    LANGUAGE plpgsql AS $$
DECLARE
    v_suffix text := to_char(p_day, 'YYYYMMDD');
    v_from_ms bigint := extract(epoch FROM p_day::timestamp)::bigint * 1000;
    v_parent text;
BEGIN
    PERFORM pg_advisory_xact_lock(7163956285231296104);
    IF to_regclass('delayed_decisions_' || v_suffix) IS NOT NULL THEN
        RETURN false;
    END IF;
    FOREACH v_parent IN ARRAY ARRAY['clicks', 'decisions', 'delayed_decisions'] LOOP
        PERFORM attach_partition(v_parent, v_suffix, quote_literal(smallest_click_id(v_from_ms)),
                                 quote_literal(smallest_click_id(v_from_ms + 86400000)));
    END LOOP;
    RETURN true;
END $$;

-- Ids before genesis go to a fixed partition; there is no default one, in which a stray row would block creating its day.
SELECT attach_partition(parent, 'undated', 'MINVALUE', quote_literal(smallest_click_id(1262304000000)))
FROM unnest(ARRAY['clicks', 'decisions', 'delayed_decisions']) parent;

-- Purchases and the like that clicks led to: proxy labels.
CREATE TABLE outcomes (
    click_id       uuid NOT NULL,
    kind           text NOT NULL,
    occurred_at_ms bigint NOT NULL,
    value_micros   bigint NOT NULL,
    log_position   bigint NOT NULL,
    line           integer NOT NULL,
    PRIMARY KEY (click_id, kind, occurred_at_ms)
);
CREATE INDEX outcomes_log_position ON outcomes USING brin (log_position) WITH (pages_per_range = 16, autosummarize = on);
SELECT make_history('outcomes');

-- The same click id with other content: first version kept, every other one noted once.
CREATE TABLE conflicts (
    click_id      uuid NOT NULL,
    intake_digest bytea NOT NULL,
    log_position  bigint NOT NULL,
    PRIMARY KEY (click_id, intake_digest)
);
SELECT make_history('conflicts');

-- What a shadow model would have decided: outside the log and its lock.
CREATE TABLE shadow_scores (
    click_id            uuid NOT NULL,
    log_position        bigint NOT NULL,
    deployment_epoch    integer NOT NULL,
    model_version       integer NOT NULL,
    calibration_version integer NOT NULL,
    score               real NOT NULL,
    threshold           real NOT NULL,
    verdict             verdict NOT NULL,
    live_verdict        verdict NOT NULL
);
CREATE INDEX shadow_scores_log_position ON shadow_scores (log_position);
