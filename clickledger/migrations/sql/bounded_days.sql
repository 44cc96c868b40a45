-- Creates the partitions of one UTC day where they are missing; true when it created any. A detached day stays detached.
-- A day before 2010 has none of its own, since its clicks share the `undated` ones, and none has five digits in its year:
-- whoever may make days could make ones that no click has, and that retention could not name.
CREATE OR REPLACE FUNCTION ensure_day(p_day date) RETURNS boolean
    LANGUAGE plpgsql SET search_path = public, pg_temp AS $$
DECLARE
    v_suffix text := to_char(p_day, 'YYYYMMDD');
    v_from_ms bigint;
    v_detached bigint;
    v_parent text;
BEGIN
    IF p_day IS NULL OR p_day < '2010-01-01' OR p_day > '9999-12-31' THEN
        RAISE EXCEPTION 'day: expected one from 2010-01-01 to 9999-12-31, got %', p_day USING ERRCODE = '22023';
    END IF;
    v_from_ms := extract(epoch FROM p_day::timestamp)::bigint * 1000;
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
