"""The exchanges whose sessions can be known: codes of exchange_calendars, most of them ISO 10383's."""

from difflib import get_close_matches

# Left out: what is open round the clock, for which no calendar is needed, and those that exchange_calendars 4.13 cannot make.
_CODES = """
AIXK BVMF CMES IEPA XAMS XASX XBDA XBKK XBOG XBOM XBRA XBRU XBUD XBUE XCBF XCSE XDUB XDUS XEEE XETR XEUR XFRA XHAM XHEL XHKG
XICE XIDX XIST XJSE XKAR XKLS XKRX XLIM XLIS XLIT XLJU XLON XLUX XMAD XMEX XMIL XMOS XNYS XNZE XOSL XPAR XPHS XPRA XRIS XSAU
XSES XSGO XSHG XSTO XSTU XSWX XTAI XTAL XTKS XTSE XWAR XWBO XZAG
"""
CALENDARS = frozenset(_CODES.split())


def check_calendar(code: str) -> None:
    """Return if there is such a calendar.

    Raises:
        ValueError: there is none; the text names the nearest ones.
    """
    if code in CALENDARS:
        return
    near = get_close_matches(code.upper(), sorted(CALENDARS), 3, 0.5)
    hint = f"did you mean {' or '.join(near)}?" if near else "give one such as XNYS (New York), XLON (London), XTKS (Tokyo)"
    raise ValueError(f"calendar: {code!r} is none that is known; {hint}")
