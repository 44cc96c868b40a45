-- Reading one click, now or as of any log position, and its locks.

-- A plan that is kept for all clicks names every day partition, and locks them all at each call: 400 days would take 2,400
-- locks to read one row. Planning anew prunes to one day and costs less than that.
ALTER FUNCTION decision_of(uuid) SET plan_cache_mode = force_custom_plan;
ALTER FUNCTION decision_of(uuid) ROWS 1;

-- The decision that was in force for one click after the entry at p_position; no row when the click was unknown then.
-- A published run has a row for every click of its range, so the latest of those in force then decides; below all, live.
CREATE FUNCTION decision_of(p_click_id uuid, p_position bigint) RETURNS SETOF authoritative_decisions
    LANGUAGE plpgsql STABLE ROWS 1 SET plan_cache_mode = force_custom_plan AS $$
DECLARE
    v_found authoritative_decisions;
BEGIN
    SELECT d.click_id, d.log_position, d.line, d.advertiser_id, d.campaign_id, d.cost_micros, d.currency, d.slice,
           d.deployment_epoch, d.model_version, d.calibration_version, d.score, d.threshold, d.verdict, d.reason, d.carried, d.run_id
    INTO v_found
    FROM delayed_decisions d
    JOIN publications p ON p.run_id = d.run_id AND p.position <= p_position
     AND (p.reverted_position IS NULL OR p.reverted_position > p_position)
    WHERE d.click_id = p_click_id ORDER BY p.position DESC LIMIT 1;
    IF NOT FOUND THEN
        SELECT d.*, NULL::bigint INTO v_found FROM decisions d
        WHERE d.click_id = p_click_id AND d.log_position <= p_position;
        IF NOT FOUND THEN
            RETURN;
        END IF;
    END IF;
    RETURN NEXT v_found;
END $$;
