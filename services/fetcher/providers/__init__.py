"""The providers, each a module or package with a `PROVIDER`; found by being here, unless their name begins with an underscore."""
