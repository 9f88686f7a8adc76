-- migrate:up

-- What readers read: names instead of numbers. The tables below them may change, these columns stay.
CREATE VIEW price_bars AS
SELECT i.symbol, b.timeframe, b.at, b.open, b.high, b.low, b.close, b.volume, b.adjusted_close, s.currency, b.basis, b.feed,
    b.final, b.provider, b.observed_at
FROM bars b
JOIN instruments i ON i.id = b.instrument
LEFT JOIN series s ON s.instrument = b.instrument AND s.dataset = 'bars' AND s.timeframe = b.timeframe AND s.basis = b.basis
    AND s.feed = b.feed;

CREATE VIEW price_quotes AS
SELECT i.symbol, q.at, q.price, q.bid, q.ask, q.previous_close, q.volume, s.currency, q.feed, q.provider, q.observed_at, q.fetched_at
FROM quotes q
JOIN instruments i ON i.id = q.instrument
LEFT JOIN series s ON s.instrument = q.instrument AND s.dataset = 'quote' AND s.feed = q.feed;

CREATE VIEW price_actions AS
SELECT i.symbol, a.date, a.kind, a.ratio, a.amount, s.currency, a.feed, a.provider, a.observed_at
FROM actions a
JOIN instruments i ON i.id = a.instrument
LEFT JOIN series s ON s.instrument = a.instrument AND s.dataset = 'actions' AND s.feed = a.feed;

CREATE VIEW price_chains AS
SELECT i.symbol AS underlying, k.contract, k.expiry, k.strike, k."right", k.bid, k.ask, k.last, k.mark, k.volume, k.open_interest,
    k.iv, k.delta, k.gamma, k.theta, k.vega, k.at, s.currency, k.feed, c.provider, k.observed_at
FROM chains c
JOIN chain_contracts k ON k.instrument = c.instrument AND k.feed = c.feed AND k.observed_at = c.observed_at
JOIN instruments i ON i.id = c.instrument
LEFT JOIN series s ON s.instrument = c.instrument AND s.dataset = 'chain' AND s.feed = c.feed;

CREATE VIEW price_corrections AS
SELECT i.symbol, c.timeframe, c.at, c.basis, c.feed, c.provider, c.before, c.after, c.observed_at, c.corrected_at, c.id
FROM corrections c
JOIN instruments i ON i.id = c.instrument;

CREATE VIEW price_observations AS
SELECT i.symbol, s.dataset, s.timeframe, s.basis, s.feed, o.observed_at, o.at_from, o.at_to, o.rows, o.provider, o.fetched_at
FROM observations o
JOIN series s ON s.id = o.series
JOIN instruments i ON i.id = s.instrument;

CREATE VIEW price_quarantine AS
SELECT symbol, dataset, timeframe, at, rule, "row", provider, feed, fetched_at, quarantined_at, request_id, run_id FROM quarantine;

CREATE VIEW run_history AS
SELECT run_id, request_id, job, lane, dataset, timeframe, slot_at, requested_at, deadline_at, missed_slots, planned, counts, calls,
    finished_at
FROM runs;

CREATE VIEW run_results AS
SELECT run_id, request_id, symbol, outcome, reason, message, provider, called_at, at, "rows", calls FROM results;

DO $$
BEGIN
    BEGIN
        IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'quotebus_reader') THEN
            CREATE ROLE quotebus_reader NOLOGIN;
        END IF;
    EXCEPTION
        -- Roles belong to the whole server: another database may be making it at this moment.
        WHEN duplicate_object OR unique_violation THEN NULL;
        WHEN insufficient_privilege THEN
            RAISE NOTICE 'no right to create the role quotebus_reader: readers need one that an administrator makes';
    END;
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'quotebus_reader') THEN
        GRANT SELECT ON price_bars, price_quotes, price_actions, price_chains, price_corrections, price_observations,
            price_quarantine, run_history, run_results TO quotebus_reader;
    END IF;
END
$$;

-- migrate:down

DROP VIEW run_results, run_history, price_quarantine, price_observations, price_corrections, price_chains, price_actions, price_quotes,
    price_bars;
