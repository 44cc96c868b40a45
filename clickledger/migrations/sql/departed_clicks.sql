-- Which clicks of sparse runs left with a day. The log pins by digests what such a run decided and does not list its clicks:
-- without them nobody could tell any more which overrides the log gives. Their departure's digest covers them.
-- Departures made before have none, and the digests that they were named by still hold.
ALTER TABLE departed_rows ADD COLUMN click_ids uuid[] NOT NULL DEFAULT '{}';  -- of a sparse run, in line order as the leaves are
ALTER TABLE departed_rows ADD CONSTRAINT a_click_for_each_leaf
    CHECK (cardinality(click_ids) = 0 OR octet_length(leaves) = 32 * cardinality(click_ids));
