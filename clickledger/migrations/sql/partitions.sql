-- Days of clicks and decisions: attached ahead of their rows, frozen when over, and detached when retention allows.

-- Builds one partition aside and attaches it. The CHECK says what the bounds will, so ATTACH need not look at rows; it goes
-- once that is done, since every insert would pay for it. What the steps lock: the parent in ACCESS SHARE (LIKE) and SHARE
-- UPDATE EXCLUSIVE (ATTACH), neither of which waits for readers or appenders or makes them wait; all else is new and unseen.
CREATE OR REPLACE FUNCTION attach_partition(p_parent text, p_suffix text, p_from text, p_to text) RETURNS void
    LANGUAGE plpgsql SET search_path = public, pg_temp AS $$
DECLARE
    v_name text := p_parent || '_' || p_suffix;
BEGIN
    EXECUTE format('CREATE TABLE %I (LIKE %I INCLUDING ALL)', v_name, p_parent);
    IF p_from <> 'MINVALUE' THEN
        EXECUTE format('ALTER TABLE %I ADD CONSTRAINT aside CHECK (click_id >= %s AND click_id < %s)', v_name, p_from, p_to);
    END IF;
    PERFORM make_history(v_name::regclass, only_truncate => true);
    EXECUTE format('ALTER TABLE %I ATTACH PARTITION %I FOR VALUES FROM (%s) TO (%s)', p_parent, v_name, p_from, p_to);
    EXECUTE format('ALTER TABLE %I DROP CONSTRAINT IF EXISTS aside', v_name);
END $$;

-- Legal holds: no day in one is detached or dropped. A fold of legal_hold_set and legal_hold_released.
CREATE TABLE legal_holds (
    hold_id           bigint PRIMARY KEY,    -- position of its legal_hold_set entry
    first_day         date NOT NULL,
    last_day          date NOT NULL,
    released_position bigint,
    CHECK (first_day <= last_day)
);

-- What a day takes with it when it is detached, computed aside and named by a digest; in effect through detached_days only.
CREATE TABLE departures (
    departure uuid PRIMARY KEY,
    seqs      int8multirange NOT NULL        -- counting numbers of its clicks
);
SELECT make_history('departures');

CREATE TABLE departed_rows (
    departure    uuid NOT NULL,
    run_id       bigint NOT NULL,            -- 0 = live
    log_position bigint NOT NULL,
    lines        int4multirange NOT NULL,
    leaves       bytea NOT NULL,             -- of delayed decisions, in line order; those of live rows are in `leaves`
    PRIMARY KEY (departure, run_id, log_position),
    CHECK (octet_length(leaves) = 0 OR run_id > 0)
);
CREATE INDEX departed_rows_run ON departed_rows (run_id, log_position);
SELECT make_history('departed_rows');

-- `source` is the table whose rows decided: detaching its day takes the sums out of what can still be summed.
CREATE TABLE departed_totals (
    departure        uuid NOT NULL,
    source           text NOT NULL CHECK (source IN ('decisions', 'delayed_decisions')),
    advertiser_id    text NOT NULL,
    campaign_id      text NOT NULL,
    currency         text NOT NULL,
    clicks           bigint NOT NULL,
    valid            bigint NOT NULL,
    invalid          bigint NOT NULL,
    undecided        bigint NOT NULL,
    billed_micros    bigint NOT NULL,        -- by authoritative decisions
    undecided_micros bigint NOT NULL,
    charged_micros   bigint NOT NULL,        -- told by the feed's charges; adjustments stay where they are
    PRIMARY KEY (departure, source, advertiser_id, campaign_id, currency)
);
SELECT make_history('departed_totals');

-- A fold of day_detached and day_dropped.
CREATE TABLE detached_days (
    day              date PRIMARY KEY,
    position         bigint NOT NULL UNIQUE, -- of its day_detached entry
    departure        uuid NOT NULL UNIQUE,
    digest           bytea NOT NULL,
    clicks           bigint NOT NULL,
    delayed          bigint NOT NULL,
    first_position   bigint NOT NULL,        -- of its rows
    last_position    bigint NOT NULL,
    settled_position bigint NOT NULL,        -- nothing changed what is authoritative for it after this entry
    dropped_position bigint
);

-- Tables whose partition of a detached day is out of their sight; between day_detached and the last DETACH, some are not.
CREATE VIEW gone_partitions AS
    SELECT d.day, d.departure, d.position, d.first_position, d.last_position, d.settled_position, d.clicks, d.delayed, t.parent
    FROM detached_days d CROSS JOIN (VALUES ('clicks'), ('decisions'), ('delayed_decisions')) t (parent)
    WHERE NOT EXISTS (
        SELECT 1 FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
        WHERE i.inhparent = t.parent::regclass AND c.relname = t.parent || '_' || to_char(d.day, 'YYYYMMDD')
          AND NOT i.inhdetachpending);

-- Charges that the feed told, and what decisions billed, of rows that are gone.
CREATE VIEW departed_money AS
    SELECT t.advertiser_id, t.campaign_id, t.currency, sum(t.charged_micros)::bigint AS told, sum(t.billed_micros)::bigint AS billed
    FROM departed_totals t JOIN gone_partitions g ON g.departure = t.departure AND g.parent = t.source
    GROUP BY 1, 2, 3;

-- Creates the partitions of one UTC day where they are missing; true when it created any. A detached day stays detached.
CREATE OR REPLACE FUNCTION ensure_day(p_day date) RETURNS boolean
    LANGUAGE plpgsql SET search_path = public, pg_temp AS $$
DECLARE
    v_suffix text := to_char(p_day, 'YYYYMMDD');
    v_from_ms bigint := extract(epoch FROM p_day::timestamp)::bigint * 1000;
    v_detached bigint;
    v_parent text;
BEGIN
    PERFORM pg_advisory_xact_lock(7163956285231296104);
    SELECT d.position INTO v_detached FROM detached_days d WHERE d.day = p_day;
    IF FOUND THEN
        RAISE EXCEPTION 'click of %: that day was detached at position % under retention and takes no more', p_day, v_detached
            USING ERRCODE = '22023';
    END IF;
    IF to_regclass('delayed_decisions_' || v_suffix) IS NOT NULL THEN
        RETURN false;
    END IF;
    FOREACH v_parent IN ARRAY ARRAY['clicks', 'decisions', 'delayed_decisions'] LOOP
        PERFORM attach_partition(v_parent, v_suffix, quote_literal(smallest_click_id(v_from_ms)),
                                 quote_literal(smallest_click_id(v_from_ms + 86400000)));
    END LOOP;
    RETURN true;
END $$;

-- Rows of a sealed partition are final. The parents' own triggers leave it with the detach; this one stays.
CREATE FUNCTION refuse_sealed() RETURNS trigger
    LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'INSERT' THEN
        RAISE EXCEPTION '% takes no more rows: its day is being detached under retention', TG_TABLE_NAME USING ERRCODE = '22023';
    END IF;
    RAISE EXCEPTION 'history is never changed: % on % refused', TG_OP, TG_TABLE_NAME USING ERRCODE = 'CL004';
END $$;

-- Seals the partitions of a day, or opens them again. CREATE TRIGGER waits for transactions that write to them, not for
-- readers; who would write meanwhile waits too, so the caller sets a lock_timeout.
CREATE FUNCTION seal_day(p_day date, p_sealed boolean) RETURNS void
    LANGUAGE plpgsql SET search_path = public, pg_temp AS $$
DECLARE
    v_name text;
    v_is boolean;
BEGIN
    FOREACH v_name IN ARRAY ARRAY['clicks_', 'decisions_', 'delayed_decisions_'] LOOP
        v_name := v_name || to_char(p_day, 'YYYYMMDD');
        SELECT t.tgenabled <> 'D' INTO v_is FROM pg_trigger t WHERE t.tgrelid = v_name::regclass AND t.tgname = 'sealed';
        IF coalesce(v_is, false) = p_sealed THEN
            CONTINUE;
        ELSIF v_is IS NULL THEN
            EXECUTE format('CREATE TRIGGER sealed BEFORE INSERT OR UPDATE OR DELETE ON %I FOR EACH ROW EXECUTE FUNCTION refuse_sealed()', v_name);
        ELSE  -- DISABLE lets readers be, DROP TRIGGER would not
            EXECUTE format('ALTER TABLE %I %s TRIGGER sealed', v_name, CASE WHEN p_sealed THEN 'ENABLE' ELSE 'DISABLE' END);
        END IF;
    END LOOP;
END $$;

-- Partitions that were frozen when they had this size. Growth since then means late rows.
CREATE TABLE frozen_partitions (
    name      text PRIMARY KEY,
    bytes     bigint NOT NULL,
    frozen_at timestamptz NOT NULL
);
