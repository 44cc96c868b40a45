-- What detection looks at, folded from the log tick by tick: made once, instead of read again at every look.

-- One row for each stretch of positions, tick, epoch, model and slice. Numbers of clicks; then of users, who count once.
CREATE TABLE signal_ticks (
    at               timestamptz NOT NULL,  -- start of the tick
    deployment_epoch integer NOT NULL,
    model_version    integer NOT NULL,
    slice            text NOT NULL,
    first_position   bigint NOT NULL,
    last_position    bigint NOT NULL,
    clicks           integer NOT NULL,
    invalid          integer NOT NULL,
    undecided        integer NOT NULL,
    incomplete       integer NOT NULL,  -- the sender did not say whether somebody was logged in
    lagging          integer NOT NULL,  -- recorded long after they happened
    hot              integer NOT NULL,  -- in sessions with too many clicks in an hour
    hot_invalid      integer NOT NULL,
    loyal            integer NOT NULL,  -- of accounts with several purchases
    loyal_invalid    integer NOT NULL,
    scores           integer[] NOT NULL,  -- histogram of the live scores
    paired           integer NOT NULL,  -- users judged by live and shadow model
    withheld         integer NOT NULL,
    released         integer NOT NULL,
    known            integer NOT NULL,  -- paired users with a mature purchase
    known_withheld   integer NOT NULL,
    known_released   integer NOT NULL,
    hot_paired       integer NOT NULL,  -- paired users in hot sessions
    hot_withheld     integer NOT NULL,
    hot_released     integer NOT NULL,
    PRIMARY KEY (at, deployment_epoch, model_version, slice, first_position)
);

-- Clicks up to this log position are folded in; one row. What came before an upgrade is not made again.
CREATE TABLE signal_ticks_upto (
    one      boolean PRIMARY KEY DEFAULT true CHECK (one),
    position bigint NOT NULL
);
INSERT INTO signal_ticks_upto (position) SELECT coalesce(max(position), 0) FROM log;

-- Accounts with several purchases are a signal of their own; the fold of purchases starts again to count them.
ALTER TABLE known_customers ADD purchases integer NOT NULL DEFAULT 0;
UPDATE known_customers_upto SET position = 0;
