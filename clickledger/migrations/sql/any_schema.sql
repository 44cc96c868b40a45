-- Days in a ledger whose schema is not `public`. attach_partition is called by ensure_day, which searches the ledger's schema
-- (rights put that on), and seal_day by the owner: both search what their caller searches. Nobody else may call them.
ALTER FUNCTION attach_partition(text, text, text, text) RESET search_path;
ALTER FUNCTION seal_day(date, boolean) RESET search_path;
