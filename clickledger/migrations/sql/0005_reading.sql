-- How the ledger is read: exactly one authoritative decision per click, now or as of any position.

CREATE VIEW authoritative_decisions AS
    SELECT d.*, NULL::bigint AS run_id
    FROM decisions d JOIN authority a ON a.run_id IS NULL AND d.log_position <@ a.positions
    WHERE upper_inf(a.in_force)
    UNION ALL
    SELECT d.click_id, d.log_position, d.line, d.advertiser_id, d.campaign_id, d.cost_micros, d.currency, d.slice,
           d.deployment_epoch, d.model_version, d.calibration_version, d.score, d.threshold, d.verdict, d.reason, d.carried, d.run_id
    FROM delayed_decisions d JOIN authority a ON a.run_id = d.run_id AND d.log_position <@ a.positions
    WHERE upper_inf(a.in_force);

-- What a reader at log position p_position was told.
CREATE FUNCTION authoritative_decisions_as_of(p_position bigint) RETURNS SETOF authoritative_decisions
    LANGUAGE sql STABLE AS $$
    SELECT d.*, NULL::bigint
    FROM decisions d JOIN authority a ON a.run_id IS NULL AND d.log_position <@ a.positions
    WHERE a.in_force @> p_position AND d.log_position <= p_position
    UNION ALL
    SELECT d.click_id, d.log_position, d.line, d.advertiser_id, d.campaign_id, d.cost_micros, d.currency, d.slice,
           d.deployment_epoch, d.model_version, d.calibration_version, d.score, d.threshold, d.verdict, d.reason, d.carried, d.run_id
    FROM delayed_decisions d JOIN authority a ON a.run_id = d.run_id AND d.log_position <@ a.positions
    WHERE a.in_force @> p_position $$;

-- The decision in force for one click; no row when the click is unknown.
CREATE FUNCTION decision_of(p_click_id uuid) RETURNS SETOF authoritative_decisions
    LANGUAGE plpgsql STABLE AS $$
DECLARE
    v_position bigint;
    v_run_id bigint;
BEGIN
    SELECT d.log_position INTO v_position FROM decisions d WHERE d.click_id = p_click_id;
    IF NOT FOUND THEN
        RETURN;
    END IF;
    SELECT a.run_id INTO STRICT v_run_id FROM authority a WHERE a.positions @> v_position AND upper_inf(a.in_force);
    IF v_run_id IS NULL THEN
        RETURN QUERY SELECT d.*, NULL::bigint FROM decisions d WHERE d.click_id = p_click_id;
    ELSE
        RETURN QUERY
            SELECT d.click_id, d.log_position, d.line, d.advertiser_id, d.campaign_id, d.cost_micros, d.currency, d.slice,
                   d.deployment_epoch, d.model_version, d.calibration_version, d.score, d.threshold, d.verdict, d.reason, d.carried, d.run_id
            FROM delayed_decisions d WHERE d.click_id = p_click_id AND d.run_id = v_run_id;
    END IF;
END $$;

-- The month, UTC, in which an entry was recorded: what a late charge or a reversal posts to when its own month is closed.
CREATE FUNCTION recorded_period(p_position bigint) RETURNS text
    LANGUAGE sql STABLE AS $$
    SELECT to_char(recorded_at AT TIME ZONE 'UTC', 'YYYY-MM') FROM log WHERE position = p_position $$;

-- One feed in one order (position, line): charges as decided, then what publications and reverts changed.
-- A back-charge into a period that is closed by then does not post; it is written off, in its own column. What was written
-- off is taken back in that column too: nobody is credited for what was never charged. For a reversal that is so when the
-- charge it takes back was lifted by a later layer and restored, by that layer's revert, after the period was closed.
CREATE VIEW billing_entries AS
    SELECT d.log_position AS position, d.line::bigint AS line, 'charge' AS entry_kind, d.click_id, d.advertiser_id, d.campaign_id,
           d.currency, d.cost_micros AS amount_micros, 0::bigint AS write_off_micros, NULL::verdict AS from_verdict,
           d.verdict AS to_verdict, o.period AS original_period,
           CASE WHEN b.period IS NULL THEN o.period ELSE recorded_period(d.log_position) END AS posting_period,
           NULL::bigint AS run_id
    FROM decisions d
    CROSS JOIN LATERAL (SELECT click_period(d.click_id) AS period) o
    LEFT JOIN billing_periods b ON b.period = o.period AND b.closed_position < d.log_position
    WHERE d.verdict = 'valid'
    UNION ALL
    SELECT p.position, a.line, 'adjustment', a.click_id, a.advertiser_id, a.campaign_id, a.currency, a.amount_micros,
           a.write_off_micros, a.from_verdict, a.to_verdict, a.original_period, a.posting_period, p.run_id
    FROM publications p JOIN comparisons c USING (comparison_id) JOIN adjustments a USING (adjustment_set)
    UNION ALL
    SELECT p.reverted_position, a.line, 'reversal', a.click_id, a.advertiser_id, a.campaign_id, a.currency,
           CASE WHEN closed.written_off THEN 0 ELSE -a.amount_micros END,
           CASE WHEN closed.written_off THEN -a.amount_micros ELSE -a.write_off_micros END,
           a.to_verdict, a.from_verdict, a.original_period,
           CASE WHEN b.period IS NULL THEN a.original_period ELSE recorded_period(p.reverted_position) END, p.run_id
    FROM publications p JOIN comparisons c USING (comparison_id) JOIN adjustments a USING (adjustment_set)
    LEFT JOIN billing_periods b ON b.period = a.original_period AND b.closed_position < p.reverted_position
    CROSS JOIN LATERAL (
        SELECT CASE
            WHEN b.period IS NULL OR a.amount_micros = 0 THEN false
            WHEN a.amount_micros < 0 THEN true
            ELSE EXISTS (
                SELECT 1 FROM adjustments l JOIN comparisons lc USING (adjustment_set) JOIN publications lp USING (comparison_id)
                WHERE l.click_id = a.click_id AND l.amount_micros < 0 AND lp.position > p.position
                  AND lp.reverted_position > b.closed_position AND lp.reverted_position < p.reverted_position)
            END AS written_off) closed
    WHERE p.reverted_position IS NOT NULL;
