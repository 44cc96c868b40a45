-- Caches of folds of control entries. Every row can be rebuilt from the log (ledger/fold.py), and a test does so.

CREATE TABLE artefacts (
    digest  bytea PRIMARY KEY CHECK (digest = sha256(content)),
    content bytea NOT NULL
);
SELECT make_history('artefacts');

CREATE TABLE models (
    model_version       integer PRIMARY KEY,
    kind                text NOT NULL,
    digest              bytea NOT NULL,
    registered_position bigint NOT NULL UNIQUE
);

CREATE TABLE calibrations (
    calibration_version integer PRIMARY KEY,
    model_version       integer NOT NULL,
    thresholds          text NOT NULL,      -- canonical JSON, slice -> threshold
    set_position        bigint NOT NULL UNIQUE
);

-- Epoch 0 is "no model deployed": its clicks are undecided.
CREATE TABLE deployments (
    epoch            integer PRIMARY KEY,
    routing          text NOT NULL,         -- canonical JSON
    from_position    bigint NOT NULL,       -- of the entry that deployed it
    to_position      bigint,                -- of the entry that replaced it
    revoked_position bigint                 -- of the rollback that fenced it
);

CREATE TABLE counter_epochs (
    counter_epoch integer PRIMARY KEY,
    from_position bigint NOT NULL
);

CREATE TABLE incidents (
    incident_id      bigint PRIMARY KEY,    -- position of its anomaly_raised entry
    status           text NOT NULL CHECK (status IN ('raised', 'rolled_back', 'replaying', 'compared', 'published', 'abandoned')),
    deployment_epoch integer NOT NULL,
    model_version    integer NOT NULL,
    run_id           bigint,
    updated_position bigint NOT NULL
);

CREATE TABLE billing_periods (
    period          text PRIMARY KEY CHECK (period ~ '^\d{4}-(0[1-9]|1[0-2])$'),
    closed_position bigint NOT NULL
);

-- A run re-decides every click of a closed range of log positions.
CREATE TABLE replay_runs (
    run_id              bigint PRIMARY KEY, -- position of its replay_planned entry
    positions           int8range NOT NULL CHECK (NOT isempty(positions) AND NOT upper_inf(positions)),
    mode                text NOT NULL CHECK (mode IN ('rescore', 'recompute')),
    model_version       integer NOT NULL,
    calibration_version integer NOT NULL,
    scope               text NOT NULL,      -- canonical JSON: slices and advertisers it re-decides; {} = all
    row_count           bigint NOT NULL,    -- the manifest
    incident_id         bigint,
    status              text NOT NULL CHECK (status IN ('planned', 'staged', 'abandoned')),
    staged_position     bigint,
    content_digest      bytea
);

-- Work of a run, owned here and not by the broker: leases and attempt tokens.
CREATE TABLE replay_chunks (
    run_id         bigint NOT NULL REFERENCES replay_runs,
    chunk_no       integer NOT NULL,
    positions      int8range NOT NULL,
    row_count      integer NOT NULL,
    status         text NOT NULL DEFAULT 'todo' CHECK (status IN ('todo', 'leased', 'done', 'quarantined')),
    lease_until    timestamptz,
    token          uuid,
    worker         text,
    attempts       integer NOT NULL DEFAULT 0,
    last_error     text,
    content_digest bytea,                   -- sha256 over the leaves of its rows, in (log_position, line) order
    PRIMARY KEY (run_id, chunk_no),
    CHECK ((status = 'leased') = (lease_until IS NOT NULL)),
    CHECK ((status = 'done') = (content_digest IS NOT NULL))
);

-- What publishing a run would change, computed aside and named by its digest.
CREATE TABLE comparisons (
    comparison_id        bigint PRIMARY KEY, -- position of its replay_compared entry
    run_id               bigint NOT NULL,
    adjustment_set       uuid NOT NULL UNIQUE,
    compared_at_position bigint NOT NULL,    -- the authority it was compared with
    digest               bytea NOT NULL,
    summary              text NOT NULL       -- canonical JSON
);
SELECT make_history('comparisons');

CREATE TABLE comparison_totals (
    adjustment_set       uuid NOT NULL,
    advertiser_id        text NOT NULL,
    slice                text NOT NULL,
    currency             text NOT NULL,
    clicks               bigint NOT NULL,
    to_valid             bigint NOT NULL,
    to_invalid           bigint NOT NULL,
    to_undecided         bigint NOT NULL,
    carried              bigint NOT NULL,
    billed_before_micros bigint NOT NULL,
    adjustments_micros   bigint NOT NULL,
    write_off_micros     bigint NOT NULL,
    billed_after_micros  bigint NOT NULL,
    gross_micros         bigint NOT NULL,
    PRIMARY KEY (adjustment_set, advertiser_id, slice, currency),
    CONSTRAINT money_is_conserved CHECK (billed_before_micros + adjustments_micros + write_off_micros = billed_after_micros)
);
SELECT make_history('comparison_totals');

-- One line per flipped click of a comparison; in effect only through a publication.
CREATE TABLE adjustments (
    adjustment_set   uuid NOT NULL,
    line             bigint NOT NULL,
    click_id         uuid NOT NULL,
    advertiser_id    text NOT NULL,
    campaign_id      text NOT NULL,
    currency         text NOT NULL,
    slice            text NOT NULL,
    from_run_id      bigint,                 -- who decided before; NULL = live
    from_verdict     verdict NOT NULL,
    to_verdict       verdict NOT NULL,
    amount_micros    bigint NOT NULL,        -- signed: negative credits the advertiser
    write_off_micros bigint NOT NULL,        -- back-charge that may not post
    original_period  text NOT NULL,
    posting_period   text NOT NULL,
    PRIMARY KEY (adjustment_set, line),
    UNIQUE (adjustment_set, click_id),
    CHECK (from_verdict <> to_verdict),
    CHECK (amount_micros = 0 OR write_off_micros = 0)
);
CREATE INDEX adjustments_click ON adjustments (click_id);
SELECT make_history('adjustments');

CREATE TABLE publications (
    position          bigint PRIMARY KEY,    -- of its replay_published entry
    run_id            bigint NOT NULL,
    comparison_id     bigint NOT NULL,
    positions         int8range NOT NULL,
    reverted_position bigint
);
CREATE UNIQUE INDEX one_publication_in_force ON publications (run_id) WHERE reverted_position IS NULL;

-- Which run decides which part of the log, and when that was so (both by log position).
CREATE TABLE authority (
    positions int8range NOT NULL CHECK (NOT isempty(positions)),
    run_id    bigint,                        -- NULL = live
    in_force  int8range NOT NULL CHECK (NOT isempty(in_force)),
    CONSTRAINT one_authority EXCLUDE USING gist (positions WITH &&, in_force WITH &&)
);
INSERT INTO authority VALUES (int8range(1, NULL), NULL, int8range(1, NULL));

-- A run is frozen once staged: rows may arrive only while it is planned.
CREATE FUNCTION refuse_rows_of_frozen_run() RETURNS trigger
    LANGUAGE plpgsql AS $$
DECLARE
    v_run bigint;
BEGIN
    SELECT n.run_id INTO v_run FROM (SELECT DISTINCT run_id FROM new_rows) n
    LEFT JOIN replay_runs r USING (run_id) WHERE r.status IS DISTINCT FROM 'planned' LIMIT 1;
    IF FOUND THEN
        RAISE EXCEPTION 'run % takes no more decisions: it is not in status planned', v_run USING ERRCODE = 'CL005';
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER refuse_rows_of_frozen_run AFTER INSERT ON delayed_decisions
    REFERENCING NEW TABLE AS new_rows FOR EACH STATEMENT EXECUTE FUNCTION refuse_rows_of_frozen_run();
