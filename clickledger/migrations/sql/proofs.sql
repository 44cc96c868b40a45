-- Signed checkpoints of the log, and the subtree hashes that make them cheap.

-- What was promised to the outside: the root over the entries 1 to size, as a signed note (c2sp.org/tlog-checkpoint).
CREATE TABLE checkpoints (
    size      bigint PRIMARY KEY CHECK (size > 0),
    root      bytea NOT NULL CHECK (octet_length(root) = 32),
    note      text NOT NULL,
    signed_at timestamptz NOT NULL DEFAULT clock_timestamp()
);
SELECT make_history('checkpoints');

-- A cache: roots of complete subtrees of 256^level entries, number n over [n * 256^level, (n + 1) * 256^level) from 0.
-- Rows never change their value; they can be deleted and are made again from the log (ledger/merkle_tiles.py).
CREATE TABLE merkle_tiles (
    level  smallint NOT NULL CHECK (level > 0),
    number bigint NOT NULL CHECK (number >= 0),
    root   bytea NOT NULL CHECK (octet_length(root) = 32),
    PRIMARY KEY (level, number)
);
