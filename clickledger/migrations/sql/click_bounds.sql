-- The smallest and largest click id that a run, a publication and a piece of the authority map touch: readers prune day
-- partitions by them. NULL where they were not written down: live pieces, and what was staged before this migration.

ALTER TABLE replay_runs ADD COLUMN click_id_min uuid, ADD COLUMN click_id_max uuid,
    ADD CONSTRAINT click_ids_in_order CHECK (click_id_min <= click_id_max);
ALTER TABLE publications ADD COLUMN click_id_min uuid, ADD COLUMN click_id_max uuid,
    ADD CONSTRAINT click_ids_in_order CHECK (click_id_min <= click_id_max);
ALTER TABLE authority ADD COLUMN click_id_min uuid, ADD COLUMN click_id_max uuid,
    ADD CONSTRAINT click_ids_in_order CHECK (click_id_min <= click_id_max);
