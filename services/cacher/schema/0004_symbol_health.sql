-- migrate:up

-- How each symbol stands with each provider; no row means that nothing was ever wrong. sequence: of the message on the bus, by
-- which the later one is known. timeframe is empty where the dataset has none.
CREATE TABLE symbol_states (
    provider text COLLATE "C" NOT NULL,
    dataset text COLLATE "C" NOT NULL,
    timeframe text COLLATE "C" NOT NULL,
    symbol text COLLATE "C" NOT NULL,
    state text COLLATE "C" NOT NULL,
    before text COLLATE "C" NOT NULL,
    since timestamptz NOT NULL,
    at timestamptz NOT NULL,
    failures integer NOT NULL,
    next_probe_at timestamptz,
    verdict text COLLATE "C",
    message text,
    renamed_to text COLLATE "C",
    by text COLLATE "C" NOT NULL,
    sequence bigint NOT NULL,
    PRIMARY KEY (symbol, provider, dataset, timeframe)
);
CREATE INDEX symbol_states_asleep ON symbol_states (state, provider) WHERE state <> 'active';

CREATE VIEW symbol_health AS
SELECT symbol, provider, dataset, nullif(timeframe, '') AS timeframe, state, before, since, failures, next_probe_at, verdict, message,
    renamed_to, by, at
FROM symbol_states;

DO $$
BEGIN
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'quotebus_reader') THEN
        GRANT SELECT ON symbol_health TO quotebus_reader;
    END IF;
END
$$;

-- migrate:down

DROP VIEW symbol_health;
DROP TABLE symbol_states;
