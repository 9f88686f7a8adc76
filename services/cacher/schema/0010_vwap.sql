-- migrate:up

-- The average price of the bar's trades by volume, where the vendor tells it. Not valid: older rows have none.
ALTER TABLE bars ADD COLUMN vwap double precision;
ALTER TABLE bars ADD CONSTRAINT bars_vwap_check CHECK (vwap > '-infinity' AND vwap < 'infinity') NOT VALID;

CREATE OR REPLACE VIEW price_bars AS
SELECT i.symbol, b.timeframe, b.at, b.open, b.high, b.low, b.close, b.volume, b.adjusted_close, s.currency, b.basis, b.feed,
    b.final, b.provider, b.observed_at, b.trade_count, b.vwap
FROM bars b
JOIN instruments i ON i.id = b.instrument
LEFT JOIN series s ON s.instrument = b.instrument AND s.dataset = 'bars' AND s.timeframe = b.timeframe AND s.basis = b.basis
    AND s.feed = b.feed;

-- migrate:down

DROP VIEW price_bars;
CREATE VIEW price_bars AS
SELECT i.symbol, b.timeframe, b.at, b.open, b.high, b.low, b.close, b.volume, b.adjusted_close, s.currency, b.basis, b.feed,
    b.final, b.provider, b.observed_at, b.trade_count
FROM bars b
JOIN instruments i ON i.id = b.instrument
LEFT JOIN series s ON s.instrument = b.instrument AND s.dataset = 'bars' AND s.timeframe = b.timeframe AND s.basis = b.basis
    AND s.feed = b.feed;
DO $$
BEGIN
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'quotebus_reader') THEN
        GRANT SELECT ON price_bars TO quotebus_reader;
    END IF;
END
$$;
ALTER TABLE bars DROP COLUMN vwap;
