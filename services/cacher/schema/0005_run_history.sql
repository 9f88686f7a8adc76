-- migrate:up

-- reasons: symbols by outcome and reason. failed_symbols: the first of those that failed or expired, as they were at its end.
-- range_start, range_end, provider: the request's own, so that it can be asked again.
ALTER TABLE runs
    ADD COLUMN reasons jsonb,
    ADD COLUMN failed_symbols text[] COLLATE "C",
    ADD COLUMN range_start date,
    ADD COLUMN range_end date,
    ADD COLUMN provider text COLLATE "C";
CREATE INDEX runs_by_job ON runs (job, requested_at);
CREATE INDEX runs_by_slot ON runs (job, slot_at);

-- Slots that got no run of their own, and why.
CREATE TABLE missed_slots (
    job text COLLATE "C" NOT NULL,
    slot_at timestamptz NOT NULL,
    reason text COLLATE "C" NOT NULL,
    told_at timestamptz NOT NULL,
    PRIMARY KEY (job, slot_at)
);
CREATE INDEX missed_slots_by_time ON missed_slots (slot_at);

CREATE OR REPLACE VIEW run_history AS
SELECT run_id, request_id, job, lane, dataset, timeframe, slot_at, requested_at, deadline_at, missed_slots, planned, counts, calls,
    finished_at, reasons, range_start, range_end, provider
FROM runs;

-- A row for each slot, also where nothing ran, and for each request by hand. late_s: from the slot to the request; took_s: from
-- there to the end. at: what the rows are in order of.
CREATE VIEW run_slots AS
SELECT coalesce(slot_at, requested_at) AS at, job, slot_at, CASE WHEN finished_at IS NULL THEN 'under way' ELSE 'over' END AS state,
    NULL::text AS reason, run_id, request_id, lane, dataset, timeframe, requested_at, finished_at, planned, counts, reasons, calls,
    missed_slots, extract(epoch FROM requested_at - slot_at)::float8 AS late_s,
    extract(epoch FROM finished_at - requested_at)::float8 AS took_s
FROM runs
UNION ALL
SELECT m.slot_at, m.job, m.slot_at, 'missed', m.reason, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL
FROM missed_slots m
WHERE NOT EXISTS (SELECT FROM runs r WHERE r.job = m.job AND r.slot_at = m.slot_at);

DO $$
BEGIN
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'quotebus_reader') THEN
        GRANT SELECT ON run_slots TO quotebus_reader;
    END IF;
END
$$;

-- migrate:down

DROP VIEW run_slots, run_history;
DROP TABLE missed_slots;
DROP INDEX runs_by_job, runs_by_slot;
ALTER TABLE runs DROP COLUMN reasons, DROP COLUMN failed_symbols, DROP COLUMN range_start, DROP COLUMN range_end, DROP COLUMN provider;
CREATE VIEW run_history AS
SELECT run_id, request_id, job, lane, dataset, timeframe, slot_at, requested_at, deadline_at, missed_slots, planned, counts, calls,
    finished_at
FROM runs;
