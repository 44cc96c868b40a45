-- Sparse corrections: a second kind of run, which re-decides a few clicks anywhere in the log by stated decisions.
--
-- A run over a range is in force as rows of `authority`, a sparse one as rows of `authority_overrides`, one a click. The
-- two are written independently, so that neither publication costs what the other kind holds; where both say something of
-- a click, the later publication decides, which is seen by comparing `published`.

ALTER TABLE replay_runs ADD COLUMN kind text NOT NULL DEFAULT 'range' CHECK (kind IN ('range', 'sparse'));
ALTER TABLE replay_runs DROP CONSTRAINT replay_runs_mode_check;
ALTER TABLE replay_runs ADD CONSTRAINT replay_runs_mode_check
    CHECK (CASE kind WHEN 'range' THEN mode IN ('rescore', 'recompute') ELSE mode = 'stated' END);
ALTER TABLE publications ADD COLUMN kind text NOT NULL DEFAULT 'range' CHECK (kind IN ('range', 'sparse'));

-- Position of the publication by which the piece's run decides; 0 = live.
ALTER TABLE authority ADD COLUMN published bigint NOT NULL DEFAULT 0;
UPDATE authority a SET published = (
    SELECT max(p.position) FROM publications p WHERE p.run_id = a.run_id AND p.position <= lower(a.in_force))
WHERE a.run_id IS NOT NULL;
ALTER TABLE authority ADD CONSTRAINT published_with_its_run CHECK ((run_id IS NULL) = (published = 0));

-- The clicks of each sparse run, beside its decisions: publishing reads them here and opens no day partition.
CREATE TABLE sparse_clicks (
    run_id       bigint NOT NULL,
    click_id     uuid NOT NULL,
    log_position bigint NOT NULL,        -- of the click's own entry
    PRIMARY KEY (run_id, click_id)
);
CREATE INDEX sparse_clicks_positions ON sparse_clicks (run_id, log_position);
SELECT make_history('sparse_clicks');

-- Which sparse run speaks for a click, and when that was so: the latest published of those that stood.
CREATE TABLE authority_overrides (
    click_id     uuid NOT NULL,
    run_id       bigint NOT NULL,
    log_position bigint NOT NULL,        -- of the click's own entry: authority pieces are found by it
    published    bigint NOT NULL,        -- position of the run's publication
    in_force     int8range NOT NULL CHECK (NOT isempty(in_force) AND NOT lower_inf(in_force)),
    CHECK (published <= lower(in_force))
);
-- One override of a click in force now (no end), and none that end together. The trigger below adds: none that overlap.
-- An exclusion constraint says it in one, but takes 190 us a row where this takes 6 (benchmarks/LOG.md).
CREATE UNIQUE INDEX one_override_in_force ON authority_overrides (click_id, upper(in_force)) NULLS NOT DISTINCT;
-- Not a partial one of those in force: scanning all of that looks cheap to a plan made while there were few.
CREATE INDEX authority_overrides_positions ON authority_overrides (log_position);

-- At most one override in force for each click and moment. Writers hold the log lock, so nothing comes in between.
-- Here and below clicks are looked up by an array: a join planned while the tables were small or had no statistics takes
-- seconds when they are not.
CREATE FUNCTION refuse_overlapping_overrides() RETURNS trigger
    LANGUAGE plpgsql
    SET enable_seqscan = off SET plan_cache_mode = force_generic_plan
    AS $$
DECLARE
    v_ids uuid[] := ARRAY(SELECT click_id FROM new_rows);
    v_found record;
BEGIN
    SELECT * INTO v_found FROM (
        SELECT o.click_id, o.run_id, o.in_force, lag(o.run_id) OVER moments AS other, lag(o.in_force) OVER moments AS others
        FROM authority_overrides o WHERE o.click_id = ANY (v_ids)
        WINDOW moments AS (PARTITION BY o.click_id ORDER BY lower(o.in_force))) following
    WHERE in_force && others LIMIT 1;
    IF FOUND THEN
        RAISE EXCEPTION 'click %: expected one override in force at any moment, got run % over % and run % over %',
            v_found.click_id, v_found.other, v_found.others, v_found.run_id, v_found.in_force
            USING ERRCODE = 'exclusion_violation', CONSTRAINT = 'one_override';
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER one_override_inserted AFTER INSERT ON authority_overrides
    REFERENCING NEW TABLE AS new_rows FOR EACH STATEMENT EXECUTE FUNCTION refuse_overlapping_overrides();
CREATE TRIGGER one_override_updated AFTER UPDATE ON authority_overrides
    REFERENCING NEW TABLE AS new_rows FOR EACH STATEMENT EXECUTE FUNCTION refuse_overlapping_overrides();

-- Puts a sparse run's clicks on top of the other overrides, as of its publication. The caller holds the log lock.
CREATE FUNCTION open_overrides(p_run_id bigint, p_published bigint) RETURNS void
    LANGUAGE plpgsql
    SET enable_seqscan = off SET plan_cache_mode = force_generic_plan
    AS $$
DECLARE
    v_ids uuid[] := ARRAY(SELECT c.click_id FROM sparse_clicks c WHERE c.run_id = p_run_id);
BEGIN
    UPDATE authority_overrides o SET in_force = int8range(lower(o.in_force), p_published)
    WHERE o.click_id = ANY (v_ids) AND upper(o.in_force) IS NULL;
    INSERT INTO authority_overrides (click_id, run_id, log_position, published, in_force)
    SELECT c.click_id, c.run_id, c.log_position, p_published, int8range(p_published, NULL)
    FROM sparse_clicks c WHERE c.run_id = p_run_id;
END $$;

-- Takes them away again as of a revert: what the publication had closed is in force again. The run is on top of each of
-- its clicks, so nothing beneath it has changed meanwhile.
CREATE FUNCTION close_overrides(p_run_id bigint, p_published bigint, p_reverted bigint) RETURNS void
    LANGUAGE plpgsql
    SET enable_seqscan = off SET plan_cache_mode = force_generic_plan
    AS $$
DECLARE
    v_ids uuid[] := ARRAY(SELECT c.click_id FROM sparse_clicks c WHERE c.run_id = p_run_id);
BEGIN
    UPDATE authority_overrides o SET in_force = int8range(lower(o.in_force), p_reverted)
    WHERE o.click_id = ANY (v_ids) AND upper(o.in_force) IS NULL AND o.run_id = p_run_id;
    INSERT INTO authority_overrides (click_id, run_id, log_position, published, in_force)
    SELECT o.click_id, o.run_id, o.log_position, o.published, int8range(p_reverted, NULL)
    FROM authority_overrides o WHERE o.click_id = ANY (v_ids) AND upper(o.in_force) = p_published;
END $$;

CREATE OR REPLACE VIEW authoritative_decisions AS
    SELECT d.*, NULL::bigint AS run_id
    FROM decisions d JOIN authority a ON a.run_id IS NULL AND d.log_position <@ a.positions
    WHERE upper_inf(a.in_force)
      AND NOT EXISTS (SELECT FROM authority_overrides o WHERE o.click_id = d.click_id AND upper(o.in_force) IS NULL)
    UNION ALL
    SELECT d.click_id, d.log_position, d.line, d.advertiser_id, d.campaign_id, d.cost_micros, d.currency, d.slice,
           d.deployment_epoch, d.model_version, d.calibration_version, d.score, d.threshold, d.verdict, d.reason, d.carried, d.run_id
    FROM delayed_decisions d JOIN authority a ON a.run_id = d.run_id AND d.log_position <@ a.positions
    WHERE upper_inf(a.in_force)
      AND NOT EXISTS (SELECT FROM authority_overrides o
                      WHERE o.click_id = d.click_id AND upper(o.in_force) IS NULL AND o.published > a.published)
    UNION ALL
    SELECT d.click_id, d.log_position, d.line, d.advertiser_id, d.campaign_id, d.cost_micros, d.currency, d.slice,
           d.deployment_epoch, d.model_version, d.calibration_version, d.score, d.threshold, d.verdict, d.reason, d.carried, d.run_id
    FROM authority_overrides o
    JOIN authority a ON o.log_position <@ a.positions AND upper_inf(a.in_force) AND a.published < o.published
    JOIN delayed_decisions d ON d.click_id = o.click_id AND d.run_id = o.run_id
    WHERE upper(o.in_force) IS NULL;

-- What a reader at log position p_position was told.
CREATE OR REPLACE FUNCTION authoritative_decisions_as_of(p_position bigint) RETURNS SETOF authoritative_decisions
    LANGUAGE sql STABLE AS $$
    SELECT d.*, NULL::bigint
    FROM decisions d JOIN authority a ON a.run_id IS NULL AND d.log_position <@ a.positions
    WHERE a.in_force @> p_position AND d.log_position <= p_position
      AND NOT EXISTS (SELECT FROM authority_overrides o WHERE o.click_id = d.click_id AND o.in_force @> p_position)
    UNION ALL
    SELECT d.click_id, d.log_position, d.line, d.advertiser_id, d.campaign_id, d.cost_micros, d.currency, d.slice,
           d.deployment_epoch, d.model_version, d.calibration_version, d.score, d.threshold, d.verdict, d.reason, d.carried, d.run_id
    FROM delayed_decisions d JOIN authority a ON a.run_id = d.run_id AND d.log_position <@ a.positions
    WHERE a.in_force @> p_position
      AND NOT EXISTS (SELECT FROM authority_overrides o
                      WHERE o.click_id = d.click_id AND o.in_force @> p_position AND o.published > a.published)
    UNION ALL
    SELECT d.click_id, d.log_position, d.line, d.advertiser_id, d.campaign_id, d.cost_micros, d.currency, d.slice,
           d.deployment_epoch, d.model_version, d.calibration_version, d.score, d.threshold, d.verdict, d.reason, d.carried, d.run_id
    FROM authority_overrides o
    JOIN authority a ON o.log_position <@ a.positions AND a.in_force @> p_position AND a.published < o.published
    JOIN delayed_decisions d ON d.click_id = o.click_id AND d.run_id = o.run_id
    WHERE o.in_force @> p_position $$;

-- The decision in force for one click; no row when the click is unknown. A run of either kind has a row for each of its
-- clicks, so the latest publication in force that has one decides: a few index lookups, whatever was published.
CREATE OR REPLACE FUNCTION decision_of(p_click_id uuid) RETURNS SETOF authoritative_decisions
    LANGUAGE plpgsql STABLE AS $$
DECLARE
    v_found authoritative_decisions;
BEGIN
    SELECT d.click_id, d.log_position, d.line, d.advertiser_id, d.campaign_id, d.cost_micros, d.currency, d.slice,
           d.deployment_epoch, d.model_version, d.calibration_version, d.score, d.threshold, d.verdict, d.reason, d.carried, d.run_id
    INTO v_found
    FROM delayed_decisions d JOIN publications p ON p.run_id = d.run_id AND p.reverted_position IS NULL
    WHERE d.click_id = p_click_id ORDER BY p.position DESC LIMIT 1;
    IF NOT FOUND THEN
        SELECT d.*, NULL::bigint INTO v_found FROM decisions d WHERE d.click_id = p_click_id;
        IF NOT FOUND THEN
            RETURN;
        END IF;
    END IF;
    RETURN NEXT v_found;
END $$;
