-- migrate:up

-- A run is a request's sequence on its stream, which begins again if the stream is made anew: hence the request's own id in the key.
-- parts_seen: which parts of the announcement have come. published_at: when run.finished was stored on the bus.
CREATE TABLE runs (
    run_id text COLLATE "C" NOT NULL,
    request_id text COLLATE "C" NOT NULL,
    job text COLLATE "C",
    lane text COLLATE "C" NOT NULL,
    dataset text COLLATE "C" NOT NULL,
    timeframe text COLLATE "C",
    slot_at timestamptz,
    requested_at timestamptz NOT NULL,
    wanted_at timestamptz NOT NULL,
    deadline_at timestamptz NOT NULL,
    missed_slots integer NOT NULL,
    planned integer NOT NULL,
    parts integer NOT NULL,
    parts_seen integer[] NOT NULL,
    counts jsonb,
    calls jsonb,
    finished_at timestamptz,
    published_at timestamptz,
    PRIMARY KEY (run_id, request_id)
);
CREATE INDEX runs_open ON runs (deadline_at) WHERE finished_at IS NULL;
CREATE INDEX runs_unpublished ON runs (finished_at) WHERE finished_at IS NOT NULL AND published_at IS NULL;
CREATE INDEX runs_by_time ON runs (requested_at);

-- One row for each symbol of a run. outcome is null while nothing is known. planned: the symbol was in the announcement.
-- resolved: the outcome is the last word; a merged symbol waits until a call that began at or after wanted_at is reported for its task.
CREATE TABLE results (
    run_id text COLLATE "C" NOT NULL,
    request_id text COLLATE "C" NOT NULL,
    symbol text COLLATE "C" NOT NULL,
    planned boolean NOT NULL,
    resolved boolean NOT NULL,
    outcome text COLLATE "C",
    reason text,
    message text,
    provider text COLLATE "C",
    task text COLLATE "C",
    wanted_at timestamptz,
    called_at timestamptz,
    at timestamptz,
    rows integer NOT NULL,
    calls integer NOT NULL,
    PRIMARY KEY (run_id, request_id, symbol)
);
CREATE INDEX results_called ON results (task, called_at) WHERE called_at IS NOT NULL;
CREATE INDEX results_waiting ON results (task) WHERE outcome = 'merged' AND NOT resolved;
CREATE INDEX results_unresolved ON results (run_id, request_id) WHERE planned AND NOT resolved;

-- migrate:down

DROP TABLE results, runs;
