-- migrate:up

-- Texts that are part of keys compare by byte ("C"): quicker, and the same on every server.
CREATE TABLE instruments (
    id integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    symbol text COLLATE "C" NOT NULL UNIQUE CHECK (octet_length(symbol) BETWEEN 1 AND 64),
    first_seen_at timestamptz NOT NULL DEFAULT now()
);

-- timeframe is '' for a dataset that has none, basis '' for all but bars.
CREATE TABLE series (
    id integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    instrument integer NOT NULL REFERENCES instruments,
    dataset text COLLATE "C" NOT NULL CHECK (dataset IN ('bars', 'quote', 'chain', 'iv', 'actions')),
    timeframe text COLLATE "C" NOT NULL CHECK (timeframe IN ('', '1m', '5m', '15m', '30m', '1h', '1d', '1wk', '1mo')),
    basis text COLLATE "C" NOT NULL CHECK (basis IN ('', 'raw', 'split', 'split_dividend')),
    feed text COLLATE "C" NOT NULL CHECK (feed <> ''),
    currency text COLLATE "C",
    UNIQUE (instrument, dataset, timeframe, basis, feed)
);

-- What was asked and seen: one row for each event, empty answers too. at_from <= at < at_to is what the answer covers.
-- No foreign keys here and in bars: their row locks would cost more than the rows. Instruments and series are never deleted.
CREATE TABLE observations (
    observed_at timestamptz NOT NULL,
    at_from timestamptz NOT NULL,
    at_to timestamptz NOT NULL,
    fetched_at timestamptz NOT NULL,
    series integer NOT NULL,
    rows integer NOT NULL,
    provider text COLLATE "C" NOT NULL,
    PRIMARY KEY (series, observed_at, at_from, at_to)
);

-- at is the start of the bar. observed_at is that of the event which last changed the row, not of the last that confirmed it.
CREATE TABLE bars (
    at timestamptz NOT NULL,
    open double precision NOT NULL,
    high double precision NOT NULL,
    low double precision NOT NULL,
    close double precision NOT NULL,
    volume double precision,
    adjusted_close double precision,
    observed_at timestamptz NOT NULL,
    instrument integer NOT NULL,
    final boolean NOT NULL,
    timeframe text COLLATE "C" NOT NULL,
    basis text COLLATE "C" NOT NULL,
    feed text COLLATE "C" NOT NULL,
    provider text COLLATE "C" NOT NULL,
    PRIMARY KEY (instrument, timeframe, at, basis, feed),
    -- NaN sorts above infinity, so being below infinity excludes both.
    CHECK (low > '-infinity' AND high < 'infinity' AND low <= open AND low <= close AND open <= high AND close <= high),
    CHECK (volume >= 0 AND volume < 'infinity'),
    CHECK (adjusted_close > '-infinity' AND adjusted_close < 'infinity')
) PARTITION BY LIST (timeframe);

CREATE TABLE bars_1m PARTITION OF bars FOR VALUES IN ('1m') PARTITION BY RANGE (at);
CREATE TABLE bars_5m PARTITION OF bars FOR VALUES IN ('5m') PARTITION BY RANGE (at);
CREATE TABLE bars_15m PARTITION OF bars FOR VALUES IN ('15m');
CREATE TABLE bars_30m PARTITION OF bars FOR VALUES IN ('30m');
CREATE TABLE bars_1h PARTITION OF bars FOR VALUES IN ('1h');
CREATE TABLE bars_1d PARTITION OF bars FOR VALUES IN ('1d');
CREATE TABLE bars_1wk PARTITION OF bars FOR VALUES IN ('1wk');
CREATE TABLE bars_1mo PARTITION OF bars FOR VALUES IN ('1mo');

-- Makes sure that the month (UTC) of 1m or 5m bars has its partition, bars_1m_202401 say.
-- Runs as its owner, so whoever writes bars need not be allowed to create tables.
CREATE FUNCTION ensure_bars_month(timeframe text, month date) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT AS $$
DECLARE
    parent text := 'bars_' || timeframe;
    leaf text := format('bars_%s_%s', timeframe, to_char(month, 'YYYYMM'));
    first_day timestamp := date_trunc('month', month::timestamp);
BEGIN
    IF timeframe NOT IN ('1m', '5m') THEN
        RAISE 'only 1m and 5m bars are kept by month, not %', timeframe;
    END IF;
    PERFORM pg_advisory_xact_lock(hashtext('quotebus bars month'), hashtext(leaf));
    IF to_regclass(leaf) IS NULL THEN
        -- A table made beside and then attached: creating it as a partition would lock out every reader of its parent.
        EXECUTE format('CREATE TABLE %I (LIKE %I INCLUDING ALL)', leaf, parent);
        EXECUTE format(
            'ALTER TABLE %I ATTACH PARTITION %I FOR VALUES FROM (%L) TO (%L)',
            parent, leaf, first_day AT TIME ZONE 'UTC', (first_day + interval '1 month') AT TIME ZONE 'UTC'
        );
    END IF;
END
$$;
REVOKE ALL ON FUNCTION ensure_bars_month(text, date) FROM PUBLIC;

-- The price of now: one row for each feed of an instrument.
CREATE TABLE quotes (
    instrument integer NOT NULL,
    feed text COLLATE "C" NOT NULL,
    provider text COLLATE "C" NOT NULL,
    at timestamptz,
    price double precision CHECK (price > '-infinity' AND price < 'infinity'),
    bid double precision CHECK (bid > '-infinity' AND bid < 'infinity'),
    ask double precision CHECK (ask > '-infinity' AND ask < 'infinity'),
    previous_close double precision CHECK (previous_close > '-infinity' AND previous_close < 'infinity'),
    volume double precision CHECK (volume >= 0 AND volume < 'infinity'),
    observed_at timestamptz NOT NULL,
    fetched_at timestamptz NOT NULL,
    PRIMARY KEY (instrument, feed)
) WITH (fillfactor = 70);

-- ordinal tells apart two of one kind on one day, such as a regular and a special dividend.
CREATE TABLE actions (
    instrument integer NOT NULL,
    date date NOT NULL,
    kind text COLLATE "C" NOT NULL CHECK (kind IN ('split', 'dividend')),
    ordinal smallint NOT NULL,
    feed text COLLATE "C" NOT NULL,
    provider text COLLATE "C" NOT NULL,
    ratio double precision CHECK (ratio > 0 AND ratio < 'infinity'),
    amount double precision CHECK (amount > '-infinity' AND amount < 'infinity'),
    observed_at timestamptz NOT NULL,
    PRIMARY KEY (instrument, date, kind, ordinal, feed)
);

-- The newest chain of an underlying consists of the contracts whose observed_at is the chain's; older rows are contracts that left it.
CREATE TABLE chains (
    instrument integer NOT NULL,
    feed text COLLATE "C" NOT NULL,
    provider text COLLATE "C" NOT NULL,
    observed_at timestamptz NOT NULL,
    fetched_at timestamptz NOT NULL,
    PRIMARY KEY (instrument, feed)
);
CREATE TABLE chain_contracts (
    instrument integer NOT NULL,
    feed text COLLATE "C" NOT NULL,
    contract text COLLATE "C" NOT NULL,
    expiry date NOT NULL,
    strike double precision NOT NULL CHECK (strike >= 0 AND strike < 'infinity'),
    "right" text COLLATE "C" NOT NULL CHECK ("right" IN ('call', 'put')),
    bid double precision CHECK (bid < 'infinity'),
    ask double precision CHECK (ask < 'infinity'),
    last double precision CHECK (last < 'infinity'),
    mark double precision CHECK (mark < 'infinity'),
    volume double precision CHECK (volume >= 0 AND volume < 'infinity'),
    open_interest double precision CHECK (open_interest >= 0 AND open_interest < 'infinity'),
    iv double precision CHECK (iv < 'infinity'),
    delta double precision CHECK (delta < 'infinity'),
    gamma double precision CHECK (gamma < 'infinity'),
    theta double precision CHECK (theta < 'infinity'),
    vega double precision CHECK (vega < 'infinity'),
    at timestamptz,
    observed_at timestamptz NOT NULL,
    PRIMARY KEY (instrument, feed, contract)
) WITH (fillfactor = 70);

-- A final bar that changed after the fact. before and after: open, high, low, close, volume.
CREATE TABLE corrections (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    instrument integer NOT NULL,
    timeframe text COLLATE "C" NOT NULL,
    at timestamptz NOT NULL,
    basis text COLLATE "C" NOT NULL,
    feed text COLLATE "C" NOT NULL,
    provider text COLLATE "C" NOT NULL,
    before double precision[] NOT NULL,
    after double precision[] NOT NULL,
    observed_at timestamptz NOT NULL,
    corrected_at timestamptz NOT NULL DEFAULT now(),
    published_at timestamptz
);
CREATE INDEX corrections_unpublished ON corrections (id) WHERE published_at IS NULL;

-- Rows that failed validation, each as it came.
CREATE TABLE quarantine (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    symbol text COLLATE "C" NOT NULL,
    dataset text COLLATE "C" NOT NULL,
    timeframe text COLLATE "C" NOT NULL,
    provider text COLLATE "C" NOT NULL,
    feed text COLLATE "C" NOT NULL,
    fetched_at timestamptz NOT NULL,
    ordinal integer NOT NULL,
    at timestamptz,
    rule text NOT NULL,
    row text NOT NULL,
    request_id text,
    run_id text,
    quarantined_at timestamptz NOT NULL DEFAULT now(),
    UNIQUE (symbol, dataset, timeframe, provider, feed, fetched_at, ordinal)
);

CREATE TABLE watchlist (
    symbol text COLLATE "C" PRIMARY KEY CHECK (octet_length(symbol) BETWEEN 1 AND 64),
    priority integer NOT NULL DEFAULT 100,
    added_at timestamptz NOT NULL DEFAULT now()
);

-- migrate:down

DROP TABLE watchlist, quarantine, corrections, chain_contracts, chains, actions, quotes;
DROP FUNCTION ensure_bars_month(text, date);
DROP TABLE bars, observations, series, instruments;
