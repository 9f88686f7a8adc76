"""The toolbox of an adapter: `events` builds events, `fields` parses values, `responses` reads HTTP responses."""
