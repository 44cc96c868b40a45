-- The snapshots that a `recompute` run decided on, where they are not the recorded ones. Not partitioned by day: a
-- snapshot names nobody, and a day that leaves takes nothing that later audits of the run need.

CREATE TABLE run_features (
    run_id       bigint NOT NULL,
    click_id     uuid NOT NULL,
    log_position bigint NOT NULL,       -- of the click's own entry
    line         integer NOT NULL,
    features     bytea NOT NULL,        -- int32 little-endian, of the click's feature_schema
    PRIMARY KEY (run_id, click_id)
);
CREATE INDEX run_features_position ON run_features (run_id, log_position);
SELECT make_history('run_features');
CREATE TRIGGER refuse_rows_of_frozen_run AFTER INSERT ON run_features
    REFERENCING NEW TABLE AS new_rows FOR EACH STATEMENT EXECUTE FUNCTION refuse_rows_of_frozen_run();

-- sha256 over the leaves of a chunk's rows above, in (log_position, line) order; NULL for runs of another mode.
ALTER TABLE replay_chunks ADD COLUMN features_digest bytea;
