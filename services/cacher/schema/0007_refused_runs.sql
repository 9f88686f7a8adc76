-- migrate:up

-- Why a request could not be planned at all; its run has failed, whatever of its symbols is known.
ALTER TABLE runs ADD COLUMN refused text;

CREATE OR REPLACE VIEW run_history AS
SELECT run_id, request_id, job, lane, dataset, timeframe, slot_at, requested_at, deadline_at, missed_slots, planned, counts, calls,
    finished_at, reasons, range_start, range_end, provider, refused
FROM runs;

CREATE OR REPLACE VIEW run_slots AS
SELECT coalesce(slot_at, requested_at) AS at, job, slot_at, CASE WHEN finished_at IS NULL THEN 'under way' ELSE 'over' END AS state,
    refused AS reason, run_id, request_id, lane, dataset, timeframe, requested_at, finished_at, planned, counts, reasons, calls,
    missed_slots, extract(epoch FROM requested_at - slot_at)::float8 AS late_s,
    extract(epoch FROM finished_at - requested_at)::float8 AS took_s
FROM runs
UNION ALL
SELECT m.slot_at, m.job, m.slot_at, 'missed', m.reason, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL
FROM missed_slots m
WHERE NOT EXISTS (SELECT FROM runs r WHERE r.job = m.job AND r.slot_at = m.slot_at);

-- migrate:down

CREATE OR REPLACE VIEW run_slots AS
SELECT coalesce(slot_at, requested_at) AS at, job, slot_at, CASE WHEN finished_at IS NULL THEN 'under way' ELSE 'over' END AS state,
    NULL::text AS reason, run_id, request_id, lane, dataset, timeframe, requested_at, finished_at, planned, counts, reasons, calls,
    missed_slots, extract(epoch FROM requested_at - slot_at)::float8 AS late_s,
    extract(epoch FROM finished_at - requested_at)::float8 AS took_s
FROM runs
UNION ALL
SELECT m.slot_at, m.job, m.slot_at, 'missed', m.reason, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL
FROM missed_slots m
WHERE NOT EXISTS (SELECT FROM runs r WHERE r.job = m.job AND r.slot_at = m.slot_at);
DROP VIEW run_history;
CREATE VIEW run_history AS
SELECT run_id, request_id, job, lane, dataset, timeframe, slot_at, requested_at, deadline_at, missed_slots, planned, counts, calls,
    finished_at, reasons, range_start, range_end, provider
FROM runs;
DO $$
BEGIN
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'quotebus_reader') THEN
        GRANT SELECT ON run_history TO quotebus_reader;
    END IF;
END
$$;
ALTER TABLE runs DROP COLUMN refused;
