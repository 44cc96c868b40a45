-- What detection reads: accounts with a purchase, a fold of recorded outcomes that can be made again from them.

CREATE TABLE known_customers (
    user_key        uuid PRIMARY KEY,
    purchased_at_ms bigint NOT NULL     -- of the earliest purchase
);

-- Outcomes up to this log position are folded in; one row.
CREATE TABLE known_customers_upto (
    one      boolean PRIMARY KEY DEFAULT true CHECK (one),
    position bigint NOT NULL
);
INSERT INTO known_customers_upto (position) VALUES (0);
