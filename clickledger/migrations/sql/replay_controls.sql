-- Plans as they were looked at, runs that pause, and backtests: runs of a candidate model, which never come into force.

-- What `replay plan` showed, by the digest that `replay start` names. Nothing follows from a row: the plan is made again
-- from the ledger before it is started.
CREATE TABLE replay_plans (
    digest  text PRIMARY KEY CHECK (digest = encode(sha256(convert_to('clickledger:plan:2' || plan, 'UTF8')), 'hex')),
    plan    text NOT NULL,          -- canonical JSON
    preview text NOT NULL,          -- canonical JSON: the estimate that was shown first
    made_by text NOT NULL,
    made_at timestamptz NOT NULL DEFAULT clock_timestamp()
);
SELECT make_history('replay_plans');

-- A paused run gives out no chunk. What was under way is finished: it was decided as the run says.
ALTER TABLE replay_runs ADD COLUMN paused_position bigint;  -- of its replay_paused entry; NULL = it goes on

ALTER TABLE replay_runs DROP CONSTRAINT replay_runs_kind_check;
ALTER TABLE replay_runs ADD CONSTRAINT replay_runs_kind_check CHECK (kind IN ('range', 'sparse', 'backtest'));
ALTER TABLE replay_runs DROP CONSTRAINT replay_runs_mode_check;
ALTER TABLE replay_runs ADD CONSTRAINT replay_runs_mode_check
    CHECK (CASE kind WHEN 'sparse' THEN mode = 'stated' ELSE mode IN ('rescore', 'recompute') END);

-- The kind that a publication states is checked already; here, that it is the run's.
CREATE FUNCTION refuse_backtest() RETURNS trigger
    LANGUAGE plpgsql AS $$
BEGIN
    IF EXISTS (SELECT FROM replay_runs r WHERE r.run_id = NEW.run_id AND r.kind = 'backtest') THEN
        RAISE EXCEPTION 'run % is a backtest: it is never published', NEW.run_id USING ERRCODE = 'CL006';
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER refuse_backtest BEFORE INSERT ON publications FOR EACH ROW EXECUTE FUNCTION refuse_backtest();
CREATE TRIGGER refuse_backtest BEFORE INSERT ON authority
    FOR EACH ROW WHEN (NEW.run_id IS NOT NULL) EXECUTE FUNCTION refuse_backtest();
