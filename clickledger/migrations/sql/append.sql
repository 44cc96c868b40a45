-- Appends and imports: what both check under the log lock, and appends that look ids up in their own days only.

-- Fencing: only new rows are refused, so an honest retry after a rollback is answered as a repeat. Under the log lock.
CREATE FUNCTION check_epochs(p_deployment_epoch integer, p_counter_epoch integer) RETURNS void
    LANGUAGE plpgsql AS $$
DECLARE
    v_revoked bigint;
    v_epoch integer;
BEGIN
    SELECT d.revoked_position INTO v_revoked FROM deployments d WHERE d.epoch = p_deployment_epoch;
    IF NOT FOUND OR v_revoked IS NOT NULL THEN
        SELECT max(d.epoch) INTO v_epoch FROM deployments d;
        RAISE EXCEPTION 'expected deployment epoch %, got % which %', v_epoch, p_deployment_epoch,
            CASE WHEN v_revoked IS NULL THEN 'was never deployed' ELSE format('was revoked at position %s', v_revoked) END
            USING ERRCODE = 'CL001', DETAIL = v_epoch::text;
    END IF;
    SELECT max(c.counter_epoch) INTO v_epoch FROM counter_epochs c;
    IF p_counter_epoch <> v_epoch THEN
        RAISE EXCEPTION 'expected counter epoch %, got %', v_epoch, p_counter_epoch USING ERRCODE = 'CL002', DETAIL = v_epoch::text;
    END IF;
END $$;

-- Where the rows of an import go, when its epochs may still be appended. The caller holds the log lock and copies them in.
CREATE FUNCTION import_position(p_deployment_epoch integer, p_counter_epoch integer) RETURNS bigint
    LANGUAGE plpgsql AS $$
BEGIN
    PERFORM check_epochs(p_deployment_epoch, p_counter_epoch);
    RETURN (SELECT coalesce(max(l.position), 0) + 1 FROM log l);
END $$;

-- A repeat tells the sender that its click is safe, so it may wait for synchronous standbys as the first answer did: only
-- a transaction that writes does, and its commit waits for all that was written before it.
CREATE FUNCTION await_standbys() RETURNS void
    LANGUAGE plpgsql AS $$
BEGIN
    IF current_setting('synchronous_standby_names') <> '' THEN
        PERFORM pg_logical_emit_message(true, 'clickledger', 'answered as repeats');
    END IF;
END $$;

-- The client sends rows in click id order without repeated ids, and one 32-byte leaf per row.
-- new_ordinals: ordinals (from 1) of the rows that were new, NULL when all were; position NULL when none was.
-- All rows are new as a rule, so they are inserted unseen, which is cheaper than ON CONFLICT (benchmarks/LOG.md), and a
-- collision makes it look them up: that leaves dead rows behind. p_known_likely makes it look first.
CREATE OR REPLACE FUNCTION append_batch(
    p_actor text, p_deployment_epoch integer, p_counter_epoch integer, p_feature_schema integer,
    p_rows decided_click[], p_leaves bytea, p_known_likely boolean,
    OUT "position" bigint, OUT recorded_at timestamptz, OUT new_count integer, OUT new_ordinals integer[])
    LANGUAGE plpgsql
    -- plans are cached per session, perhaps made while the tables were empty: pin what is right at every size
    SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off SET plan_cache_mode = force_generic_plan
    AS $$
DECLARE
    v_position bigint;
    v_look boolean := p_known_likely;
    v_ids uuid[];
    v_known uuid[];
BEGIN
    PERFORM take_log_lock();
    SELECT coalesce(max(l.position), 0) + 1 INTO v_position FROM log l;

    LOOP
        IF v_look THEN
            v_ids := ARRAY(SELECT u.click_id FROM unnest(p_rows) u);
            -- planned with these very bounds: a cached plan would lock every day there is, whatever it prunes later
            EXECUTE 'SELECT array_agg(c.click_id) FROM clicks c WHERE c.click_id = ANY ($1) AND c.click_id BETWEEN $2 AND $3'
            INTO v_known USING v_ids, v_ids[1], v_ids[cardinality(v_ids)];
            IF cardinality(v_known) = cardinality(v_ids) THEN
                PERFORM await_standbys();
                new_count := 0;
                RETURN;
            END IF;
            IF v_known IS NOT NULL THEN
                new_ordinals := ARRAY(SELECT o FROM generate_subscripts(v_ids, 1) o WHERE v_ids[o] <> ALL (v_known) ORDER BY o);
                p_rows := ARRAY(SELECT p_rows[o] FROM unnest(new_ordinals) o ORDER BY o);
                SELECT string_agg(substr(p_leaves, (o - 1) * 32 + 1, 32), ''::bytea ORDER BY o) INTO p_leaves FROM unnest(new_ordinals) o;
            END IF;
        END IF;
        BEGIN
            INSERT INTO clicks (click_id, log_position, source, external_id, user_key, session_key, ip_key, device,
                                device_kind, advertiser_id, campaign_id, cost_micros, currency, logged_in, slice,
                                intake_digest, features, feature_schema, counter_epoch, seq)
            SELECT u.click_id, v_position, u.source, u.external_id, u.user_key, u.session_key, u.ip_key, u.device,
                   u.device_kind, u.advertiser_id, u.campaign_id, u.cost_micros, u.currency, u.logged_in, u.slice,
                   u.intake_digest, u.features, p_feature_schema, p_counter_epoch, u.seq
            FROM unnest(p_rows) u;
            EXIT;
        EXCEPTION WHEN unique_violation THEN
            IF v_look THEN  -- the lock keeps everyone else out, so nothing came between looking and inserting
                RAISE EXCEPTION 'expected every click id once in a batch: %', SQLERRM USING ERRCODE = 'CL003';
            END IF;
            v_look := true;
        END;
    END LOOP;
    new_count := cardinality(p_rows);

    PERFORM check_epochs(p_deployment_epoch, p_counter_epoch);

    INSERT INTO decisions (click_id, log_position, line, advertiser_id, campaign_id, cost_micros, currency, slice,
                           deployment_epoch, model_version, calibration_version, score, threshold, verdict, reason, carried)
    SELECT u.click_id, v_position, u.ordinality - 1, u.advertiser_id, u.campaign_id, u.cost_micros, u.currency, u.slice,
           p_deployment_epoch, u.model_version, u.calibration_version, u.score, u.threshold, u.verdict, u.reason, false
    FROM unnest(p_rows) WITH ORDINALITY u;

    INSERT INTO leaves VALUES (v_position, p_leaves);
    SELECT w.position, w.recorded_at INTO "position", recorded_at
    FROM write_entry('clicks_decided', p_actor, '', '{}', new_count, sha256(p_leaves)) w;
END $$;
