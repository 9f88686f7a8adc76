-- migrate:up

-- What a person holds, trades and follows. A universe is a query over these, or over tables of the person's own: whichever of
-- them exist already stay as they are.

CREATE TABLE IF NOT EXISTS tickers (
    symbol text COLLATE "C" PRIMARY KEY CHECK (octet_length(symbol) BETWEEN 1 AND 64),
    name text,
    is_active boolean NOT NULL DEFAULT true,
    priority integer NOT NULL DEFAULT 100
);

CREATE TABLE IF NOT EXISTS holdings (
    symbol text COLLATE "C" PRIMARY KEY CHECK (octet_length(symbol) BETWEEN 1 AND 64),
    quantity numeric NOT NULL,
    updated_at timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE IF NOT EXISTS transactions (
    id text COLLATE "C" PRIMARY KEY,
    symbol text COLLATE "C" NOT NULL CHECK (octet_length(symbol) BETWEEN 1 AND 64),
    quantity numeric NOT NULL,
    price numeric,
    traded_at timestamptz NOT NULL
);

-- migrate:down

-- They stay: whether they were somebody's before is not known.
