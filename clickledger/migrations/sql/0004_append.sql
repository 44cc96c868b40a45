-- One call appends a micro-batch: clicks, decisions, leaves and their log entry, idempotently and fenced.
-- The client sends rows in click id order without repeated ids, and one 32-byte leaf per row.
-- new_ordinals: ordinals (from 1) of the rows that were new, NULL when all were; position NULL when none was.
CREATE FUNCTION append_batch(
    p_actor text, p_deployment_epoch integer, p_counter_epoch integer, p_feature_schema integer,
    p_click_id uuid[], p_user_key uuid[], p_session_key uuid[], p_ip_key uuid[], p_cost_micros bigint[],
    p_seq bigint[], p_intake_digest bytea[], p_model_version integer[], p_calibration_version integer[],
    p_score real[], p_threshold real[],
    p_source text[], p_external_id text[], p_device text[], p_device_kind text[], p_advertiser_id text[],
    p_campaign_id text[], p_currency text[], p_logged_in boolean[], p_slice text[], p_features bytea[],
    p_verdict text[], p_reason text[], p_leaves bytea,
    OUT "position" bigint, OUT recorded_at timestamptz, OUT new_count integer, OUT new_ordinals integer[])
    LANGUAGE plpgsql
    -- plans are cached per session, perhaps made while the tables were empty: pin what is right at every size
    SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off SET plan_cache_mode = force_generic_plan
    AS $$
DECLARE
    v_position bigint;
    v_revoked bigint;
    v_epoch integer;
    v_leaves bytea := p_leaves;
BEGIN
    PERFORM take_log_lock();
    SELECT coalesce(max(l.position), 0) + 1 INTO v_position FROM log l;

    INSERT INTO clicks (click_id, log_position, source, external_id, user_key, session_key, ip_key, device, device_kind,
                        advertiser_id, campaign_id, cost_micros, currency, logged_in, slice, intake_digest, features,
                        feature_schema, counter_epoch, seq)
    SELECT u.click_id, v_position, u.source, u.external_id, u.user_key, u.session_key, u.ip_key, u.device, u.device_kind,
           u.advertiser_id, u.campaign_id, u.cost_micros, u.currency, u.logged_in, u.slice, u.intake_digest, u.features,
           p_feature_schema, p_counter_epoch, u.seq
    FROM unnest(p_click_id, p_source, p_external_id, p_user_key, p_session_key, p_ip_key, p_device, p_device_kind,
                p_advertiser_id, p_campaign_id, p_cost_micros, p_currency, p_logged_in, p_slice, p_intake_digest,
                p_features, p_seq)
         AS u (click_id, source, external_id, user_key, session_key, ip_key, device, device_kind,
               advertiser_id, campaign_id, cost_micros, currency, logged_in, slice, intake_digest, features, seq)
    ON CONFLICT (click_id) DO NOTHING;
    GET DIAGNOSTICS new_count = ROW_COUNT;
    IF new_count = 0 THEN
        RETURN;
    END IF;

    -- Fencing: only new rows are refused, so an honest retry after a rollback is answered as a repeat.
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

    IF new_count < cardinality(p_click_id) THEN
        SELECT array_agg(u.ordinal::integer ORDER BY u.ordinal),
               string_agg(substr(p_leaves, (u.ordinal::integer - 1) * 32 + 1, 32), ''::bytea ORDER BY u.ordinal)
        INTO new_ordinals, v_leaves
        FROM unnest(p_click_id) WITH ORDINALITY AS u (click_id, ordinal)
        JOIN clicks c ON c.click_id = u.click_id AND c.log_position = v_position;
    END IF;

    INSERT INTO decisions (click_id, log_position, line, advertiser_id, campaign_id, cost_micros, currency, slice,
                           deployment_epoch, model_version, calibration_version, score, threshold, verdict, reason, carried)
    SELECT u.click_id, v_position,
           CASE WHEN new_ordinals IS NULL THEN u.ordinal ELSE array_position(new_ordinals, u.ordinal::integer) END - 1,
           u.advertiser_id, u.campaign_id, u.cost_micros, u.currency, u.slice,
           p_deployment_epoch, u.model_version, u.calibration_version, u.score, u.threshold, u.verdict::verdict, u.reason, false
    FROM unnest(p_click_id, p_advertiser_id, p_campaign_id, p_cost_micros, p_currency, p_slice, p_model_version,
                p_calibration_version, p_score, p_threshold, p_verdict, p_reason)
         WITH ORDINALITY
         AS u (click_id, advertiser_id, campaign_id, cost_micros, currency, slice, model_version,
               calibration_version, score, threshold, verdict, reason, ordinal)
    WHERE new_ordinals IS NULL OR u.ordinal::integer = ANY (new_ordinals);

    INSERT INTO leaves VALUES (v_position, v_leaves);
    SELECT w.position, w.recorded_at INTO "position", recorded_at
    FROM write_entry('clicks_decided', p_actor, '', '{}', new_count, sha256(v_leaves)) w;
END $$;
