"""Databento's symbols: spelling, kind and data set of each."""

import re

from services.fetcher.provider import ProviderError, Verdict

SHARES, FUTURES, OPTIONS = "EQUS.MINI", "GLBX.MDP3", "OPRA.PILLAR"

_OPTION = re.compile(r"(?:O:)?([A-Z]{1,5}\d?) *(\d{6}[CP]\d{8})")
_PADDED_OPTION = re.compile(r"[A-Z]{1,5}\d? *\d{6}[CP]\d{8}")
_CONTINUOUS = re.compile(r"([A-Z0-9]{1,6})\.([cnv])\.(\d{1,3})", re.IGNORECASE)
_FUTURE = re.compile(r"[A-Z0-9]{1,3}[FGHJKMNQUVXZ]\d{1,2}")  # ESH4: no ticker of a share holds a digit
_ROOT = re.compile(r"[A-Z]{1,5}\d?")
_PARENT = re.compile(r".+\.(FUT|OPT|SPOT)")
_OF_AMERICA = re.compile(r"(DBEQ|EQUS|OPRA|XNAS|XNYS|XASE|XBOS|XPSX|XCHI|XCIS|ARCX|BATS|BATY|EDGA|EDGX|IEXG|MEMX|EPRL|XOTC)\..+")


def to_vendor(symbol: str) -> str:
    """Return the vendor's spelling: an option's root padded to six letters, the rule of a continuous future in small letters."""
    if option := _OPTION.fullmatch(symbol):
        return option[1].ljust(6) + option[2]
    if future := _CONTINUOUS.fullmatch(symbol):
        return f"{future[1]}.{future[2].lower()}.{future[3]}"
    return symbol


def kind_of(spelling: str) -> str:
    """Return the `stype_in` that a spelling is of; one request has one."""
    if _CONTINUOUS.fullmatch(spelling):
        return "continuous"
    return "instrument_id" if spelling.isdecimal() else "raw_symbol"


def dataset_of(spelling: str, preferred: str) -> str:
    """Return the data set to ask: the preferred one if there is one, but no data set of shares has their options."""
    if _PADDED_OPTION.fullmatch(spelling):
        return preferred if preferred.startswith("OPRA.") else OPTIONS
    if preferred:
        return preferred
    return FUTURES if _CONTINUOUS.fullmatch(spelling) or _FUTURE.fullmatch(spelling) else SHARES


def parent_of(symbol: str) -> str:
    """Return the name of all options of an underlying: `BRKB.OPT` of BRK.B.

    Raises:
        ProviderError: bad_request, when it can have none.
    """
    root = symbol.removesuffix(".OPT").replace(".", "")
    if not _ROOT.fullmatch(root):
        problem = f"databento has options of American shares and indices only, under their root, such as SPXW: not of {symbol}"
        raise ProviderError(Verdict.BAD_REQUEST, problem)
    return f"{root}.OPT"


def currency_of(dataset: str) -> str | None:
    """Return the unit of its prices, where all have the same: futures, and Europe's venues, are in many currencies."""
    return "USD" if _OF_AMERICA.fullmatch(dataset) else None


def feed_of(dataset: str) -> str:
    """Return the class of a data set: all trades of its instruments, or those of some venues."""
    if dataset.startswith("IEXG."):
        return "iex"
    return "consolidated" if dataset.startswith(("OPRA.", "GLBX.")) or dataset == "EQUS.SUMMARY" else "venue"


def refuse_many(spelling: str) -> None:
    """Raise bad_request for what names more than one instrument: it is no series, and a bill for thousands."""
    if spelling.upper() == "ALL_SYMBOLS" or "," in spelling or _PARENT.fullmatch(spelling.upper()):
        problem = f"databento: {spelling} names many instruments; ask for one, such as ESH4 or ES.c.0"
        raise ProviderError(Verdict.BAD_REQUEST, problem)
