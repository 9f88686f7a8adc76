-- migrate:up

-- One row for each day of an underlying, the day's last: the newest is how it stands, the year's before it are what its rank is made of.
-- expiry, forward, iv and contracts are columns of the term structure, of equal length.
CREATE TABLE implied_volatilities (
    instrument integer NOT NULL,
    feed text COLLATE "C" NOT NULL,
    date date NOT NULL,
    provider text COLLATE "C" NOT NULL,
    chain_provider text COLLATE "C",
    at timestamptz,
    iv_30d double precision CHECK (iv_30d > 0 AND iv_30d < 'infinity'),
    skew_25d double precision CHECK (skew_25d > '-infinity' AND skew_25d < 'infinity'),
    iv_rank double precision CHECK (iv_rank BETWEEN 0 AND 1),
    iv_percentile double precision CHECK (iv_percentile BETWEEN 0 AND 1),
    history_days integer NOT NULL,
    expiry date[] NOT NULL,
    forward double precision[] NOT NULL,
    iv double precision[] NOT NULL,
    contracts integer[] NOT NULL,
    observed_at timestamptz NOT NULL,
    fetched_at timestamptz NOT NULL,
    PRIMARY KEY (instrument, feed, date)
);

CREATE VIEW price_iv AS
SELECT i.symbol, v.date, v.at, v.iv_30d, v.skew_25d, v.iv_rank, v.iv_percentile, v.history_days, v.expiry, v.forward, v.iv, v.contracts,
    s.currency, v.feed, v.provider, v.chain_provider, v.observed_at, v.fetched_at
FROM implied_volatilities v
JOIN instruments i ON i.id = v.instrument
LEFT JOIN series s ON s.instrument = v.instrument AND s.dataset = 'iv' AND s.feed = v.feed;

DO $$
BEGIN
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'quotebus_reader') THEN
        GRANT SELECT ON price_iv TO quotebus_reader;
    END IF;
END
$$;

-- migrate:down

DROP VIEW price_iv;
DROP TABLE implied_volatilities;
