"""The job that quotebus replaces, as people write it: a scheduler, a request a symbol, a data frame, an INSERT a row."""

import time

import pandas as pd
import psycopg2
import requests
import schedule

TABLE = """
CREATE TABLE IF NOT EXISTS daily_prices (
    symbol text, date date, open float8, high float8, low float8, close float8, volume float8, PRIMARY KEY (symbol, date))"""
INSERT = """
INSERT INTO daily_prices (symbol, date, open, high, low, close, volume) VALUES (%s, %s, %s, %s, %s, %s, %s)
ON CONFLICT (symbol, date) DO UPDATE SET open = EXCLUDED.open, high = EXCLUDED.high, low = EXCLUDED.low, close = EXCLUDED.close,
    volume = EXCLUDED.volume"""


def usual_job(vendor_url: str, dsn: str, symbols: list[str]) -> float:
    """Seconds the job takes for these symbols."""
    took = 0.0

    def refresh() -> None:
        nonlocal took
        began = time.perf_counter()
        connection = psycopg2.connect(dsn)
        cursor = connection.cursor()
        cursor.execute(TABLE)
        for symbol in symbols:
            answer = requests.get(f"{vendor_url}/v8/finance/chart/{symbol}", params={"interval": "1d", "range": "2y"}, timeout=10)
            result = answer.json()["chart"]["result"][0]
            frame = pd.DataFrame(result["indicators"]["quote"][0])
            frame["date"] = pd.to_datetime(result["timestamp"], unit="s").date
            for _, row in frame.iterrows():
                cursor.execute(INSERT, (symbol, row["date"], row["open"], row["high"], row["low"], row["close"], row["volume"]))
            connection.commit()
        connection.close()
        took = time.perf_counter() - began

    schedule.every().day.at("17:30").do(refresh)
    schedule.run_all()
    schedule.clear()
    return took
